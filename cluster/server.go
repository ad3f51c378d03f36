package cluster

import (
	"context"

	"drover/placement"
	droverv1 "drover/proto/drover/v1"
)

// The states that a Server reports of a node.
const (
	stateReady    = "ready"    // it has loaded the committed placement
	stateLoading  = "loading"  // it has yet to
	stateSuspect  = "suspect"  // gossip believes it dead
	stateGone     = "gone"     // the placement uses it, but it is not registered
	stateUnusable = "unusable" // it computes something else
	stateDraining = "draining" // its replicas move elsewhere
	stateDrained  = "drained"  // it holds none, and gets none
)

// ServerOptions says what a Server shows.
type ServerOptions struct {
	// Watcher is where the cluster is known from.
	Watcher *Watcher
	// Store is where DrainNode writes. Nil means that nodes cannot be drained.
	Store Store
	// ReplicaBytes is the size of one replica.
	ReplicaBytes int64
	// Host is this machine's name: process ids are shown for its nodes only.
	Host string
	// RowsByNode returns the rows dispatched to each node. Nil means none.
	RowsByNode func() map[string]uint64
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
	return &Server{opts: opts}
}

// ListNodes implements droverv1.ClusterServiceServer.
func (s *Server) ListNodes(context.Context, *droverv1.ListNodesRequest) (
	*droverv1.ListNodesResponse, error) {
	view, rows := s.opts.Watcher.View(), s.opts.RowsByNode()
	reply := &droverv1.ListNodesResponse{Revision: view.Revision()}
	for _, n := range s.opts.Watcher.Nodes() {
		count := view.Plan.Count(n.ID)
		status := &droverv1.NodeStatus{
			Id: n.ID, Address: n.Address, State: n.status(view), Host: n.Host,
			CapacityBytes: uint64(n.CapacityBytes), ReplicaCount: uint32(count),
			Bytes:       uint64(int64(count) * s.opts.ReplicaBytes),
			KernelClass: n.KernelClass, FailureDomain: n.Domain, RowsDispatched: rows[n.ID],
		}
		if n.Host != "" && n.Host == s.opts.Host {
			status.Pid = uint64(n.PID)
		}
		reply.Nodes = append(reply.Nodes, status)
	}
	return reply, nil
}

// status returns the word for a node's state.
func (n NodeState) status(v *placement.View) string {
	switch {
	case !n.Registered:
		return stateGone
	case n.Reason != "":
		return stateUnusable
	case v.Suspect[n.ID]:
		return stateSuspect
	case n.Draining:
		if v.Plan.Count(n.ID) == 0 {
			return stateDrained
		}
		return stateDraining
	case n.Loading:
		return stateLoading
	}
	return stateReady
}

// GetPlacement implements droverv1.ClusterServiceServer.
func (s *Server) GetPlacement(context.Context, *droverv1.GetPlacementRequest) (
	*droverv1.GetPlacementResponse, error) {
	plan := s.opts.Watcher.View().Plan
	reply := &droverv1.GetPlacementResponse{Revision: plan.Revision}
	for l, layer := range plan.Layers {
		lp := &droverv1.LayerPlacement{Layer: uint32(layer)}
		for _, on := range plan.Replicas[l] {
			e := &droverv1.ExpertReplicas{}
			for _, n := range on {
				e.NodeIds = append(e.NodeIds, plan.NodeIDs[n])
			}
			lp.Experts = append(lp.Experts, e)
		}
		reply.Layers = append(reply.Layers, lp)
	}
	return reply, nil
}
