package cluster

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/placement"
	droverv1 "drover/proto/drover/v1"
)

// The states that a Server reports of a node.
const (
	stateReady   = "ready"   // it has loaded the committed placement
	stateLoading = "loading" // it has yet to
	stateSuspect = "suspect" // gossip believes it dead
	// stateUnreachable is that of a node that this coordinator has no link to: it is dead or cut
	// off, though its registration has not ended.
	stateUnreachable = "unreachable"
	stateGone        = "gone"     // the placement uses it, but it is not registered
	stateUnusable    = "unusable" // it computes something else
	stateDraining    = "draining" // its replicas move elsewhere
	stateDrained     = "drained"  // it holds none, and gets none
	// stateQuarantined is that of a node that returned wrong numbers to this coordinator, or
	// to others by C5.
	stateQuarantined = "quarantined"
	stateLimited     = "limited" // it could not load what it was given, and keeps what it has
)

// ServerOptions says what a Server shows.
type ServerOptions struct {
	// Watcher is where the cluster is known from.
	Watcher *Watcher
	// Store is where the measured load is read, and where wishes and drains are written. Nil
	// means none of these.
	Store Store
	// ReplicaBytes is the size of one replica.
	ReplicaBytes int64
	// Host is this machine's name: process ids are shown for its nodes only.
	Host string
	// RowsByNode returns the rows dispatched to each node. Nil means none.
	RowsByNode func() map[string]uint64
	// Dispatched returns the rows dispatched to all nodes. Nil means none.
	Dispatched func() *droverv1.Dispatched
	// Quarantined tells whether a node returned wrong numbers and is not used. Nil means
	// that none is.
	Quarantined func(nodeID string) bool
	// Unreachable says of the nodes that the coordinator has no link to why, by ID. Nil means
	// that nothing is known of links.
	Unreachable func() map[string]string
}

// Server shows the cluster to tools. It implements droverv1.ClusterServiceServer.
type Server struct {
	droverv1.UnimplementedClusterServiceServer
	opts ServerOptions
}

// NewServer returns a Server.
func NewServer(opts ServerOptions) *Server {
	if opts.RowsByNode == nil {
		opts.RowsByNode = func() map[string]uint64 { return nil }
	}
	if opts.Dispatched == nil {
		opts.Dispatched = func() *droverv1.Dispatched { return nil }
	}
	if opts.Quarantined == nil {
		opts.Quarantined = func(string) bool { return false }
	}
	if opts.Unreachable == nil {
		opts.Unreachable = func() map[string]string { return nil }
	}
	return &Server{opts: opts}
}

// ListNodes implements droverv1.ClusterServiceServer.
func (s *Server) ListNodes(ctx context.Context, _ *droverv1.ListNodesRequest) (
	*droverv1.ListNodesResponse, error) {
	view, rows := s.opts.Watcher.View(), s.opts.RowsByNode()
	unreachable := s.opts.Unreachable()
	speeds := s.measured(ctx, view.Plan).speeds()
	reply := &droverv1.ListNodesResponse{Revision: view.Revision(), Dispatched: s.opts.Dispatched()}
	for _, n := range s.opts.Watcher.Nodes() {
		count := view.Plan.Count(n.ID)
		state := s.state(n, view, unreachable)
		status := &droverv1.NodeStatus{
			Id: n.ID, Address: n.Address, State: state, Host: n.Host,
			Reason:        n.reason(state, unreachable),
			CapacityBytes: uint64(n.CapacityBytes), ReplicaCount: uint32(count),
			Bytes:       uint64(int64(count) * s.opts.ReplicaBytes),
			KernelClass: n.KernelClass, FailureDomain: n.Domain, RowsDispatched: rows[n.ID],
			Speed: speeds[n.ID],
		}
		if n.Host != "" && n.Host == s.opts.Host {
			status.Pid = uint64(n.PID)
		}
		reply.Nodes = append(reply.Nodes, status)
	}
	return reply, nil
}

