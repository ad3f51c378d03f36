package cluster

import (
	"context"
	"slices"
	"strings"
	"time"

	"drover/placement"
)

// holders says which nodes hold the replicas of a target by the committed plan. It reads
// the store once; if that is away, nobody is known.
func (m *Member) holders(ctx context.Context, t target) map[placement.Replica][]placement.Node {
	plan := t.committed
	if plan == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	nodes := m.readyNodes(ctx, plan.Revision)
	where := make(map[placement.Replica][]placement.Node, len(t.replicas))
	for _, r := range t.replicas {
		for _, i := range plan.On(r.Layer, r.Expert) {
			if n, ok := nodes[plan.NodeIDs[i]]; ok {
				where[r] = append(where[r], n)
			}
		}
	}
	return where
}

// turnsWithin is the time within which all nodes begin to load what a plan gives them, if nobody
// waits for it, one after the other: what they do first, connecting to each other, would
// otherwise come in one moment, and tokens of all streams would be late together.
const turnsWithin = 300 * time.Millisecond

// turn is how long this node leaves the beginning to others. All nodes of a plan know that
// without asking each other.
func (m *Member) turn(plan *placement.Plan) time.Duration {
	i, ok := plan.Index(m.cfg.Node.ID)
	if !ok {
		return 0
	}
	return turnsWithin * time.Duration(i) / time.Duration(len(plan.NodeIDs))
}

// complete tells whether each of the replicas is where the committed plan says: then the plan
// that follows moves or adds some, and nobody waits for it. Otherwise nodes were lost.
func complete(committed *placement.Plan, replicas []placement.Replica,
	holders map[placement.Replica][]placement.Node) bool {
	return committed != nil && !slices.ContainsFunc(replicas, func(r placement.Replica) bool {
		on := len(committed.On(r.Layer, r.Expert))
		return on == 0 || len(holders[r]) < on
	})
}

// readyNodes lists the other nodes that compute the same as this one and have loaded a
// revision, by ID.
func (m *Member) readyNodes(ctx context.Context, revision uint64) map[string]placement.Node {
	ready := map[string]readyRecord{}
	entries, _, err := m.store.List(ctx, m.scope.ready())
	if err != nil {
		return nil
	}
	for _, e := range entries {
		var r readyRecord
		if decodeJSON(e.Value, &r) == nil {
			ready[strings.TrimPrefix(e.Key, m.scope.ready())] = r
		}
	}
	if entries, _, err = m.store.List(ctx, m.scope.nodes()); err != nil {
		return nil
	}
	sick := m.quarantined(ctx)
	self := recordOf(m.cfg.Node, m.cfg.NumericMode)
	nodes := map[string]placement.Node{}
	for _, e := range entries {
		id := strings.TrimPrefix(e.Key, m.scope.nodes())
		r, err := decodeNode(e.Value)
		if err != nil || id == m.cfg.Node.ID || r.ModelDigest != self.ModelDigest ||
			r.NumericMode != self.NumericMode || r.KernelClass != self.KernelClass ||
			sick[life{id, r.Epoch}] || ready[id].Epoch != r.Epoch || ready[id].Revision < revision {
			continue
		}
		nodes[id] = r.node(id)
	}
	return nodes
}

// quarantined lists the lives of nodes that nothing is to be taken from.
func (m *Member) quarantined(ctx context.Context) map[life]bool {
	sick := map[life]bool{}
	entries, _, err := m.store.List(ctx, m.scope.quarantine())
	if err != nil || len(entries) == 0 {
		return sick
	}
	for _, q := range sound(entries[0].Value) {
		if q.InForce {
			sick[life{q.NodeID, q.Epoch}] = true
		}
	}
	return sick
}
