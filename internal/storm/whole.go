package storm

import (
	"context"
	"fmt"
	"time"

	droverv1 "drover/proto/drover/v1"
)

// notHealed is a cluster that was not whole again in time.
type notHealed struct {
	within time.Duration
	why    string
}

func (e notHealed) Error() string {
	return fmt.Sprintf("the cluster is not whole within %v: %s", e.within, e.why)
}

// whole waits until all nodes are ready, none of them a process that must be gone, and every
// expert has all of its replicas. It returns the nodes.
func (s *storm) whole(ctx context.Context, gone map[uint64]bool) ([]*droverv1.NodeStatus, error) {
	const look = 50 * time.Millisecond
	for deadline := time.Now().Add(s.HealWithin); ; {
		list, err := s.Cluster.ListNodes(ctx, &droverv1.ListNodesRequest{})
		if err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
		placed, err := s.Cluster.GetPlacement(ctx, &droverv1.GetPlacementRequest{})
		if err != nil {
			return nil, fmt.Errorf("get the placement: %w", err)
		}
		why := missing(list.Nodes, placed, gone)
		if why == "" {
			return list.Nodes, nil
		}
		if time.Now().After(deadline) {
			return nil, notHealed{s.HealWithin, why}
		}
		if err := sleep(ctx, look); err != nil {
			return nil, err
		}
	}
}

// missing says what a cluster lacks. It must have had the same number of replicas of every
// expert before.
func missing(
	nodes []*droverv1.NodeStatus, placed *droverv1.GetPlacementResponse, gone map[uint64]bool,
) string {
	ready := map[string]bool{}
	for _, n := range nodes {
		switch {
		case n.Pid == 0:
			return n.Id + " has no process on this machine"
		case gone[n.Pid]:
			return n.Id + " has not come back"
		case n.State != "ready":
			return n.Id + " is " + n.State
		case n.ReplicaCount == 0:
			return n.Id + " holds nothing"
		}
		ready[n.Id] = true
	}
	if len(nodes) == 0 || len(placed.Layers) == 0 {
		return "there are no nodes, or nothing is placed on them"
	}
	replicas := 0
	for _, l := range placed.Layers {
		for e, on := range l.Experts {
			replicas = max(replicas, len(on.NodeIds))
			if n := len(on.NodeIds); n == 0 || n < replicas {
				return fmt.Sprintf("layer %d expert %d has %d replicas, others %d", l.Layer, e, n, replicas)
			}
			for _, id := range on.NodeIds {
				if !ready[id] {
					return fmt.Sprintf("layer %d expert %d is on %s, which is not ready", l.Layer, e, id)
				}
			}
		}
	}
	return ""
}
