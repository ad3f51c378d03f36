package sim

import (
	"strings"
	"testing"
	"time"
)

// TestRules breaks each rule of S1 on purpose and wants the problem to be found.
func TestRules(t *testing.T) {
	gone := func(s *Scenario) { s.Local, s.Replicas = false, 1 }
	for name, tc := range map[string]struct {
		faults []Fault
		edit   func(*Scenario)
		breaks func(*world)
		want   string
	}{
		"wrong numbers": {
			faults: []Fault{{Point: NodeWrong, For: time.Second}}, want: "answers ["},
		"nobody computes": {
			faults: []Fault{hold(0), hold(1), hold(2)}, edit: gone, want: "no live replica"},
		"a planner without fences": {
			faults: []Fault{{Point: NodeJoins, For: time.Second},
				{Point: PlannerPaused, At: 150 * time.Millisecond, For: 4 * time.Second}},
			breaks: func(w *world) { w.store.unfenced = true }, want: "elected is"},
		"a node that says it has loaded": {
			faults: []Fault{{Point: NodeJoins, For: time.Second}},
			breaks: func(w *world) { w.lazy = true }, want: "and does not hold"},
		"a coordinator that says it is ready": {
			faults: []Fault{hold(0), hold(1), hold(2)}, edit: gone,
			breaks: func(w *world) { w.boasts = true }, want: "says ready: true"},
		"a goroutine that stays": {
			breaks: func(w *world) { go func() { select {} }() }, want: "blocked goroutines remain"},
		"nodes without room": {
			breaks: func(w *world) { w.scenario.Room = []int{allOfThem, 0, 0} }, want: "does not start"},
	} {
		t.Run(name, func(t *testing.T) {
			s := healthy(tc.faults...)
			if tc.edit != nil {
				tc.edit(&s)
			}
			o := run(t, s, tc.breaks)
			if all := strings.Join(o.Problems, "\n"); !strings.Contains(all, tc.want) {
				t.Errorf("problems are %q, want one with %q\n%s", all, tc.want,
					strings.Join(o.Log, "\n"))
			}
		})
	}
}

// hold keeps a node out of reach for longer than anybody waits.
func hold(target int) Fault { return Fault{Point: HoleBoth, Target: target, For: 40 * time.Second} }
