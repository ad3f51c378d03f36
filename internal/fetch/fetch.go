// Package fetch loads an expert node's replicas: from its own cache of packed weights, from
// other nodes that hold them, or from the checkpoint, in this order. It is also where the
// weights come from that the node sends to others.
//
// What is fetched is checked against what this node knows by itself and against what a
// second node says: see fetchFrom.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"weak"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"drover/checkpoint"
	"drover/expertnode"
	"drover/kernel"
	"drover/model"
	"drover/moe"
	"drover/packed"
	"drover/placement"
)

// Preference says where replicas may come from, beside the node's own cache.
type Preference int

const (
	// Auto takes them from other nodes, and from the checkpoint if that fails.
	Auto Preference = iota
	// Nodes takes them from other nodes only: of the checkpoint the configuration and the
	// headers suffice.
	Nodes
	// Disk takes them from the checkpoint only.
	Disk
)

// ParsePreference reads auto, peers or disk.
func ParsePreference(s string) (Preference, error) {
	switch s {
	case "auto":
		return Auto, nil
	case "peers":
		return Nodes, nil
	case "disk":
		return Disk, nil
	}
	return 0, fmt.Errorf("source %q is unknown: auto, peers or disk", s)
}

// errNobody says that no node is known to hold a replica.
var errNobody = errors.New("no other node holds it by the placement")

// Options describes a Source. Checkpoint and Model.Mode are required.
type Options struct {
	Checkpoint *checkpoint.Checkpoint
	// Model says how weights are kept; its Store is used if it is a *packed.Store.
	Model model.Options
	// NodeID is this node's own: it does not fetch from itself.
	NodeID string
	From   Preference
	// Absent, if not nil, calls use with the bytes of a tensor that the checkpoint's directory
	// lacks, for replicas that are read from there. It ends with ctx.
	Absent func(ctx context.Context, t checkpoint.Tensor, use func(src []byte) error) error
	// Dial are the options of connections to other nodes.
	Dial   []grpc.DialOption
	Events Events
}

// Events are called from the goroutines that load, and must return soon. Each may be nil.
type Events struct {
	// Fetched reports that a replica came from another node: how many bytes, and from where
	// on if a part was there already.
	Fetched func(r placement.Replica, nodeID string, bytes, from int64)
	// Failed reports that it did not come from a node, and why. Another is tried, or the
	// checkpoint.
	Failed func(r placement.Replica, nodeID string, err error)
	// FellBack reports that a replica is read from the checkpoint since no node gave it.
	FellBack func(r placement.Replica, err error)
	// Disagreed reports that two nodes hold different weights for one replica: one of them
	// is wrong. Neither is believed.
	Disagreed func(r placement.Replica, nodeIDs [2]string)
}

// Source is the moe.Source of an expert node. It is safe for concurrent use.
type Source struct {
	opts  Options
	spec  moe.Spec
	store *packed.Store

	fetched, fetchedBytes atomic.Int64

	mu      sync.Mutex // guards the fields below
	holders map[placement.Replica][]placement.Node
	conns   map[string]*grpc.ClientConn // by address
	failed  map[string]int              // by address: failures since Locate or the last success
	held    map[placement.Replica]*held
	// Since Locate: what nodes said of others' weights, and of which replicas each is asked.
	opinions map[opinionOf]*opinion
	judges   map[string][]placement.Replica // by address
}

// held is what is known of a replica that was loaded. Its weights live as long as whoever
// computes with them keeps them.
type held struct {
	matrices []weak.Pointer[kernel.Matrix]
	content  *[32]byte // SHA-256 of its body; nil: nobody has asked yet
}

var (
	_ expertnode.ContextSource = (*Source)(nil)
	_ expertnode.Packed        = (*Source)(nil)
)

// New returns a Source.
func New(o Options) (*Source, error) {
	inner, err := model.OpenExperts(o.Checkpoint, o.Model)
	if err != nil {
		return nil, err
	}
	s := &Source{opts: o, spec: inner.Spec(), held: map[placement.Replica]*held{}}
	s.Locate(nil)
	if store, ok := o.Model.Store.(*packed.Store); ok {
		s.store = store
	} else {
		s.store = packed.InMemory()
	}
	return s, nil
}

