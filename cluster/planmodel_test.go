package cluster

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// The model of the placement's keys: who plans, the committed plan, the intent, who is in
// quarantine, and of the nodes that operators drain. Unlike the store, it knows the rules of
// the plans (C1 to C3) and that of quarantines: who writes them has read the last.

// planID names the content of a plan's record; the zero planID is no record.
type planID struct {
	revision uint64
	sum      uint32
}

type planState struct {
	planner      string // who is elected; empty: nobody
	plan, intent planID
	quarantine   uint32 // a sum of the record; 0: there is none
	drained      string // the nodes, each with a space before it, ascending
}

// planWrite is a write: what must be so, and what is then so. Nil is anything, or nothing.
type planWrite struct {
	ifPlanner, planner             *string
	ifPlan, ifIntent, plan, intent *planID
	ifQuarantine, quarantine       *uint32
	drain, undrain                 string
	// guarded says that there are conditions beside, as on what nodes write of themselves: the
	// model does not know whether they hold.
	guarded bool
}

type planRead struct{}

// planExpiry is the end of an elected planner's lease.
type planExpiry struct{ planner string }

// Outcomes of a planWrite. That of a planRead is a planState.
type outcome string

const (
	done     outcome = "done"
	conflict outcome = "conflict"
	unknown  outcome = "unknown" // done or not
)

// holds tells whether the conditions of a write do.
func (w planWrite) holds(s planState) bool {
	return (w.ifPlanner == nil || *w.ifPlanner == s.planner) &&
		(w.ifPlan == nil || *w.ifPlan == s.plan) && (w.ifIntent == nil || *w.ifIntent == s.intent) &&
		(w.ifQuarantine == nil || *w.ifQuarantine == s.quarantine)
}

// apply does a write. It is false if the write breaks a rule.
func (w planWrite) apply(s planState) (next planState, ok bool) {
	if w.planner != nil {
		if s.planner != "" {
			return s, false // one planner (C2)
		}
		s.planner = *w.planner
	}
	if (w.plan != nil || w.intent != nil) && (w.ifPlanner == nil || *w.ifPlanner == "") {
		return s, false // only the planner writes plans (C2)
	}
	if (w.plan != nil || w.intent != nil || w.quarantine != nil) && w.ifQuarantine == nil {
		return s, false // a word that was not read is not lost, and no plan overlooks it
	}
	if w.quarantine != nil {
		s.quarantine = *w.quarantine
	}
	if w.drain != "" || w.undrain != "" {
		ids := slices.DeleteFunc(strings.Fields(s.drained), func(id string) bool {
			return id == w.drain || id == w.undrain
		})
		if w.drain != "" {
			ids = append(ids, w.drain)
		}
		s.drained = drainedOf(ids)
	}
	if w.intent != nil {
		if w.intent.revision <= max(s.plan.revision, s.intent.revision) {
			return s, false // a revision is used once (C3)
		}
		s.intent = *w.intent
	}
	if w.plan != nil {
		if *w.plan != s.intent || w.plan.revision <= s.plan.revision {
			return s, false // what is committed was intended (C1)
		}
		s.plan = *w.plan
	}
	return s, true
}

func drainedOf(ids []string) (all string) {
	for _, id := range slices.Sorted(slices.Values(ids)) {
		all += " " + id
	}
	return all
}

// step returns the states after an operation with an outcome.
func (s planState) step(op, out any) (next []planState) {
	switch op := op.(type) {
	case planRead:
		if out == s {
			return []planState{s}
		}
	case planExpiry:
		if op.planner == s.planner {
			s.planner = ""
			return []planState{s}
		}
	case planWrite:
		if out == unknown || out == conflict && (op.guarded || !op.holds(s)) {
			next = append(next, s)
		}
		if out != conflict && op.holds(s) {
			if after, ok := op.apply(s); ok {
				next = append(next, after)
			}
		}
	}
	return next
}

// checkPlans checks a history by the model. It takes a second: the time grows fast with the
// operations that overlap, and few do.
func checkPlans(ops []porcupine.Operation) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(planModel(), ops, 3*time.Minute)
}

func planModel() porcupine.Model {
	return (&porcupine.NondeterministicModel{
		Init: func() []any { return []any{planState{}} },
		Step: func(state, op, out any) (next []any) {
			for _, s := range state.(planState).step(op, out) {
				next = append(next, s)
			}
			return next
		},
	}).ToModel()
}

// TestPlanModel checks short histories of quarantines, one operation after another, by the
// rules of the model.
func TestPlanModel(t *testing.T) {
	none, one, other := uint32(0), uint32(1), uint32(2)
	planner, nobody, intent := "c0", "", planID{revision: 1, sum: 5}
	elect := planWrite{ifPlanner: &nobody, planner: &planner}
	accuse := planWrite{ifQuarantine: &none, quarantine: &one}
	intend := planWrite{ifPlanner: &planner, ifQuarantine: &one, intent: &intent}
	drain := planWrite{drain: "n1"}
	read := func(s planState) porcupine.Operation {
		return porcupine.Operation{Input: planRead{}, Output: s}
	}
	did := func(w planWrite) porcupine.Operation {
		return porcupine.Operation{Input: w, Output: done}
	}
	all := planState{planner: planner, intent: intent, quarantine: one, drained: " n1"}
	lost := all
	lost.quarantine = none
	for name, tc := range map[string]struct {
		want porcupine.CheckResult
		ops  []porcupine.Operation
	}{
		"sound": {porcupine.Ok, []porcupine.Operation{did(elect), did(accuse), did(intend), did(drain),
			read(all), did(planWrite{undrain: "n1"}), did(planWrite{drain: "n1"}), read(all)}},
		"a quarantine is lost": {porcupine.Illegal, []porcupine.Operation{did(elect), did(accuse),
			did(intend), did(drain), read(lost)}},
		"a quarantine overwrites another": {porcupine.Illegal, []porcupine.Operation{did(accuse),
			did(planWrite{ifQuarantine: &none, quarantine: &other})}},
		"a quarantine is written unread": {porcupine.Illegal, []porcupine.Operation{did(elect),
			did(planWrite{quarantine: &other})}},
		"a plan overlooks a quarantine": {porcupine.Illegal, []porcupine.Operation{did(elect),
			did(accuse), did(planWrite{ifPlanner: &planner, ifQuarantine: &none, intent: &intent})}},
		"a plan has not read quarantines": {porcupine.Illegal, []porcupine.Operation{did(elect),
			did(planWrite{ifPlanner: &planner, intent: &intent})}},
		"a drain is lost": {porcupine.Illegal, []porcupine.Operation{did(drain), read(planState{})}},
	} {
		for i := range tc.ops {
			tc.ops[i].Call, tc.ops[i].Return = int64(2*i), int64(2*i+1)
		}
		got := checkPlans(tc.ops)
		if got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
