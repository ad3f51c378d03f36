package router

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"drover/placement"
)

// node is one life of an expert node at one address, with a link for each lane.
type node struct {
	id      string
	address string
	epoch   uint64
	links   []*link    // by lane
	work    *workCount // outlives the node
	// quarantined is set when it returned wrong numbers: nothing of it is used any more.
	quarantined atomic.Bool
}

// connected tells whether all links are and the node may be used.
func (n *node) connected() bool {
	if n.quarantined.Load() {
		return false
	}
	for _, k := range n.links {
		if k.session.Load() == nil {
			return false
		}
	}
	return true
}

// retire closes the links: at once, or after the answers that they wait for.
func (n *node) retire(atOnce bool) {
	for _, k := range n.links {
		k.retire(atOnce)
	}
}

// table is a View with the links to its nodes. It is never edited once published.
type table struct {
	plan    placement.Plan
	suspect map[string]bool // nodes that gossip believes dead
	unready map[string]bool // nodes that have yet to load anything
	nodes   []*node         // by the plan's index; nil if not registered
	joined  int             // nodes of the View
}

// newTable returns the table of a View, still without nodes.
func newTable(v *placement.View) *table {
	t := &table{}
	if v == nil || v.Plan == nil {
		return t
	}
	t.plan, t.suspect, t.unready, t.joined = *v.Plan, v.Suspect, v.Unready, len(v.Nodes)
	t.nodes = make([]*node, len(t.plan.NodeIDs))
	return t
}

// layer returns the position of a layer in the plan.
func (t *table) layer(layer int) (pos int, ok bool) {
	return slices.BinarySearch(t.plan.Layers, layer)
}

// replicas returns the indices of the nodes that hold an expert. Indices that the
// plan does not define end the list.
func (t *table) replicas(pos, expert int) []uint16 {
	if pos >= len(t.plan.Replicas) || expert >= len(t.plan.Replicas[pos]) {
		return nil
	}
	out := t.plan.Replicas[pos][expert]
	for i, n := range out {
		if int(n) >= len(t.nodes) {
			return out[:i]
		}
	}
	return out
}

// noPlan says why there is no placement, and what to do, if there is none.
func (t *table) noPlan() (why string, none bool) {
	switch {
	case len(t.plan.Layers) > 0:
		return "", false
	case t.joined == 0:
		return "no placement yet: no expert node that can be used has joined; start some with the" +
			" same etcd, model and mode, and look at `drover nodes` for those that cannot be used", true
	}
	return fmt.Sprintf("no placement yet: expert nodes have joined (%d), and none was committed; more"+
		" are waited for (--min-nodes), they load, or they lack room: the coordinator's log says which",
		t.joined), true
}

// reasons says for each replica of an expert why it does not answer.
func (t *table) reasons(pos, expert, lane int) string {
	var out []string
	for _, i := range t.replicas(pos, expert) {
		reason := "not registered"
		if n := t.nodes[i]; n != nil {
			reason = n.links[lane].describe()
			if t.unready[n.id] {
				reason = "it has yet to load its experts"
			}
			if n.quarantined.Load() {
				reason = errQuarantined.Error()
			}
		}
		out = append(out, fmt.Sprintf("node %s: %s", t.plan.NodeIDs[i], reason))
	}
	if len(out) == 0 {
		return fmt.Sprintf("placement revision %d has none", t.plan.Revision)
	}
	return strings.Join(out, "; ")
}
