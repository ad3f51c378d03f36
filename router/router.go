// Package router sends the rows of a batch to the expert nodes that hold the
// chosen experts and collects what they return.
//
// A Router keeps one link per expert node and lane. Forward takes a lane, groups
// the batch's experts by replica, sends one or more frames to each node, and decodes
// each answer to where its rows belong in the batch. Four rules hold:
//
//   - F1, an answer depends on its rows alone (moe.R1), so a part of a batch may be
//     sent again, to anyone, at any time. The first valid answer wins.
//   - F2, only the goroutine in Forward writes to the batch. Links hand over
//     received frames whole, and a frame that nobody waits for any more is dropped.
//   - F3, a silent node costs a frame timeout, not a request: it is suspected and
//     routed around. Only the planner changes the placement.
//   - F4, nothing queues without a bound: frames by the link's credit, answers by
//     the lane's channel, attempts by FailAfter.
package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"drover/moe"
	"drover/placement"
	"drover/wire"
)

// ErrNoReplica is wrapped by Forward's error when no live replica of an expert
// could be reached in time. The request may succeed later.
var ErrNoReplica = moe.ErrUnavailable

// ErrClosed is returned by Forward after Close.
var ErrClosed = errors.New("router: closed")

// Router computes experts over the network. It is safe for concurrent use by as
// many goroutines as there are lanes; more wait for a free one.
type Router struct {
	opts     Options // fixed after New
	rowBytes int
	dtype    wire.DType
	maxRows  int // of one frame
	pool     *wire.Pool
	codec    *wire.Codec
	requests sync.Pool // of *wire.Request

	table atomic.Pointer[table] // replaced whole, never edited
	lanes []*lane
	free  chan *lane // those that no Forward uses

	network network

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	// Two goroutines for each link, one for each connection that closes, one for each lane's
	// local, one that watches the links.
	running sync.WaitGroup
	stats   counters
	calls   callTimes // fixed after New

	mu     sync.Mutex // guards the fields below
	nodes  map[string]*node
	work   workCounts
	closed bool
	// convicted holds the epoch in which a node returned wrong numbers, by node ID.
	convicted map[string]uint64
}

var _ moe.Experts = (*Router)(nil)

// New returns a Router without a View: Forward waits for the first Update.
func New(opts Options) (*Router, error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	pool := new(wire.Pool)
	r := &Router{
		opts:     opts,
		rowBytes: opts.rowBytes(),
		dtype:    opts.dtype(),
		maxRows:  opts.MaxFrameBytes / opts.rowBytes(),
		pool:     pool,
		codec:    &wire.Codec{Pool: pool},
		calls:    newCallTimes(),
		free:     make(chan *lane, opts.Lanes),
		nodes:    make(map[string]*node),
		work:     workCounts{byID: make(map[string]*workCount)},

		convicted: make(map[string]uint64),
	}
	r.requests.New = func() any { return new(wire.Request) }
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.table.Store(&table{})
	for i := range opts.Lanes {
		l := newLane(r, i)
		if opts.Local != nil {
			r.running.Go(l.runLocal)
		}
		r.lanes = append(r.lanes, l)
		r.free <- l
	}
	r.running.Go(r.watchLinks)
	return r, nil
}

// Forward fills b.Y from the nodes that hold the batch's experts. While an expert
// has no live replica it is computed on this machine, if Options.Local can; else it
// waits, at most FailAfter, and then the error wraps ErrNoReplica.
func (r *Router) Forward(ctx context.Context, b *moe.Batch, meanwhile func()) error {
	l, err := r.takeLane(ctx)
	if err != nil {
		if meanwhile != nil {
			meanwhile()
		}
		return err
	}
	defer func() { r.free <- l }()
	return l.forward(ctx, b, meanwhile)
}

func (r *Router) takeLane(ctx context.Context) (*lane, error) {
	select {
	case l := <-r.free:
		return l, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-r.ctx.Done():
		return nil, ErrClosed
	}
}

// Update replaces the View. It does not block: nodes that joined are connected in
// the background, before a plan uses them, and the links of nodes that left close after
// their last answer.
func (r *Router) Update(v *placement.View) {
	r.mu.Lock()
	if !r.closed {
		r.apply(v)
	}
	r.mu.Unlock()
	r.wake()
}

// apply makes the table of a View, with the nodes that it needs, and connects those that
// the next plan may use: its first frames then find links. The caller holds mu.
func (r *Router) apply(v *placement.View) {
	t := newTable(v)
	used := make(map[string]bool)
	for i, id := range t.plan.NodeIDs {
		if described, registered := v.Nodes[id]; registered {
			used[id] = true
			t.nodes[i] = r.present(id, described)
		}
	}
	for _, id := range ahead(v, used) {
		used[id] = true
		r.present(id, v.Nodes[id])
	}
	for id, n := range r.nodes {
		if !used[id] {
			n.retire(false)
			delete(r.nodes, id)
			r.work.leave(id)
		}
	}
	r.table.Store(t)
}

// maxAhead bounds the nodes that are connected although the plan does not use them.
const maxAhead = 256

// ahead lists the nodes that the plan does not use but the next one may.
func ahead(v *placement.View, used map[string]bool) []string {
	if v == nil {
		return nil
	}
	var out []string
	for id, n := range v.Nodes {
		if !used[id] && !n.Draining {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out[:min(len(out), maxAhead)]
}

// present returns the node as it is described, which may be another life of one that is
// known. The caller holds mu.
func (r *Router) present(id string, described placement.Node) *node {
	n := r.nodes[id]
	if n != nil && (n.epoch != described.Epoch || n.address != described.Address) {
		n.retire(n.epoch != described.Epoch)
		n = nil
	}
	if n == nil {
		n = r.startNode(id, described)
	}
	return n
}

// startNode makes a node and starts its links. The caller holds mu.
func (r *Router) startNode(id string, described placement.Node) *node {
	n := &node{id: id, address: described.Address, epoch: described.Epoch,
		work: r.work.enter(id, len(r.opts.Spec.Layers))}
	if epoch, ok := r.convicted[id]; ok && epoch == n.epoch {
		n.quarantined.Store(true)
	} else {
		delete(r.convicted, id)
	}
	for _, l := range r.lanes {
		k := newLink(r, n, l)
		n.links = append(n.links, k)
		r.running.Go(k.run)
	}
	r.nodes[id] = n
	return n
}

// wake lets every lane look again: at the table, at links that came or went.
func (r *Router) wake() {
	for _, l := range r.lanes {
		l.wakeUp()
	}
}

// Ready returns nil if every expert of the plan has a loaded replica whose links are all
// connected, else an error that names the first expert without.
func (r *Router) Ready() error {
	t := r.table.Load()
	if why, none := t.noPlan(); none {
		return errors.New("router: " + why)
	}
	usable := t.usable()
	for pos, layer := range t.plan.Layers {
		for expert := range t.plan.Experts {
			if !t.reachable(pos, expert, usable) {
				return fmt.Errorf("layer %d expert %d: %w (%s)", layer, expert, ErrNoReplica,
					t.reasons(pos, expert, 0))
			}
		}
	}
	return nil
}

// RowsByNode returns the rows that each node has answered since New, for the nodes that
// WorkByNode knows.
func (r *Router) RowsByNode() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]uint64, len(r.work.byID))
	for id, c := range r.work.byID {
		out[id] = c.rows.Load()
	}
	return out
}

// Close closes all links and returns when their goroutines are gone. A Forward
// that runs returns ErrClosed.
func (r *Router) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.running.Wait()
}
