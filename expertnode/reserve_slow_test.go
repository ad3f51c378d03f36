package expertnode_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drover/expertnode"
	"drover/kernel"
	"drover/moe"
)

// slowSource loads each expert for a while, or until the loading's context ends.
type slowSource struct {
	source
	takes         time.Duration
	ended         atomic.Int64 // loads whose context ended
	running, most atomic.Int64 // loads now, and the most at the same time
}

func (s *slowSource) LoadContext(ctx context.Context, layer, expert int) (*moe.Expert, error) {
	defer s.running.Add(-1)
	if n := s.running.Add(1); n > s.most.Load() {
		s.most.Store(n)
	}
	select {
	case <-time.After(s.takes):
		return s.Load(layer, expert)
	case <-ctx.Done():
		s.ended.Add(1)
		return nil, context.Cause(ctx)
	}
}

func newSlowReserve(src *slowSource) *expertnode.Reserve {
	return expertnode.NewReserve(src, kernel.BF16, kernel.NewCPU(nil), 1<<20)
}

// TestReserveLoadingGoesOn ends calls before their expert is loaded: the next call finds it,
// and what is loaded at the same time stays bounded.
func TestReserveLoadingGoesOn(t *testing.T) {
	host := fullHost(t)
	synctest.Test(t, func(t *testing.T) {
		src := &slowSource{source: source{spec: testSpec}, takes: 50 * time.Second}
		r := newSlowReserve(src)
		defer r.Close()
		began, errs := time.Now(), make([]error, 1)
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			r.ComputeBatch(ctx, batch(5), errs)
			cancel()
			if !errors.Is(errs[0], context.DeadlineExceeded) {
				t.Fatalf("ComputeBatch = %v, want its deadline", errs[0])
			}
		}
		mustReserve(t, r, host, batch(5))
		if took, n := time.Since(began), src.loads.Load(); took != 50*time.Second || n != 1 {
			t.Errorf("loaded %d times in %v, want once in 50 s", n, took)
		}
		for layer := range 2 { // more than may be loaded at the same time
			for expert := range int32(8) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				b := batch(expert)
				b.Layer = []int{1, 3}[layer]
				r.ComputeBatch(ctx, b, errs)
				cancel()
			}
		}
		if n := src.most.Load(); n != 8 {
			t.Errorf("%d experts were loaded at the same time, want 8", n)
		}
		time.Sleep(2 * time.Minute)
		mustReserve(t, r, host, batch(0, 1, 2, 3, 4, 5, 6, 7))
		if n := src.running.Load(); n != 0 {
			t.Errorf("%d loads go on", n)
		}
	})
}

// TestReserveClose ends what is being loaded, and later calls.
func TestReserveClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &slowSource{source: source{spec: testSpec}, takes: time.Hour}
		r, errs := newSlowReserve(src), make([]error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		r.ComputeBatch(ctx, batch(1), errs)
		cancel()
		r.Close()
		if n := src.ended.Load(); n != 1 || src.running.Load() != 0 {
			t.Errorf("after Close %d loads have ended, %d go on", n, src.running.Load())
		}
		if r.ComputeBatch(t.Context(), batch(1), errs); !errors.Is(errs[0], context.Canceled) {
			t.Errorf("ComputeBatch after Close = %v, want an error", errs[0])
		}
	})
}

// TestReserveSurvivesPanics has the source panic: an error for who asks.
func TestReserveSurvivesPanics(t *testing.T) {
	src := &source{spec: testSpec, fail: func(int, int) error { panic("a bug") }}
	r, errs := newReserve(src, 2), make([]error, 1)
	defer r.Close()
	if r.ComputeBatch(context.Background(), batch(1), errs); errs[0] == nil ||
		!strings.Contains(errs[0].Error(), "a bug") {
		t.Errorf("ComputeBatch = %v, want the panic as an error", errs[0])
	}
}