// Fetched says how many replicas came from other nodes so far, and how many bytes.
func (s *Source) Fetched() (replicas, bytes int64) {
	return s.fetched.Load(), s.fetchedBytes.Load()
}

// Spec describes the experts.
func (s *Source) Spec() moe.Spec { return s.spec }

// Load is LoadContext without an end.
func (s *Source) Load(layer, expert int) (*moe.Expert, error) {
	return s.LoadContext(context.Background(), layer, expert)
}

// LoadContext loads one expert from wherever it may come from.
func (s *Source) LoadContext(ctx context.Context, layer, expert int) (*moe.Expert, error) {
	return s.load(ctx, placement.Replica{Layer: layer, Expert: expert})
}

func (s *Source) load(ctx context.Context, r placement.Replica) (*moe.Expert, error) {
	o := s.opts.Model
	o.Store = &loading{source: s, ctx: ctx, replica: r}
	if s.opts.Absent != nil {
		o.Absent = func(t checkpoint.Tensor, use func(src []byte) error) error {
			return s.opts.Absent(ctx, t, use)
		}
	}
	inner, err := model.OpenExperts(s.opts.Checkpoint, o)
	if err != nil {
		return nil, err
	}
	return inner.Load(r.Layer, r.Expert)
}

// Locate says which nodes hold which replicas, for the loading that follows. Connections
// that were made for an earlier one are closed, but for good ones to nodes that hold some still:
// connecting takes both processors' time from frames.
func (s *Source) Locate(holders map[placement.Replica][]placement.Node) {
	addresses := map[string]bool{}
	for _, nodes := range holders {
		for _, n := range nodes {
			addresses[n.Address] = true
		}
	}
	s.mu.Lock()
	old := s.conns
	s.holders, s.conns, s.failed = holders, map[string]*grpc.ClientConn{}, map[string]int{}
	for address, c := range old {
		if state := c.GetState(); addresses[address] &&
			(state == connectivity.Ready || state == connectivity.Idle) {
			s.conns[address] = c
			delete(old, address)
		}
	}
	s.opinions, s.judges = map[opinionOf]*opinion{}, nil
	s.mu.Unlock()
	closeAll(old)
}

// Close ends all connections to other nodes.
func (s *Source) Close() { s.Locate(nil) }

func closeAll(conns map[string]*grpc.ClientConn) {
	for _, c := range conns {
		_ = c.Close() // what was on it has failed by itself
	}
}

// Body returns a replica's packed weights: from memory while somebody computes with them,
// else from the cache or the checkpoint.
func (s *Source) Body(layer, expert int) (expertnode.Body, error) {
	r := placement.Replica{Layer: layer, Expert: expert}
	if b := s.inMemory(r); b != nil {
		return b, nil
	}
	// They are on a device, or were dropped just now. Loading them again keeps them for as
	// long as b lives; nobody is asked for them over the network.
	l := &loading{source: s, ctx: context.Background(), replica: r, disk: true}
	o := s.opts.Model
	o.Device, o.Packed, o.Store = nil, nil, l
	inner, err := model.OpenExperts(s.opts.Checkpoint, o)
	if err != nil {
		return nil, err
	}
	if _, err := inner.Load(layer, expert); err != nil {
		return nil, fmt.Errorf("%w: %w", expertnode.ErrNotHeld, err)
	}
	return &body{packed.NewBody(l.matrices), s, r}, nil
}

// body is a replica's body whose SHA-256 is computed once, however often the body is made:
// the weights of a replica do not change.
type body struct {
	*packed.Body
	source  *Source
	replica placement.Replica
}

// Content implements expertnode.Body.
func (b *body) Content() [32]byte {
	s := b.source
	s.mu.Lock()
	h := s.held[b.replica]
	known := h.content
	s.mu.Unlock()
	if known != nil {
		return *known
	}
	sum := b.Body.Content()
	s.mu.Lock()
	defer s.mu.Unlock()
	h.content = &sum
	return sum
}

