package role

import (
	"testing"
	"time"
)

func TestRarely(t *testing.T) {
	var r rarely
	start := time.Unix(1000, 0)
	for _, step := range []struct {
		at    time.Duration
		n     int
		total int
		say   bool
	}{
		{0, 3, 3, true},
		{time.Second, 2, 0, false},
		{sayEvery - 1, 1, 0, false},
		{sayEvery, 4, 7, true},
		{sayEvery + 1, 1, 0, false},
		{time.Hour, 1, 2, true},
	} {
		total, say := r.add(step.n, start.Add(step.at))
		if total != step.total || say != step.say {
			t.Errorf("after %v: %d, %v, want %d, %v", step.at, total, say, step.total, step.say)
		}
	}
}
