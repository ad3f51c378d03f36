package coordinator

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestHidingMicroBatches(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		oneWay, busy time.Duration
		want         int
	}{
		{0, 0, 1}, {5 * ms, 0, 1}, {0, ms, 2}, {ms / 100, ms, 3}, {ms / 2, ms, 3},
		{ms / 2 * 11 / 10, ms, 4}, {ms, ms, 4}, {100 * ms, ms, 4}, {time.Hour, 1, 4},
	} {
		if got := HidingMicroBatches(tc.oneWay, tc.busy); got != tc.want {
			t.Errorf("one way %v, busy %v: %d, want %d", tc.oneWay, tc.busy, got, tc.want)
		}
	}
}

// stepOf is a model of a step: weights are read once for each micro-batch, rows take
// time each, and what the others compute hides a micro-batch's trip.
func stepOf(tokens, m int, network time.Duration) time.Duration {
	each := 200*time.Microsecond + time.Duration(tokens/m)*20*time.Microsecond
	return time.Duration(m)*each + max(0, network-time.Duration(m-1)*each)
}

// TestOverlapFindsTheFastest runs noisy steps over networks and sizes, and checks that
// the fastest number is used nearly always, and again after the network has changed.
func TestOverlapFindsTheFastest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, tokens := range []int{1, 2, 8, 32, 200, 512} {
		o := overlap{most: MaxMicroBatches}
		for _, network := range []time.Duration{0, 2 * time.Millisecond, 10 * time.Millisecond, 0} {
			fastest := time.Duration(1 << 62)
			for m := 1; m <= min(tokens, MaxMicroBatches); m++ {
				fastest = min(fastest, stepOf(tokens, m, network))
			}
			var took, least time.Duration
			for step := range 4000 {
				m := o.choose(tokens, 3)
				d := stepOf(tokens, m, network)
				if step >= 2000 {
					took, least = took+d, least+fastest
				}
				o.observe(tokens, m, time.Duration(float64(d)*(0.98+0.04*rng.Float64())))
			}
			if ratio := float64(took) / float64(least); ratio > 1.06 {
				t.Errorf("%d tokens, network %v: steps take %.3f of the fastest", tokens, network,
					ratio)
			}
		}
	}
}

// TestOverlapBounds checks that there are never more micro-batches than tokens or than
// are allowed, and that the formula's number comes first.
func TestOverlapBounds(t *testing.T) {
	for most := 1; most <= MaxMicroBatches; most++ {
		o := overlap{most: most}
		for tokens := 1; tokens < 5000; tokens += 1 + tokens/7 {
			first := o.choose(tokens, 3)
			if want := min(3, most, tokens); first != want {
				t.Errorf("most %d, %d tokens: first %d, want %d", most, tokens, first, want)
			}
			for range 300 {
				m := o.choose(tokens, 3)
				if m < 1 || m > min(most, tokens) {
					t.Fatalf("most %d, %d tokens: %d micro-batches", most, tokens, m)
				}
				o.observe(tokens, m, time.Millisecond)
			}
		}
	}
}

// TestOverlapSurvivesAStall checks that one step that took very long does not rule out
// its number.
func TestOverlapSurvivesAStall(t *testing.T) {
	o := overlap{most: 2}
	const tokens = 8
	for step := range 400 {
		m := o.choose(tokens, 2)
		took := time.Duration(3-m) * time.Millisecond
		if step == 20 {
			took = time.Hour
		}
		o.observe(tokens, m, took)
	}
	if m := o.choose(tokens, 2); m != 2 {
		t.Errorf("%d micro-batches, want 2", m)
	}
}