func (s *Source) inMemory(r placement.Replica) expertnode.Body {
	s.mu.Lock()
	defer s.mu.Unlock()
	if matrices := s.alive(r); matrices != nil {
		return &body{packed.NewBody(matrices), s, r}
	}
	return nil
}

// alive returns the matrices of a replica that was loaded, if somebody computes with them still.
// The caller holds s.mu.
func (s *Source) alive(r placement.Replica) []*kernel.Matrix {
	h := s.held[r]
	if h == nil {
		return nil
	}
	matrices := make([]*kernel.Matrix, len(h.matrices))
	for i, p := range h.matrices {
		if matrices[i] = p.Value(); matrices[i] == nil {
			return nil
		}
	}
	return matrices
}

// remember notes a replica's matrices, for those who ask for them.
func (s *Source) remember(r placement.Replica, matrices []*kernel.Matrix) {
	h := &held{}
	for _, m := range matrices {
		h.matrices = append(h.matrices, weak.Make(m))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.held[r]; old != nil {
		h.content = old.content
	}
	s.held[r] = h
}

// from lists the nodes that hold a replica, in an order of this node's own, so that many
// nodes that join do not all ask the same one first.
func (s *Source) from(r placement.Replica) []placement.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ranked(r)
}

// ranked is from for callers that hold s.mu.
func (s *Source) ranked(r placement.Replica) []placement.Node {
	nodes := slices.DeleteFunc(slices.Clone(s.holders[r]), func(n placement.Node) bool {
		return n.ID == s.opts.NodeID || s.failed[n.Address] >= maxFailures
	})
	rank := func(n placement.Node) uint64 {
		h := fnv.New64a()
		fmt.Fprintf(h, "%s %s %d %d", s.opts.NodeID, n.ID, r.Layer, r.Expert)
		return h.Sum64()
	}
	slices.SortFunc(nodes, func(a, b placement.Node) int {
		if x, y := rank(a), rank(b); x != y {
			return map[bool]int{true: -1, false: 1}[x < y]
		}
		return strings.Compare(a.ID, b.ID)
	})
	return nodes
}

// maxFailures is after how many failures in a row a node is asked no more until the next
// Locate: one that is cut off must not cost a long wait for each replica.
const maxFailures = 2

// count notes how it went with a node. That it lacks a replica says nothing of the others.
func (s *Source) count(address string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		delete(s.failed, address)
	case status.Code(err) != codes.NotFound:
		s.failed[address]++
	}
}

// loading is the model.Store of one replica's loading.
type loading struct {
	source   *Source
	ctx      context.Context // of LoadContext; a model.Store has none
	replica  placement.Replica
	disk     bool // nobody is asked
	matrices []*kernel.Matrix
}

// Matrices implements model.Store.
func (l *loading) Matrices(key string, shapes []kernel.Shape,
	build func([]*kernel.Matrix) error) (m []*kernel.Matrix, err error) {
	s := l.source
	if l.matrices != nil {
		return nil, errors.New("a replica of several pieces is not known here")
	}
	if s.opts.From == Disk || l.disk && s.opts.From == Auto {
		m, err = s.store.Matrices(key, shapes, build)
	} else {
		m, err = s.store.Fetched(key, shapes, l.fetch, l.orElse(build))
	}
	if err != nil {
		return nil, err
	}
	l.matrices = m
	s.remember(l.replica, m)
	return m, nil
}

// orElse is what to do when nobody gives a replica: nil if there is nothing to do.
func (l *loading) orElse(build func([]*kernel.Matrix) error) func([]*kernel.Matrix) error {
	if l.source.opts.From == Nodes {
		return nil
	}
	return func(m []*kernel.Matrix) error {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		return build(m)
	}
}

// fetch brings the replica from one node or another.
func (l *loading) fetch(p *packed.Partial) error {
	s := l.source
	nodes := s.from(l.replica)
	if l.disk || len(nodes) == 0 {
		return errNobody
	}
	t := transfer{source: s, replica: l.replica, partial: p}
	err := t.from(l.ctx, nodes)
	if err != nil && l.ctx.Err() == nil && s.opts.From == Auto && s.opts.Events.FellBack != nil {
		s.opts.Events.FellBack(l.replica, err)
	}
	return err
}
