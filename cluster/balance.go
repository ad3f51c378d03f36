package cluster

import (
	"context"
	"slices"
	"time"

	"drover/placement"
)

// balance is what the elected planner knows of the load, and when it may act on it. Only
// Planner.run touches it.
type balance struct {
	began, looked time.Time // of being elected; of the last look at the load
	measured      Measured
	asked         int64 // ModRevision of the last wish for a look
	wish          bool  // a look is wished for
	pace          placement.Pace
	goesOn        bool // the last change for balance has more moves to make
	kept          bool // reported that the plan stays
}

// measure reads the load when it is time to look at it, or somebody wishes so. A store
// that does not answer leaves what was known.
func (p *Planner) measure(ctx context.Context, now time.Time) {
	b := &p.balance
	wish := p.watcher.entry(p.watcher.opts.Scope.rebalance()).ModRevision
	if b.began.IsZero() {
		b.began, b.asked = now, wish
	}
	b.wish = b.wish || wish > b.asked
	b.asked = wish
	if !b.looked.IsZero() && !b.wish && now.Sub(b.looked) < p.opts.RebalanceEvery {
		return
	}
	measured, err := readMeasured(ctx, p.store, p.watcher.opts.Scope, len(p.opts.Layers),
		p.opts.Experts)
	if err == nil {
		b.measured = measured
	}
	b.looked = now
}

// round numbers the looks at the load.
func (p *Planner) round(now time.Time) int {
	return int(now.Sub(p.balance.began) / p.opts.RebalanceEvery)
}

// nextLook is when to look at the load again.
func (p *Planner) nextLook(now time.Time) time.Duration {
	return max(p.balance.looked.Add(p.opts.RebalanceEvery).Sub(now), time.Millisecond)
}

// next decides the plan that should follow the committed one: first for what nodes, room
// and domains require, then, as often as the pace allows, for the load.
func (p *Planner) next(s *state, nodes []placement.Node, now time.Time) (*placement.Plan,
	placement.Explanation, error) {
	b := &p.balance
	in := placement.Input{
		Current: s.plan, Layers: p.opts.Layers, Experts: p.opts.Experts,
		ReplicaBytes: p.opts.ReplicaBytes, Nodes: p.withSpeeds(nodes),
		Load: b.measured.Load, HoldLoad: true, Replicas: p.opts.Replicas,
		Spare: p.opts.Spare, MaxReplicas: p.opts.MaxReplicas, Tolerance: p.opts.Tolerance,
		MinGain: p.opts.MinGain, MaxMoveBytes: p.opts.MaxMoveBytes,
	}
	plan, why, err := placement.Next(in)
	if err != nil || plan != s.plan || !b.wish && !b.goesOn && !b.pace.Due(p.round(now)) {
		return plan, why, err
	}
	in.HoldLoad = false
	plan, why, err = placement.Next(in)
	b.wish, b.goesOn = false, err == nil && plan != s.plan && why.Deferred
	switch {
	case err != nil:
	case plan != s.plan:
		b.pace.Changed(p.round(now), why.Deferred)
		b.kept = false
	case why.Missed == 0:
		b.kept = false
	case !b.kept:
		b.kept = true
		call1(p.opts.Events.Kept, why)
	}
	return plan, why, err
}

// withSpeeds returns the nodes with their measured speeds. What was not measured counts as
// the middle.
func (p *Planner) withSpeeds(nodes []placement.Node) []placement.Node {
	speeds := p.balance.measured.speeds()
	nodes = slices.Clone(nodes)
	for i, n := range nodes {
		if v, ok := speeds[n.ID]; ok {
			nodes[i].Speed = v
		}
	}
	return nodes
}
