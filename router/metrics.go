package router

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"drover/internal/measure"
	"drover/wire"
)

// CallMetrics say how long frames took that were answered as they should, over all nodes:
// on the way both ways, in their nodes' queues, and in computing.
type CallMetrics struct {
	Wire, Queue, Compute measure.Counts
}

// NodeMetrics are what is known of one node that the View has.
type NodeMetrics struct {
	ID string
	// Links counts the connected ones of as many as there are lanes.
	Links, Lanes int
	Quarantined  bool
	// Frames and Rows count what the node has answered as it should; Work is the measure of
	// NodeWork, and LayerWork that of each layer, by its position among the model's MoE layers.
	Frames, Rows, Work uint64
	LayerWork          []uint64
	// SentBytes and ReceivedBytes count rows on the wire, both ways, without headers.
	SentBytes, ReceivedBytes uint64
	// Wire, Queue and Compute add up the frames' times.
	Wire, Queue, Compute time.Duration
	// Failures counts frames of which something had to be sent again, LinksLost how often a
	// link was lost or could not be connected.
	Failures, LinksLost uint64
}

// callTimes are CallMetrics in the making.
type callTimes struct {
	wire, queue, compute *measure.Histogram
}

// newCallTimes has bounds that double from 50 µs, less than a round trip on loopback, to
// 6.5 s, more than any frame waits before it goes elsewhere.
func newCallTimes() callTimes {
	times := func() *measure.Histogram { return measure.New(measure.Powers(50e-6, 2, 18)...) }
	return callTimes{times(), times(), times()}
}

// traffic counts what goes to a node and comes back. Lanes add to it.
type traffic struct {
	frames, sent, received, failures atomic.Uint64
	linksLost                        atomic.Uint64
	wireMicros, queueMicros          atomic.Uint64
}

// noteCall measures a frame that was answered as it should be.
func (l *lane) noteCall(f *flight, took time.Duration, c *wire.Combine) {
	queue := time.Duration(c.QueueMicros) * time.Microsecond
	compute := time.Duration(c.ComputeMicros) * time.Microsecond
	onWire := max(took-queue-compute, 0)
	t := &l.router.calls
	t.wire.ObserveTime(onWire)
	t.queue.ObserveTime(queue)
	t.compute.ObserveTime(compute)
	n := f.session.link.node.work
	n.frames.Add(1)
	n.wireMicros.Add(uint64(onWire.Microseconds()))
	n.queueMicros.Add(uint64(c.QueueMicros))
}

// CallMetrics returns how long frames took so far.
func (r *Router) CallMetrics() CallMetrics {
	return CallMetrics{r.calls.wire.Counts(), r.calls.queue.Counts(), r.calls.compute.Counts()}
}

// NodeMetrics returns what is known of the nodes of the View, by ID. Counts go on when a node
// starts again, unless more than maxGone others have left meanwhile.
func (r *Router) NodeMetrics() []NodeMetrics {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []NodeMetrics
	for id, n := range r.nodes {
		w := n.work
		m := NodeMetrics{ID: id, Lanes: len(n.links), Quarantined: n.quarantined.Load(),
			Frames: w.frames.Load(), Rows: w.rows.Load(), Work: w.all(),
			SentBytes: w.sent.Load(), ReceivedBytes: w.received.Load(),
			Wire:    time.Duration(w.wireMicros.Load()) * time.Microsecond,
			Queue:   time.Duration(w.queueMicros.Load()) * time.Microsecond,
			Compute: time.Duration(w.micros.Load()) * time.Microsecond, Failures: w.failures.Load(),
			LinksLost: w.linksLost.Load()}
		for pos := range w.eighths {
			m.LayerWork = append(m.LayerWork, w.eighths[pos].Load()/8)
		}
		for _, k := range n.links {
			if k.session.Load() != nil {
				m.Links++
			}
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b NodeMetrics) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Unreachable counts the experts of the plan, one for each layer, that no connected node
// has loaded, and all of them.
func (r *Router) Unreachable() (unreachable, experts int) {
	t := r.table.Load()
	usable := t.usable()
	for pos := range t.plan.Layers {
		for expert := range t.plan.Experts {
			experts++
			if !t.reachable(pos, expert, usable) {
				unreachable++
			}
		}
	}
	return unreachable, experts
}

// reachable tells whether one of the usable nodes has loaded an expert.
func (t *table) reachable(pos, expert int, usable []bool) bool {
	return slices.ContainsFunc(t.replicas(pos, expert), func(i uint16) bool { return usable[i] })
}

// usable tells for each node of the table whether it is connected and ready.
func (t *table) usable() []bool {
	usable := make([]bool, len(t.nodes))
	for i, n := range t.nodes {
		usable[i] = n != nil && n.connected() && !t.unready[n.id]
	}
	return usable
}
