package cluster

import (
	"slices"

	"drover/placement"
)

// maxGrounds leaves room beside the conditions of fenced.
const maxGrounds = maxWrite - 4

// grounds are the conditions that keep a commit from counting on what changed while it was
// on its way (C6). They are on ready records, which go with their node's registration and
// life: enough of them to cover every expert that the next plan has ready, and those of
// nodes that hold what the next plan has ready nowhere by the plan in force, and not by the
// next. Where that is more than a write takes, those that say most are looked at.
func (p *Planner) grounds(s *state, next *placement.Plan) []Cond {
	ready := make([]bool, len(next.NodeIDs))
	for i, id := range next.NodeIDs {
		ready[i] = s.readyMod[id] != 0 && s.nodes[id].Revision >= next.Revision
	}
	var covered, bare []placement.Replica
	for l, experts := range next.Replicas {
		for e, on := range experts {
			r := placement.Replica{Layer: next.Layers[l], Expert: e}
			if slices.ContainsFunc(on, func(n uint16) bool { return ready[n] }) {
				covered = append(covered, r)
			} else {
				bare = append(bare, r)
			}
		}
	}
	ids := dropped(s.plan, next, bare)
	for _, id := range cover(next, ready, covered) {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	conds := make([]Cond, 0, maxGrounds)
	for _, id := range ids[:min(len(ids), maxGrounds)] {
		conds = append(conds, Cond{p.watcher.opts.Scope.ready() + id, s.readyMod[id]})
	}
	return conds
}

// dropped lists the nodes that hold any of the replicas by the old plan and not by the next.
func dropped(old, next *placement.Plan, replicas []placement.Replica) (ids []string) {
	for _, r := range replicas {
		for _, i := range old.On(r.Layer, r.Expert) {
			id := old.NodeIDs[i]
			n, listed := next.Index(id)
			keeps := listed && slices.Contains(next.On(r.Layer, r.Expert), n)
			if !keeps && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// cover chooses few of the ready nodes of a plan that together hold all of the replicas, at
// most maxGrounds: each time the one that holds most of what is left, or the first of those.
func cover(plan *placement.Plan, ready []bool, left []placement.Replica) (ids []string) {
	left = slices.Clone(left)
	for len(left) > 0 && len(ids) < maxGrounds {
		counts, best := make([]int, len(plan.NodeIDs)), uint16(0)
		for _, r := range left {
			for _, n := range plan.On(r.Layer, r.Expert) {
				if ready[n] {
					counts[n]++
				}
			}
		}
		for n, count := range counts {
			if count > counts[best] {
				best = uint16(n)
			}
		}
		ids = append(ids, plan.NodeIDs[best])
		left = slices.DeleteFunc(left, func(r placement.Replica) bool {
			return slices.Contains(plan.On(r.Layer, r.Expert), best)
		})
	}
	return ids
}
