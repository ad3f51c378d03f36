package sim

import (
	"strings"
	"testing"
	"time"
)

// TestLost loses frames and answers without a trace, while their node answers pings. They
// are asked for again long before anybody gives the node up.
func TestLost(t *testing.T) {
	for name, tc := range map[string]struct {
		replicas int
		local    bool
		faults   []Fault
	}{
		"a frame, one replica":   {1, false, []Fault{{Point: LoseTo, Target: 1, For: time.Second}}},
		"an answer, one replica": {1, false, []Fault{{Point: LoseFrom, Target: 1, For: time.Second}}},
		"an answer, and the other replica refuses": {2, true, []Fault{
			{Point: LoseFrom, Target: 1, For: time.Second, Count: 9},
			{Point: NodeForgets, Target: 0, For: 30 * time.Second},
			{Point: NodeForgets, Target: 2, For: 30 * time.Second}}},
		"the answer to a hedge": {2, false, []Fault{
			{Point: HoleBoth, Target: 0, For: 8 * time.Second},
			{Point: LoseFrom, Target: 1, For: time.Second, Count: 9},
			{Point: LoseFrom, Target: 2, For: time.Second, Count: 9}}},
		"answers, last resort": {1, true, []Fault{
			{Point: LoseFrom, Target: 1, For: time.Second, Count: 9}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := healthy(tc.faults...)
			s.Replicas, s.Local, s.QueueFrames = tc.replicas, tc.local, 0
			o := Run(t, s)
			if len(o.Problems) > 0 || o.Slowest > 4*time.Second ||
				o.Fired[LoseTo]+o.Fired[LoseFrom] == 0 {
				t.Errorf("%q; the slowest request took %v\n%s", o.Problems, o.Slowest,
					strings.Join(o.Log, "\n"))
			}
		})
	}
}
