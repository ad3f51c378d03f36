package client

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestSilenceByGaps lets a coordinator fall silent after some tokens: how long that goes
// unnoticed follows from the gaps between those, and from how long the way is.
func TestSilenceByGaps(t *testing.T) {
	const ms = time.Millisecond
	for name, tc := range map[string]struct {
		gap, way time.Duration
		tokens   int
		// From the last token to the first one elsewhere: what silence is long, the check, and
		// a gap there.
		least, most time.Duration
	}{
		"little is known":  {gap: ms, tokens: paceFrom, least: 2 * time.Second, most: 2100 * ms},
		"short gaps":       {gap: ms, tokens: 100, least: 200 * ms, most: 210 * ms},
		"gaps":             {gap: 20 * ms, tokens: 100, least: 320 * ms, most: 380 * ms},
		"gaps, a long way": {gap: 20 * ms, way: 60 * ms, tokens: 100, least: 640 * ms, most: 690 * ms},
		"very long gaps":   {gap: 500 * ms, tokens: 100, least: 2 * time.Second, most: 2600 * ms},
		"a very long way":  {gap: ms, way: 500 * ms, tokens: 100, least: 1100 * ms, most: 1200 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newFakeNode("a"), newFakeNode("b")
				for _, f := range []*fake{a, b} {
					f.gap, f.way = tc.gap, tc.way
				}
				b.healthy = servesNot // so that a is chosen
				c := pool(t, Options{}, a, b)
				time.Sleep(time.Second) // ways are measured
				s := c.Generate(t.Context(), ask(tc.tokens+5))
				var fell, on time.Time
				err := read(t, s, func(n int) {
					switch n {
					case tc.tokens:
						b.change(func() { b.healthy = serves })
						a.change(func() { a.silent = true })
						fell = time.Now()
					case tc.tokens + 1:
						on = time.Now()
					}
				})
				took := on.Sub(fell)
				if err != nil || s.Resumes() != 1 || took < tc.least || took > tc.most {
					t.Errorf("%v, resumed %d times, noticed after %v, want %v to %v", err, s.Resumes(),
						took, tc.least, tc.most)
				}
			})
		})
	}
}

// TestSlowTokens has gaps that grow a hundred times at once: nobody loses a stream of a
// coordinator that says that it is well, which is asked a few times only.
func TestSlowTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFakeNode("a"), newFakeNode("b")
		b.healthy = servesNot
		c := pool(t, Options{}, a, b)
		synctest.Wait()
		s := c.Generate(t.Context(), ask(100))
		err := read(t, s, func(n int) {
			if n == 50 {
				a.change(func() { a.gap = 100 * leastStall })
			}
		})
		if err != nil || s.Resumes() != 0 {
			t.Errorf("%v, resumed %d times", err, s.Resumes())
		}
	})
}

// TestPace estimates what gaps are usual.
func TestPace(t *testing.T) {
	var p pace
	const most = time.Second
	for i := range 3 * paceFrom {
		want := most
		if i >= paceFrom {
			want = stallGaps * 30 * time.Millisecond
		}
		if got := p.stall(most); got > want*11/10 || got < want*9/10 {
			t.Fatalf("after %d gaps of 30 ms: %v, want about %v", i, got, want)
		}
		p.add(30 * time.Millisecond)
	}
	for range 100 {
		p.add(time.Minute)
	}
	if got := p.stall(most); got != most {
		t.Errorf("after long gaps: %v, want %v", got, most)
	}
	for range 20000 {
		p.add(time.Microsecond)
	}
	if got := p.stall(most); got != leastStall {
		t.Errorf("after short gaps: %v, want %v", got, leastStall)
	}
	if got := p.stall(time.Millisecond); got != time.Millisecond {
		t.Errorf("with another bound: %v", got)
	}
}
