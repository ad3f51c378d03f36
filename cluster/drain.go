package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/placement"
	droverv1 "drover/proto/drover/v1"
)

// Draining takes C1's way: the planner sees a node that is to be emptied and makes a plan
// without it; others load and test what it held; only when that plan is in force, the node
// gives up its replicas. Two things make a node draining: its own record, when it is about
// to leave, and a key drain/<id>, when an operator wants it empty.

// DrainNode implements droverv1.ClusterServiceServer.
func (s *Server) DrainNode(ctx context.Context, r *droverv1.DrainNodeRequest) (
	*droverv1.DrainNodeResponse, error) {
	if s.opts.Store == nil {
		return nil, status.Error(codes.Unimplemented, "nodes cannot be drained here")
	}
	if err := checkName("node id", r.NodeId); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	w := s.opts.Watcher
	key := w.opts.Scope.drain() + r.NodeId
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	write, allowed := Write{Delete: []string{key}}, s.canUndo
	if !r.Undo {
		write, allowed = Write{Put: []Put{{Key: key, Value: []byte(`{}`)}}}, s.canDrain
	}
	if err := allowed(ctx, r.NodeId); err != nil {
		return nil, err
	}
	if _, err := s.opts.Store.Commit(ctx, write); err != nil {
		return nil, status.Errorf(codes.Unavailable, "etcd does not answer: %v", err)
	}
	return &droverv1.DrainNodeResponse{ReplicaCount: uint32(w.View().Plan.Count(r.NodeId))}, nil
}

// canUndo refuses a node that is neither there nor to be drained when it comes: its name is wrong.
func (s *Server) canUndo(ctx context.Context, id string) error {
	if _, ok := s.opts.Watcher.state.Load().nodes[id]; ok {
		return nil
	}
	key := s.opts.Watcher.opts.Scope.drain() + id
	wishes, _, err := s.opts.Store.List(ctx, key)
	switch {
	case err != nil:
		return status.Errorf(codes.Unavailable, "etcd does not answer: %v", err)
	case !slices.ContainsFunc(wishes, func(e Entry) bool { return e.Key == key }):
		return status.Errorf(codes.NotFound, "no node %q is registered or drained", id)
	}
	return nil
}

// canDrain refuses a node that is not there, and one whose replicas have no other place.
func (s *Server) canDrain(_ context.Context, id string) error {
	state := s.opts.Watcher.state.Load()
	if _, ok := state.nodes[id]; !ok {
		return status.Errorf(codes.NotFound, "no node %q is registered", id)
	}
	if state.plan == nil {
		return nil // it holds nothing yet
	}
	nodes := state.usable()
	if i := slices.IndexFunc(nodes, func(n placement.Node) bool { return n.ID == id }); i >= 0 {
		nodes[i].Draining = true
	}
	_, _, err := placement.Next(placement.Input{Current: state.plan, Layers: state.plan.Layers,
		Experts: state.plan.Experts, ReplicaBytes: s.opts.ReplicaBytes, Nodes: nodes})
	if err != nil {
		return status.Errorf(codes.FailedPrecondition, "without node %s: %v", id, err)
	}
	return nil
}

// ErrNotDrained says that a node still holds replicas by the committed plan.
var ErrNotDrained = errors.New("cluster: the node still holds replicas")

// Drain says that this node is about to leave and returns when no plan needs it any more
// and the grace for frames under way is over. When ctx ends before, the error wraps
// ErrNotDrained; the node stays draining.
func (m *Member) Drain(ctx context.Context) error {
	m.mu.Lock()
	if !m.draining {
		m.draining = true
		m.poke()
	}
	m.mu.Unlock()
	select {
	case <-m.emptied:
		return nil
	case <-ctx.Done():
		return errors.Join(ErrNotDrained, context.Cause(ctx))
	}
}

// Serving is how many replicas the node serves by the committed plan.
func (m *Member) Serving() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.plan.Count(m.cfg.Node.ID)
}

// isDraining tells whether Drain was called.
func (m *Member) isDraining() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.draining
}

// leave closes emptied when a draining node is needed by no plan. It returns when to look
// again.
func (r *holding) leave(t target, now time.Time) time.Duration {
	known := r.published.lease != 0 || t.committed != nil // or nobody can miss the node
	if r.left || !r.m.isDraining() || known && !r.published.draining || len(t.replicas) > 0 {
		return forever
	}
	if wait := r.since.Add(r.m.cfg.Grace).Sub(now); wait > 0 {
		return wait
	}
	r.left = true
	close(r.m.emptied)
	return forever
}