// state is n.status, or what the coordinator itself found out about the node.
func (s *Server) state(n NodeState, v *placement.View, unreachable map[string]string) string {
	if n.Registered && s.opts.Quarantined(n.ID) {
		return stateQuarantined
	}
	state := n.status(v)
	switch state {
	case stateReady, stateLoading, stateLimited, stateSuspect, stateDraining:
		if _, down := unreachable[n.ID]; down {
			return stateUnreachable
		}
	}
	return state
}

// reason says for people why a node is in a state, empty where the state says all.
func (n NodeState) reason(state string, unreachable map[string]string) string {
	switch state {
	case stateUnreachable:
		return unreachable[n.ID]
	case stateUnusable, stateQuarantined:
		return n.Reason
	case stateLimited:
		return n.Unable.Reason
	}
	return ""
}

// States counts the nodes by their states, also those in which there is none.
func (s *Server) States() map[string]int {
	view, unreachable := s.opts.Watcher.View(), s.opts.Unreachable()
	out := map[string]int{stateReady: 0, stateLoading: 0, stateSuspect: 0, stateGone: 0,
		stateUnusable: 0, stateDraining: 0, stateDrained: 0, stateQuarantined: 0,
		stateLimited: 0, stateUnreachable: 0}
	for _, n := range s.opts.Watcher.Nodes() {
		out[s.state(n, view, unreachable)]++
	}
	return out
}

// status returns the word for a node's state.
func (n NodeState) status(v *placement.View) string {
	switch {
	case !n.Registered:
		return stateGone
	case n.Quarantined:
		return stateQuarantined
	case n.Reason != "":
		return stateUnusable
	case v.Suspect[n.ID]:
		return stateSuspect
	case n.Draining:
		if v.Plan.Count(n.ID) == 0 {
			return stateDrained
		}
		return stateDraining
	case n.Unable.Revision > 0:
		return stateLimited
	case n.Loading:
		return stateLoading
	}
	return stateReady
}

// measured is what coordinators measured, as far as it can be read.
func (s *Server) measured(ctx context.Context, plan *placement.Plan) Measured {
	if s.opts.Store == nil || len(plan.Layers) == 0 {
		return Measured{}
	}
	m, err := readMeasured(ctx, s.opts.Store, s.opts.Watcher.opts.Scope, len(plan.Layers),
		plan.Experts)
	if err != nil {
		return Measured{} // the placement is worth showing without
	}
	return m
}

// GetPlacement implements droverv1.ClusterServiceServer.
func (s *Server) GetPlacement(ctx context.Context, _ *droverv1.GetPlacementRequest) (
	*droverv1.GetPlacementResponse, error) {
	plan := s.opts.Watcher.View().Plan
	m := s.measured(ctx, plan)
	imbalance := plan.Imbalance(m.Load, m.speeds())
	reply := &droverv1.GetPlacementResponse{Revision: plan.Revision}
	for l, layer := range plan.Layers {
		lp := &droverv1.LayerPlacement{Layer: uint32(layer), Imbalance: imbalance[l]}
		mean := 0.0
		if m.Load != nil {
			for _, w := range m.Load[l] {
				mean += w / float64(plan.Experts)
			}
		}
		for i, on := range plan.Replicas[l] {
			e := &droverv1.ExpertReplicas{}
			for _, n := range on {
				e.NodeIds = append(e.NodeIds, plan.NodeIDs[n])
			}
			if mean > 0 {
				e.Load = m.Load[l][i] / mean
			}
			lp.Experts = append(lp.Experts, e)
		}
		reply.Layers = append(reply.Layers, lp)
	}
	return reply, nil
}

// Rebalance implements droverv1.ClusterServiceServer. The coordinator that plans may be
// another one: it sees the wish in the store.
func (s *Server) Rebalance(ctx context.Context, _ *droverv1.RebalanceRequest) (
	*droverv1.RebalanceResponse, error) {
	if s.opts.Store == nil {
		return nil, status.Error(codes.Unimplemented, "nothing is planned here")
	}
	w := s.opts.Watcher
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.opts.Store.Commit(ctx, Write{Put: []Put{{Key: w.opts.Scope.rebalance(),
		Value: []byte("{}")}}})
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "etcd does not answer: %v", err)
	}
	return &droverv1.RebalanceResponse{Revision: w.View().Revision(),
		Planner: w.state.Load().plannerID()}, nil
}
