package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"drover/placement"
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

// TestSteady has plans go to and fro, or change all the time.
func TestSteady(t *testing.T) {
	plan := func(revision uint64, node string) *placement.Plan {
		return &placement.Plan{Revision: revision, Layers: []int{1}, Experts: 1,
			NodeIDs: []string{node}, Replicas: [][][]uint16{{{0}}}}
	}
	for name, tc := range map[string]struct {
		node func(i int) string
		good int // changes without a problem, with one fault
	}{
		"to and fro":   {func(i int) string { return fmt.Sprint(i % 2) }, 6},
		"always other": {func(i int) string { return fmt.Sprint(i) }, 7},
	} {
		w := &world{scenario: Scenario{Faults: make([]Fault, 1)}}
		o := observer{world: w}
		for i := range tc.good + 1 {
			if len(w.problems) > 0 {
				t.Errorf("%s: %q after %d changes", name, w.problems, i)
			}
			o.steady(plan(uint64(2*i+1), tc.node(i)))
			o.steady(plan(uint64(2*i+2), tc.node(i))) // the same again is no change
		}
		if len(w.problems) == 0 {
			t.Errorf("%s: no problem after %d changes", name, tc.good+1)
		}
	}
}
