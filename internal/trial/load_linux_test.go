package trial

import (
	"testing"
	"time"
)

// TestITL cuts windows out of gaps: each gap counts where it ends.
func TestITL(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	a := &asking{began: at(0)}
	for _, ms := range [][2]time.Duration{{0, 10}, {10, 30}, {95, 105}, {105, 250}} {
		a.gaps.add(gap{ms[0] * time.Millisecond, ms[1] * time.Millisecond})
	}
	for name, tc := range map[string]struct {
		in   []window
		want ITL
	}{
		"one":             {[]window{{at(0), at(100)}}, ITL{2, 10, 10, 20}},
		"begun before it": {[]window{{at(100), at(200)}}, ITL{1, 10, 10, 10}},
		"two":             {[]window{{at(0), at(20)}, {at(200), at(300)}}, ITL{2, 10, 10, 145}},
		"none":            {[]window{{at(300), at(400)}}, ITL{}},
	} {
		if got := a.itl(tc.in...); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

// TestGapsInPieces keeps all gaps of more than one piece, and no more than maxGaps.
func TestGapsInPieces(t *testing.T) {
	a := &asking{}
	for i := range time.Duration(2*pieceGaps + 1) {
		a.gaps.add(gap{i, i + 1})
	}
	whole := window{time.Time{}, time.Time{}.Add(time.Hour)}
	if n := a.itl(whole).Count; n != 2*pieceGaps+1 {
		t.Errorf("%d gaps are kept, want %d", n, 2*pieceGaps+1)
	}
	a.gaps.n = maxGaps
	a.gaps.add(gap{0, 1})
	if n := a.itl(whole).Count; n != 2*pieceGaps+1 {
		t.Errorf("%d gaps are kept behind the bound", n)
	}
}

func TestSpread(t *testing.T) {
	if got, want := spread([]float64{4, 1, 2, 9}), (Spread{3, 1, 9}); got != want {
		t.Errorf("%v, want %v", got, want)
	}
	if got := spread(nil); got != (Spread{}) {
		t.Errorf("%v of nothing", got)
	}
}

// TestJudge fails what must fail: no answer at all, failed and differing ones, but no time.
func TestJudge(t *testing.T) {
	for name, tc := range map[string]struct {
		o    Outcome
		want int
	}{
		"nothing":   {Outcome{}, 1},
		"good":      {Outcome{Requests: 9}, 0},
		"both bad":  {Outcome{Requests: 9, Failed: 1, Differing: 2}, 2},
		"differing": {Outcome{Requests: 9, Differing: 1}, 1},
	} {
		if got := tc.o.judge().Violations; len(got) != tc.want {
			t.Errorf("%s: violations %q, want %d", name, got, tc.want)
		}
	}
}
