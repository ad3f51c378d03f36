package coordinator

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestStopper(t *testing.T) {
	for name, tc := range map[string]struct {
		stops  []string
		pieces []string
		want   string // all that was let through
		stop   string
	}{
		"none":                  {nil, []string{"ab", "c"}, "abc", ""},
		"within a piece":        {[]string{"b"}, []string{"abc"}, "a", "b"},
		"across pieces":         {[]string{"STOP"}, []string{"x S", "T", "OP y"}, "x ", "STOP"},
		"false start":           {[]string{"aab"}, []string{"a", "a", "a", "c"}, "aaac", ""},
		"overlapping start":     {[]string{"aab"}, []string{"a", "a", "a", "b"}, "a", "aab"},
		"complete first":        {[]string{"abc", "b"}, []string{"abc"}, "a", "b"},
		"same end, the longest": {[]string{"c", "abc"}, []string{"xabc"}, "x", "abc"},
		"inside a character":    {[]string{"é!"}, []string{"aé", "?"}, "aé?", ""},
		"at the beginning":      {[]string{"ab"}, []string{"", "a", "bz"}, "", "ab"},
	} {
		t.Run(name, func(t *testing.T) {
			got, stop := runStopper(tc.stops, tc.pieces)
			if got != tc.want || stop != tc.stop {
				t.Errorf("got %q, %q; want %q, %q", got, stop, tc.want, tc.stop)
			}
		})
	}
}

func runStopper(stops, pieces []string) (text, stop string) {
	s := stopper{stops: stops}
	for _, piece := range pieces {
		out, stop := s.push(piece)
		text += string(out)
		if stop != "" {
			return text, stop
		}
	}
	return text + string(s.flush()), ""
}

// TestStopperIgnoresPieces checks that how the text is cut does not show, that a stop
// string never does, and that no more is held back than need be.
func TestStopperIgnoresPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ab]{0,30}`).Draw(t, "text")
		stops := rapid.SliceOfN(rapid.StringMatching(`[ab]{1,5}`), 1, 4).Draw(t, "stops")
		want, wantStop := runStopper(stops, strings.Split(text, ""))
		var pieces []string
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		got, stop := runStopper(stops, pieces)
		if got != want || stop != wantStop {
			t.Fatalf("got %q, %q; want %q, %q", got, stop, want, wantStop)
		}
		if stop != "" && !strings.HasPrefix(text, got+stop) {
			t.Fatalf("%q and %q do not begin %q", got, stop, text)
		}
		for _, s := range stops {
			if strings.Contains(got, s) {
				t.Fatalf("%q holds %q", got, s)
			}
		}
		longest := 0
		for _, s := range stops {
			longest = max(longest, len(s))
		}
		s := stopper{stops: stops}
		if s.push(got); len(s.held) >= longest {
			t.Fatalf("%q is held back", s.held)
		}
	})
}
