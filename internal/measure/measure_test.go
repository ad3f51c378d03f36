package measure

import (
	"math"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	h := New(1, 2, 4)
	for _, v := range []float64{0, 1, 1.5, 2, 3, 4, 5, 100} {
		h.Observe(v)
	}
	c := h.Counts()
	if !slices.Equal(c.UpTo, []uint64{2, 4, 6}) || c.Count != 8 || c.Sum != 116.5 {
		t.Errorf("counted %+v", c)
	}
	if math.IsNaN(c.Sum) || !slices.Equal(c.Bounds, []float64{1, 2, 4}) {
		t.Errorf("bounds %v", c.Bounds)
	}
	h = New(0.001)
	h.ObserveTime(-time.Second)
	h.ObserveTime(2 * time.Millisecond)
	if c := h.Counts(); c.UpTo[0] != 1 || c.Count != 2 || c.Sum != 0.002 {
		t.Errorf("times: %+v", c)
	}
}

// TestHistogramConcurrent counts from several goroutines: nothing is lost, and whoever
// reads meanwhile sees counts that only grow.
func TestHistogramConcurrent(t *testing.T) {
	const each, goroutines = 10000, 4
	h := New(Powers(1, 2, 8)...)
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := range each {
				h.Observe(float64(i % 300))
			}
		})
	}
	last := h.Counts()
	for last.Count < each*goroutines {
		now := h.Counts()
		for i, n := range now.UpTo {
			if n > now.Count || i > 0 && n < now.UpTo[i-1] || n < last.UpTo[i] {
				t.Fatalf("after %+v: %+v", last, now)
			}
		}
		last = now
	}
	wg.Wait()
	sum := 0.
	for i := range each {
		sum += float64(i % 300)
	}
	if got := h.Counts(); got.Count != each*goroutines || got.Sum != goroutines*sum {
		t.Errorf("counted %d with sum %v, want %d with %v", got.Count, got.Sum, each*goroutines,
			goroutines*sum)
	}
}

func TestPowers(t *testing.T) {
	if got := Powers(0.5, 2, 4); !slices.Equal(got, []float64{0.5, 1, 2, 4}) {
		t.Error(got)
	}
	defer func() {
		if recover() == nil {
			t.Error("bounds that do not ascend were taken")
		}
	}()
	New(1, 1)
}

func BenchmarkObserve(b *testing.B) {
	h := New(Powers(0.0005, 2, 16)...)
	b.ReportAllocs()
	for b.Loop() {
		h.Observe(0.01)
	}
}
