package router

import "time"

// Outage says that a node cannot be reached from here: none of its links is connected, and each
// has tried.
type Outage struct {
	// Down is the time since the last link was lost or, where there never was one, since the
	// Router came to know the node.
	Down time.Duration
	// Reason is what the last attempt to connect met.
	Reason string
}

// Outages returns the nodes of the View that cannot be reached, by ID. A node that joined just
// now, and is being connected for the first time, is none of them.
func (r *Router) Outages() map[string]Outage {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]Outage)
	for id, n := range r.nodes {
		if o, down := n.outage(); down {
			out[id] = o
		}
	}
	return out
}

// outage tells whether the node cannot be reached, and why.
func (n *node) outage() (o Outage, down bool) {
	for i, k := range n.links {
		// In this order: a session forgets the problem before it is there, and leaves one.
		problem := k.problem.Load()
		if problem == nil || k.session.Load() != nil {
			return Outage{}, false
		}
		since := k.lane.now() - time.Duration(k.downAt.Load())
		if i == 0 || since < o.Down {
			o = Outage{since, *problem}
		}
	}
	return o, len(n.links) > 0
}
