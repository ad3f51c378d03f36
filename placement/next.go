package placement

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// ErrNoRoom says that the nodes cannot hold one replica of each expert.
var ErrNoRoom = errors.New("no room")

// defaultTolerance is how far a node's share of a layer may be off before replicas move.
const defaultTolerance = 0.1

// Input is what the planner decides from.
type Input struct {
	// Current is the committed plan; nil before the first.
	Current *Plan
	// Layers, Experts and ReplicaBytes are the model's shape: its MoE layers, ascending,
	// the experts of each, and the room that one replica takes on a node.
	Layers       []int
	Experts      int
	ReplicaBytes int64
	// Nodes are the nodes to place on, in any order.
	Nodes []Node
	// Load is the recent load of each expert, by position in Layers and by index, in
	// any unit. Nil means uniform.
	Load [][]float64
	// Replicas is how many replicas of each expert to place. Zero means 1.
	Replicas int
	// Tolerance is how far a node may be off its share of a layer's load before replicas
	// move for balance alone. Zero means 0.1; near 0 the planner moves much for little.
	Tolerance float64
	// MaxMoveBytes bounds what one plan moves for balance and for failure domains; what
	// lost nodes cost is not counted. The next plan goes on. Zero means no bound.
	MaxMoveBytes int64
}

// Explanation says what a plan changes and how good it is.
type Explanation struct {
	// Replicas of each expert that the plan places; less than wanted where nodes or
	// room are few.
	Replicas int
	// Added and Dropped count the replicas by which the plan differs from the current
	// one, and AddedBytes is what the nodes must load.
	Added, Dropped int
	AddedBytes     int64
	// Imbalance is the largest ratio of a node's load in one layer to its share.
	Imbalance float64
	// Notes are sentences for the operator.
	Notes []string
}

// String returns the explanation as one line.
func (e Explanation) String() string {
	s := fmt.Sprintf("replicas %d, added %d (%d bytes), dropped %d, imbalance %.2f",
		e.Replicas, e.Added, e.AddedBytes, e.Dropped, e.Imbalance)
	return strings.Join(append([]string{s}, e.Notes...), "; ")
}

// Next decides the plan that should follow the current one. It keeps what is well
// placed and moves only what lost nodes, failure domains or balance require. When
// nothing has to change it returns in.Current itself; otherwise a plan with the next
// revision. The same input gives the same plan.
func Next(in Input) (*Plan, Explanation, error) {
	if err := in.normalize(); err != nil {
		return nil, Explanation{}, err
	}
	b := newBoard(&in)
	if b.replicas == 0 {
		return nil, Explanation{}, in.noRoom()
	}
	b.keep()
	if err := b.add(); err != nil {
		return nil, Explanation{}, err
	}
	b.separate()
	for l := range b.on {
		b.balance(l)
	}
	p := b.plan()
	if err := p.Validate(); err != nil {
		return nil, Explanation{}, err
	}
	add, drop := Diff(in.Current, p)
	why := Explanation{
		Replicas: b.replicas, Added: len(add), Dropped: len(drop),
		AddedBytes: int64(len(add)) * in.ReplicaBytes,
		Imbalance:  b.imbalance(), Notes: b.notes(),
	}
	if in.Current != nil && len(add) == 0 && len(drop) == 0 {
		return in.Current, why, nil
	}
	return p, why, nil
}

// normalize checks the input and replaces zeros by defaults. It copies what it sorts.
func (in *Input) normalize() error {
	shape := Plan{Layers: in.Layers, Experts: in.Experts}
	shape.Replicas = make([][][]uint16, len(in.Layers))
	if err := shape.validateHead(); err != nil {
		return err
	}
	switch {
	case len(in.Layers) == 0 || in.Experts == 0:
		return errors.New("placement: the model has no experts to place")
	case in.ReplicaBytes <= 0:
		return fmt.Errorf("placement: a replica of %d bytes", in.ReplicaBytes)
	case in.Replicas < 0 || in.MaxMoveBytes < 0:
		return errors.New("placement: the replica count and the move bound must not be negative")
	case math.IsNaN(in.Tolerance) || in.Tolerance < 0:
		return fmt.Errorf("placement: tolerance %v, want a positive number", in.Tolerance)
	case len(in.Nodes) > MaxNodes:
		return fmt.Errorf("placement: %d nodes, at most %d", len(in.Nodes), MaxNodes)
	}
	in.Replicas = max(in.Replicas, 1)
	if in.Tolerance == 0 {
		in.Tolerance = defaultTolerance
	}
	in.Nodes = slices.Clone(in.Nodes)
	slices.SortFunc(in.Nodes, func(a, b Node) int { return strings.Compare(a.ID, b.ID) })
	for i, n := range in.Nodes {
		if n.ID == "" || len(n.ID) > MaxIDBytes {
			return fmt.Errorf("placement: node id %q, want 1 to %d bytes", n.ID, MaxIDBytes)
		}
		if i > 0 && in.Nodes[i-1].ID == n.ID {
			return fmt.Errorf("placement: node %q is listed twice", n.ID)
		}
	}
	return nil
}

// noRoom says how many bytes are missing. What a node has beyond whole replicas is no room.
func (in *Input) noRoom() error {
	var room int64
	nodes := 0
	for _, n := range in.Nodes {
		if !n.Draining {
			room += max(n.CapacityBytes, 0) / in.ReplicaBytes * in.ReplicaBytes
			nodes++
		}
	}
	experts := len(in.Layers) * in.Experts
	need := int64(experts) * in.ReplicaBytes
	return fmt.Errorf("placement: %w: one replica of each of %d experts needs %d bytes in pieces"+
		" of %d, %d nodes have %d, %d are missing; add nodes or raise their capacity",
		ErrNoRoom, experts, need, in.ReplicaBytes, nodes, room, need-room)
}
