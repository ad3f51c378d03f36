package router

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

const (
	ms  = time.Millisecond
	tmo = 100 * ms // the frame timeout of these tests
)

// TestLinkStateScript follows one link through what can happen to it.
func TestLinkStateScript(t *testing.T) {
	var s linkState
	now := time.Duration(1)
	answer := func(n int, took time.Duration) {
		for range n {
			now += took
			s.answered(sample{work: 2, bytes: 100, took: took, node: took / 2})
		}
	}
	want := func(step string, ok bool) {
		t.Helper()
		if !ok {
			t.Errorf("%s: %+v expects %v, hedges after %v, silent after %v", step, s, s.expected(2),
				s.hedgeAfter(2, tmo), s.silentAfter(0, tmo))
		}
	}
	between := func(d, low, high time.Duration) bool { return d >= low && d <= high }

	want("new: nothing is known", s.expected(2) == 0 && s.hedgeAfter(2, tmo) >= tmo)
	answer(40, ms)
	want("healthy", between(s.expected(2), 9*ms/10, 11*ms/10) &&
		between(s.hedgeAfter(2, tmo), 2*ms, 5*ms) && s.silentAfter(0, tmo) == tmo/4)

	answer(1, 500*ms)
	want("one stall changes little", s.expected(2) < 2*ms && s.hedgeAfter(2, tmo) < 6*ms)
	answer(10, ms)
	s.late()
	want("late: others are preferred", s.suspect)
	answer(1, 3*ms)
	want("until its next answer", !s.suspect)

	want("silence is new", s.silent(now))
	want("silence is known", !s.silent(now+ms) && s.silentSince == now && s.suspect)
	s.heard()
	want("a pong ends silence, not suspicion", s.silentSince == 0 && s.suspect)
	answer(1, ms)
	want("an answer ends both", !s.suspect)

	s.stuck(now)
	s.stuck(now + ms)
	want("a frame is given up", s.suspect && s.hopelessSince() == now)
	s.heard()
	want("a pong is no answer", s.hopelessSince() == now)
	s.silent(now + 2*ms)
	want("and then it is silent, too", s.hopelessSince() == now)
	s.renewed()
	want("a new link is like a new node", !s.suspect && s.hopelessSince() == 0)

	answer(12, 10*ms)
	want("ten times slower is noticed within a dozen frames", between(s.expected(2), 7*ms, 11*ms))
	s.answered(sample{work: 2, took: ms / 10, refused: true})
	want("a quick refusal tells nothing", s.expected(2) > 7*ms)
	s.answered(sample{work: 2, took: 30 * ms, refused: true})
	want("a slow one does", s.expected(2) > 9*ms)

	probes := 0
	for range 3 * probeAfter {
		if s.passedOver() {
			probes++
		}
	}
	want("probed once in so many rounds", probes == 3)
	for range 5 {
		s.answered(sample{work: 2, took: ms, probe: true})
	}
	want("a few probes heal it", s.expected(2) < 2*ms)
}

// TestSilenceAllowsForTheNetwork has slow ways and much that is queued before a ping.
func TestSilenceAllowsForTheNetwork(t *testing.T) {
	var s linkState
	for i := range 50 {
		bytes := 1000 * (1 + i%8)
		way := 4*ms + time.Duration(bytes)*8*time.Microsecond // 1 Mbit/s, 2 ms one way
		s.answered(sample{work: 1, bytes: bytes, took: way + 3*ms, node: 3 * ms})
	}
	if got := s.silentAfter(0, tmo); got < 8*3*ms || got > tmo/2 {
		t.Errorf("silent after %v without a queue", got)
	}
	if got, least := s.silentAfter(100_000, tmo), 800*ms; got < least*9/10 || got > least*3/2 {
		t.Errorf("silent after %v behind 100 kB at 1 Mbit/s, want a little over %v", got, least)
	}
	if got := new(linkState).silentAfter(1<<20, tmo); got < tmo/4+20*ms {
		t.Errorf("a new link is silent after %v behind 1 MiB", got)
	}
}

// TestLineFits draws measurements around lines.
func TestLineFits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 3))
	for range 50 {
		a, b := rng.Float64()*10, rng.Float64()*3
		var l line
		for range 200 {
			x := float64(1 + rng.IntN(40))
			l.add(x, (a+b*x)*(0.98+0.04*rng.Float64()), false)
		}
		for _, x := range []float64{2, 20, 40} {
			if got, want := l.at(x), a+b*x; math.Abs(got-want) > 0.15*want+1 {
				t.Errorf("at(%v) = %v, want about %v", x, got, want)
			}
		}
		if l.slope() < 0 || l.at(0) < 0 {
			t.Errorf("slope %v, at 0 %v: negative", l.slope(), l.at(0))
		}
	}
	var same line
	for range 30 {
		same.add(4, 8, false)
	}
	if got := same.at(4); math.Abs(got-8) > 1e-9 {
		t.Errorf("at(4) = %v, want 8", got)
	}
	if got := same.at(8); got <= 8 || got > 16 {
		t.Errorf("at(8) = %v, want between once and twice as much", got)
	}
}

// TestBudgetBoundsTheFraction spends whenever it can.
func TestBudgetBoundsTheFraction(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 3))
	b, sent, twice := newBudget(), 0, 0
	for range 100_000 {
		rows := 1 + rng.IntN(300)
		sent += rows
		b.earn(rows, 0.05)
		if b.spend(rows) {
			twice += rows
		}
	}
	if limit := sent/20 + budgetRows + 300; twice > limit || twice < limit*8/10 {
		t.Errorf("%d of %d rows sent twice, want about %d and no more", twice, sent, limit)
	}
}
