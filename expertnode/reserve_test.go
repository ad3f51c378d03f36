package expertnode_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"drover/expertnode"
	"drover/kernel"
	"drover/moe"
	"drover/tensor"
)

func newReserve(src *source, experts int) *expertnode.Reserve {
	return expertnode.NewReserve(src, kernel.BF16, kernel.NewCPU(nil),
		int64(experts)*testSpec.ReplicaBytes)
}

// mustReserve computes a batch and compares it with a Host that holds everything.
func mustReserve(t *testing.T, r *expertnode.Reserve, host *expertnode.Host, b *moe.Batch) {
	t.Helper()
	want := *b
	want.Y = tensor.MakeRows(b.Y.N, b.Y.Dim)
	if err := host.Forward(context.Background(), &want, nil); err != nil {
		t.Error(err)
		return
	}
	errs := make([]error, len(b.Experts))
	r.ComputeBatch(context.Background(), b, errs)
	if err := errors.Join(errs...); err != nil {
		t.Errorf("ComputeBatch: %v", err)
	}
	if !slices.Equal(b.Y.Data, want.Y.Data) {
		t.Errorf("experts %v: the rows differ from the Host's", b.Experts)
	}
}

func fullHost(t *testing.T) *expertnode.Host {
	t.Helper()
	h := expertnode.NewHost(&source{spec: testSpec}, kernel.BF16, expertnode.HostOptions{})
	if err := h.LoadAll(context.Background()); err != nil {
		t.Fatal(err)
	}
	return h
}

// TestReserveComputesAsAHost asks for more experts at once than there is room for.
func TestReserveComputesAsAHost(t *testing.T) {
	host := fullHost(t)
	for room := 1; room <= 8; room++ {
		src := &source{spec: testSpec}
		r := newReserve(src, room)
		mustReserve(t, r, host, batch(0, 1, 2, 3, 4, 5, 6, 7))
		mustReserve(t, r, host, batch(2, 5))
		if got, bound := r.Stats().HeldBytes, int64(room)*testSpec.ReplicaBytes; got > bound {
			t.Errorf("%d bytes held, the bound is %d", got, bound)
		}
		if room == 8 && src.loads.Load() != 8 {
			t.Errorf("%d loads with room for all, want 8", src.loads.Load())
		}
	}
}

// TestReserveForgetsTheOldest has room for two experts.
func TestReserveForgetsTheOldest(t *testing.T) {
	host, src := fullHost(t), &source{spec: testSpec}
	r := newReserve(src, 2)
	for _, step := range []struct {
		expert int32
		loads  int64
	}{{0, 1}, {1, 2}, {0, 2}, {2, 3}, {0, 3}, {1, 4}, {0, 4}, {2, 5}} {
		mustReserve(t, r, host, batch(step.expert))
		if got := src.loads.Load(); got != step.loads {
			t.Errorf("%d loads after expert %d, want %d", got, step.expert, step.loads)
		}
	}
	if got := r.Stats(); got.Loads != 5 || got.Forgotten != 3 {
		t.Errorf("stats = %+v, want 5 loads and 3 forgotten", got)
	}
}

// TestReserveErrors lists what an expert may not be computed for; the others are.
func TestReserveErrors(t *testing.T) {
	host, src := fullHost(t), &source{spec: testSpec}
	broken := errors.New("the disk is broken")
	var repaired atomic.Bool
	src.fail = func(_, expert int) error {
		if expert == 4 && !repaired.Load() {
			return broken
		}
		return nil
	}
	r := newReserve(src, 3)
	b, errs := batch(1, 4, 6), make([]error, 3)
	r.ComputeBatch(context.Background(), b, errs)
	if errs[0] != nil || errs[2] != nil || !errors.Is(errs[1], broken) ||
		!strings.Contains(errs[1].Error(), "layer 1 expert 4") {
		t.Errorf("errors = %v, want one, for layer 1 expert 4", errs)
	}
	want := batch(1, 4, 6)
	if err := host.Forward(context.Background(), want, nil); err != nil {
		t.Fatal(err)
	}
	for _, row := range []int{0, 4} {
		if !slices.Equal(b.Y.Slice(row, row+2).Data, want.Y.Slice(row, row+2).Data) {
			t.Errorf("rows from %d on, beside a broken expert, differ", row)
		}
	}
	repaired.Store(true)
	mustReserve(t, r, host, batch(4))

	ctx, cancel := context.WithCancelCause(context.Background())
	left := errors.New("the client left")
	cancel(left)
	newReserve(src, 3).ComputeBatch(ctx, batch(1), errs[:1])
	if !errors.Is(errs[0], left) {
		t.Errorf("with an ended context: %v, want %v", errs[0], left)
	}
	newReserve(src, 0).ComputeBatch(context.Background(), batch(1), errs[:1])
	if errs[0] == nil || !strings.Contains(errs[0].Error(), "larger than the memory") {
		t.Errorf("without room: %v", errs[0])
	}
}

// TestReserveIsShared computes from several goroutines with room for half of what they
// need: none waits for ever, and the bytes are right.
func TestReserveIsShared(t *testing.T) {
	host := fullHost(t)
	r := newReserve(&source{spec: testSpec}, 4)
	var running sync.WaitGroup
	for lane := range uint64(4) {
		running.Go(func() {
			rng := rand.New(rand.NewPCG(lane, 4))
			for range 30 {
				var experts []int32
				for e := range int32(8) {
					if rng.IntN(2) == 0 {
						experts = append(experts, e)
					}
				}
				if len(experts) > 0 {
					mustReserve(t, r, host, batch(experts...))
				}
			}
		})
	}
	running.Wait()
}
