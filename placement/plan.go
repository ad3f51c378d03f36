package placement

import (
	"cmp"
	"fmt"
	"slices"
)

// Bounds of a plan. They keep a record from outside from sizing anything, and a plan
// within what etcd stores under one key.
const (
	// MaxLayers bounds a plan's layers.
	MaxLayers = 1024
	// MaxExperts bounds the experts of one layer.
	MaxExperts = 4096
	// MaxNodes bounds the nodes of one plan.
	MaxNodes = 4096
	// MaxIDBytes bounds a node's ID.
	MaxIDBytes = 128
	// maxLayerIndex bounds the model's index of a layer.
	maxLayerIndex = 1 << 20
)

// Replica names one copy of an expert on a node.
type Replica struct {
	// Layer is the model's layer index, Expert the index within that layer.
	Layer, Expert int
}

// Compare orders replicas by layer, then by expert.
func (r Replica) Compare(o Replica) int {
	return cmp.Or(cmp.Compare(r.Layer, o.Layer), cmp.Compare(r.Expert, o.Expert))
}

// Move is one replica that appears on a node or disappears from it.
type Move struct {
	NodeID string
	Replica
}

// On returns the indices into NodeIDs of the nodes that hold an expert, and nil when
// the plan does not know it. The slice is the plan's own: do not change it.
func (p *Plan) On(layer, expert int) []uint16 {
	if p == nil || expert < 0 || expert >= p.Experts {
		return nil
	}
	i, ok := slices.BinarySearch(p.Layers, layer)
	if !ok {
		return nil
	}
	return p.Replicas[i][expert]
}

// Index returns the node's position in NodeIDs.
func (p *Plan) Index(nodeID string) (uint16, bool) {
	if p == nil {
		return 0, false
	}
	i, ok := slices.BinarySearch(p.NodeIDs, nodeID)
	return uint16(i), ok
}

// Holds lists the replicas of one node, by layer and expert.
func (p *Plan) Holds(nodeID string) []Replica {
	n, ok := p.Index(nodeID)
	if !ok {
		return nil
	}
	held := make([]Replica, 0, p.Count(nodeID))
	for l, experts := range p.Replicas {
		for e, on := range experts {
			if slices.Contains(on, n) {
				held = append(held, Replica{p.Layers[l], e})
			}
		}
	}
	return held
}

// Count returns the number of replicas on one node.
func (p *Plan) Count(nodeID string) int {
	n, ok := p.Index(nodeID)
	if !ok {
		return 0
	}
	count := 0
	for _, experts := range p.Replicas {
		for _, on := range experts {
			if slices.Contains(on, n) {
				count++
			}
		}
	}
	return count
}

// Validate checks what every plan must keep: ascending layers and nodes, and for each
// expert at least one replica, each on a node of its own that the plan lists.
func (p *Plan) Validate() error {
	if err := p.validateHead(); err != nil {
		return err
	}
	for l, experts := range p.Replicas {
		if len(experts) != p.Experts {
			return fmt.Errorf("placement: layer %d lists %d experts, want %d",
				p.Layers[l], len(experts), p.Experts)
		}
		for e, on := range experts {
			if len(on) == 0 {
				return fmt.Errorf("placement: expert %d.%d has no replica", p.Layers[l], e)
			}
			for i, n := range on {
				if int(n) >= len(p.NodeIDs) || i > 0 && on[i-1] >= n {
					return fmt.Errorf("placement: expert %d.%d has bad replicas %v, of %d nodes",
						p.Layers[l], e, on, len(p.NodeIDs))
				}
			}
		}
	}
	return nil
}

func (p *Plan) validateHead() error {
	switch {
	case len(p.Layers) > MaxLayers:
		return fmt.Errorf("placement: %d layers, at most %d", len(p.Layers), MaxLayers)
	case p.Experts < 0 || p.Experts > MaxExperts:
		return fmt.Errorf("placement: %d experts, want 0 to %d", p.Experts, MaxExperts)
	case len(p.NodeIDs) > MaxNodes:
		return fmt.Errorf("placement: %d nodes, at most %d", len(p.NodeIDs), MaxNodes)
	case len(p.Replicas) != len(p.Layers):
		return fmt.Errorf("placement: replicas of %d layers, want %d",
			len(p.Replicas), len(p.Layers))
	}
	for i, l := range p.Layers {
		if l < 0 || l > maxLayerIndex || i > 0 && p.Layers[i-1] >= l {
			return fmt.Errorf("placement: layers are not ascending at position %d", i)
		}
	}
	for i, id := range p.NodeIDs {
		if id == "" || len(id) > MaxIDBytes || i > 0 && p.NodeIDs[i-1] >= id {
			return fmt.Errorf("placement: node ids are not ascending, or one is empty or longer"+
				" than %d bytes, at position %d", MaxIDBytes, i)
		}
	}
	return nil
}

// Diff lists what a change from old to new adds and drops, by node, layer and expert.
// Either plan may be nil.
func Diff(old, new *Plan) (add, drop []Move) {
	return missing(old, new), missing(new, old)
}

// missing lists the replicas of p that base lacks.
func missing(base, p *Plan) []Move {
	if p == nil {
		return nil
	}
	var moves []Move
	for i, id := range p.NodeIDs {
		in, known := base.Index(id)
		for l, layer := range p.Layers {
			for e, on := range p.Replicas[l] {
				if !slices.Contains(on, uint16(i)) {
					continue
				}
				if !known || !slices.Contains(base.On(layer, e), in) {
					moves = append(moves, Move{id, Replica{layer, e}})
				}
			}
		}
	}
	return moves
}

// Revision returns the committed plan's revision, 0 when there is none.
func (v *View) Revision() uint64 {
	if v == nil || v.Plan == nil {
		return 0
	}
	return v.Plan.Revision
}

// Node returns the registered node that an index of the plan stands for. It is false
// for a node that the plan uses but that is not registered now.
func (v *View) Node(i uint16) (Node, bool) {
	if v == nil || v.Plan == nil || int(i) >= len(v.Plan.NodeIDs) {
		return Node{}, false
	}
	n, ok := v.Nodes[v.Plan.NodeIDs[i]]
	return n, ok
}

// Uncovered lists the experts of which no registered node holds a replica.
func (v *View) Uncovered() []Replica {
	if v == nil || v.Plan == nil {
		return nil
	}
	var bare []Replica
	for l, experts := range v.Plan.Replicas {
		for e, on := range experts {
			if !slices.ContainsFunc(on, func(n uint16) bool { _, ok := v.Node(n); return ok }) {
				bare = append(bare, Replica{v.Plan.Layers[l], e})
			}
		}
	}
	return bare
}
