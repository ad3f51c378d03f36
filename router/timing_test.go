package router

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestTimingFindsThe99thPercentile feeds a skewed distribution.
func TestTimingFindsThe99thPercentile(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var tm timing
	var all []time.Duration
	for range 20000 {
		d := time.Duration((1 + rng.ExpFloat64()) * float64(time.Millisecond))
		tm.add(4, d)
		all = append(all, d)
	}
	slices.Sort(all)
	want := all[len(all)*99/100]
	if got := tm.buckets[3].p99; got < want*7/10 || got > want*14/10 {
		t.Errorf("p99 = %v, want about %v", got, want)
	}
}

func TestHedgeAfter(t *testing.T) {
	var tm timing
	const timeout = 80 * time.Millisecond
	for i := range minSamples {
		if got, want := tm.hedgeAfter(1, timeout), 90*time.Millisecond; got != want {
			t.Errorf("after %d measurements: %v, want %v", i, got, want)
		}
		tm.add(1, 10*time.Microsecond)
	}
	if got := tm.hedgeAfter(1, timeout); got != minHedge {
		t.Errorf("a fast link is hedged after %v, want %v", got, minHedge)
	}
	if got, want := tm.hedgeAfter(80, timeout), 880*time.Millisecond; got != want {
		t.Errorf("other frames are hedged after %v, want %v", got, want)
	}
	tm.add(1, time.Hour) // one stall moves the estimate by a tenth
	if got := tm.buckets[1].p99; got > 12*time.Microsecond {
		t.Errorf("p99 after one stall = %v", got)
	}
}

func TestBucket(t *testing.T) {
	for _, tc := range []struct{ experts, rows, want int }{
		{1, 1, 1}, {1, 8, 2}, {64, 64, 7}, {1, 256, 6}, {1000, 1 << 20, 11},
	} {
		if got := bucket(work(tc.experts, tc.rows)); got != tc.want {
			t.Errorf("bucket of %d experts, %d rows = %d, want %d", tc.experts, tc.rows, got, tc.want)
		}
	}
}
