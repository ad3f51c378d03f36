package placement

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrNoRoom says that the nodes cannot hold one replica of each expert.
var ErrNoRoom = errors.New("no room")

const (
	// defaultTolerance is how far a node's share of a layer may be off before replicas move.
	defaultTolerance = 0.1
	// defaultMinGain is the least improvement of a layer that is worth moves.
	defaultMinGain = 0.1
)

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
	// Load is the recent work of each expert, by position in Layers and by index, in
	// any unit: Work says how to count it. Nil means uniform.
	Load [][]float64
	// HoldLoad keeps replicas from moving for balance alone: only lost nodes, room, failure
	// domains and nodes with nothing to do change the plan.
	HoldLoad bool
	// Replicas is how many replicas of each expert to place. Zero means 1.
	Replicas int
	// Spare allows that many extra replicas, of hot experts, as a fraction of those that
	// Replicas asks for, in each layer; nodes keep a little room free of them. Zero means none.
	Spare float64
	// MaxReplicas bounds the replicas of one expert, extra ones included. Zero means no
	// other bound than the nodes.
	MaxReplicas int
	// Tolerance is how far a node may be off its share of a layer's load before replicas
	// move for balance alone. Zero means 0.1; near 0 the planner moves much for little.
	Tolerance float64
	// MinGain is the part by which a layer's fullest node must become less full to make
	// moves for balance worth while. Zero means 0.1.
	MinGain float64
	// MaxMoveBytes bounds what one plan moves for balance, extra replicas and failure
	// domains; what lost nodes cost is not counted. The next plan goes on. Zero means no
	// bound.
	MaxMoveBytes int64
}

// Explanation says what a plan changes and how good it is.
type Explanation struct {
	// Replicas that the plan places of every expert; less than wanted where nodes or
	// room are few. Some experts then have one more, and with all that are wanted Extra
	// counts those beyond.
	Replicas, Extra int
	// Added and Dropped count the replicas by which the plan differs from the current
	// one, and AddedBytes is what the nodes must load.
	Added, Dropped int
	AddedBytes     int64
	// Imbalance is the largest ratio of a node's load in one layer to its share; Before is
	// that of the current plan, 0 if there is none or it lacks an expert.
	Imbalance, Before float64
	// Missed is the imbalance of the worst layer that stays as it is because no moves would
	// gain enough, 0 if none does.
	Missed float64
	// Deferred says that the next plan should follow at once: moves were bounded, or
	// replicas must be dropped before others find room.
	Deferred bool
	// Stranded counts experts without a live replica for which no node has room until
	// this plan is in force. They stay listed where they were.
	Stranded int
	// Notes are sentences for the operator.
	Notes []string
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
	b.aim()
	if err := b.add(); err != nil {
		return nil, Explanation{}, err
	}
	if !b.waiting { // else what follows might take the room
		b.separate()
		b.feed()
	}
	if !b.waiting && (in.Current == nil || !in.HoldLoad) {
		b.balance()
	}
	p := b.plan()
	if err := p.Validate(); err != nil {
		return nil, Explanation{}, err
	}
	why := b.explain(p)
	if in.Current != nil && why.Added == 0 && why.Dropped == 0 {
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
	case in.Replicas < 0 || in.MaxReplicas < 0 || in.MaxMoveBytes < 0:
		return errors.New("placement: the replica counts and the move bound must not be negative")
	case !(in.Tolerance >= 0 && in.MinGain >= 0 && in.MinGain < 1):
		return fmt.Errorf("placement: tolerance %v and least gain %v, want them positive, the"+
			" latter below 1", in.Tolerance, in.MinGain)
	case !(in.Spare >= 0 && in.Spare <= MaxNodes):
		return fmt.Errorf("placement: spare %v, want 0 to %d", in.Spare, MaxNodes)
	case len(in.Nodes) > MaxNodes:
		return fmt.Errorf("placement: %d nodes, at most %d", len(in.Nodes), MaxNodes)
	}
	in.Replicas = max(in.Replicas, 1)
	if in.MaxReplicas == 0 {
		in.MaxReplicas = MaxNodes
	}
	if in.Tolerance == 0 {
		in.Tolerance = defaultTolerance
	}
	if in.MinGain == 0 {
		in.MinGain = defaultMinGain
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
