package placement

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// board is a plan in the making. Nodes, layers and experts are positions.
type board struct {
	in       *Input
	nodes    []Node
	replicas int         // of each expert
	slots    []int       // room of each node, in replicas
	share    []float64   // of each layer's load that a node should carry; they sum to 1
	weight   [][]float64 // load that one replica carries; a layer's sum to 1 per plan
	old, on  [][][]uint16
	load     [][]float64 // by layer and node
	count    []int       // replicas of a node in the new plan
	// both counts the replicas of a node in the old or the new plan: what it holds while
	// the change runs, since nodes load before they drop.
	both      []int
	movesLeft int // for balance and domains
	draining  int // nodes that get nothing
	deferred  bool
	tight     bool // a node must exceed its room while the change runs
}

func newBoard(in *Input) *board {
	b := &board{in: in, movesLeft: math.MaxInt}
	if in.MaxMoveBytes > 0 {
		b.movesLeft = int(in.MaxMoveBytes / in.ReplicaBytes)
	}
	experts, room := len(in.Layers)*in.Experts, 0
	for _, n := range in.Nodes {
		if n.Draining {
			b.draining++
			continue
		}
		if slots := int(min(n.CapacityBytes/in.ReplicaBytes, int64(experts))); slots > 0 {
			b.nodes, b.slots = append(b.nodes, n), append(b.slots, slots)
			room += slots
		}
	}
	b.replicas = min(in.Replicas, len(b.nodes), room/experts)
	b.share = shares(b.nodes, b.slots, experts*b.replicas)
	b.weight = weights(in, b.replicas)
	b.count, b.both = make([]int, len(b.nodes)), make([]int, len(b.nodes))
	b.load = make([][]float64, len(in.Layers))
	b.old, b.on = make([][][]uint16, len(in.Layers)), make([][][]uint16, len(in.Layers))
	for l := range in.Layers {
		b.load[l] = make([]float64, len(b.nodes))
		b.old[l], b.on[l] = make([][]uint16, in.Experts), make([][]uint16, in.Experts)
	}
	return b
}

// shares divides the replicas by the nodes' speed, as far as their slots go, and
// returns each node's part of the whole.
func shares(nodes []Node, slots []int, replicas int) []float64 {
	share := make([]float64, len(nodes))
	left, full := float64(replicas), make([]bool, len(nodes))
	for again := true; again; {
		again = false
		speeds := 0.0
		for i, n := range nodes {
			if !full[i] {
				speeds += speed(n)
			}
		}
		rate := left / speeds
		for i, n := range nodes {
			if full[i] {
				continue
			}
			share[i] = rate * speed(n)
			if share[i] > float64(slots[i]) {
				share[i], full[i], again = float64(slots[i]), true, true
				left -= share[i]
			}
		}
	}
	for i := range share {
		share[i] /= float64(max(replicas, 1))
	}
	return share
}

func speed(n Node) float64 {
	if n.Speed > 0 && n.Speed <= math.MaxFloat32 {
		return max(n.Speed, 1e-6)
	}
	return 1
}

// weights returns the part of its layer's load that one replica of each expert carries.
// Half of it is constant: in decode, a node's time follows the number of distinct
// experts that it touches, however many rows each gets.
func weights(in *Input, replicas int) [][]float64 {
	all := make([][]float64, len(in.Layers))
	for l := range all {
		all[l] = make([]float64, in.Experts)
		sum := 0.0
		for e := range all[l] {
			all[l][e] = loadOf(in.Load, l, e)
			sum += all[l][e]
		}
		for e, w := range all[l] {
			even := 1 / float64(in.Experts)
			if sum > 0 {
				even = even/2 + w/sum/2
			}
			all[l][e] = even / float64(max(replicas, 1))
		}
	}
	return all
}

func loadOf(load [][]float64, l, e int) float64 {
	if l < len(load) && e < len(load[l]) && load[l][e] > 0 && load[l][e] <= math.MaxFloat32 {
		return load[l][e]
	}
	return 0
}

func (b *board) put(l, e int, n uint16) {
	b.on[l][e] = append(b.on[l][e], n)
	b.load[l][n] += b.weight[l][e]
	b.count[n]++
	if !slices.Contains(b.old[l][e], n) {
		b.both[n]++
	}
}

func (b *board) take(l, e int, n uint16) {
	i := slices.Index(b.on[l][e], n)
	b.on[l][e] = slices.Delete(b.on[l][e], i, i+1)
	b.load[l][n] -= b.weight[l][e]
	b.count[n]--
	if !slices.Contains(b.old[l][e], n) {
		b.both[n]--
	}
}

// fill is a node's load in a layer, relative to its share, after more load.
func (b *board) fill(l int, n uint16, more float64) float64 {
	return (b.load[l][n] + more) / b.share[n]
}

// sharesDomain tells whether another replica of the expert lies in the node's domain.
// Nodes without a domain are each a domain of their own.
func (b *board) sharesDomain(l, e int, n uint16) bool {
	return b.nodes[n].Domain != "" && slices.ContainsFunc(b.on[l][e], func(o uint16) bool {
		return o != n && b.nodes[o].Domain == b.nodes[n].Domain
	})
}

// keep starts from what the current plan holds on nodes that are still there.
func (b *board) keep() {
	if b.in.Current == nil {
		return
	}
	index := make([]int, len(b.in.Current.NodeIDs))
	for i, id := range b.in.Current.NodeIDs {
		index[i] = slices.IndexFunc(b.nodes, func(n Node) bool { return n.ID == id })
	}
	for l, layer := range b.in.Layers {
		for e := range b.in.Experts {
			for _, o := range b.in.Current.On(layer, e) {
				if n := index[o]; n >= 0 {
					b.old[l][e] = append(b.old[l][e], uint16(n))
					b.both[n]++
					b.put(l, e, uint16(n))
				}
			}
			for len(b.on[l][e]) > b.replicas {
				b.take(l, e, b.worst(l, e))
			}
		}
	}
	b.shrink()
}

// worst returns the replica of an expert to give up first.
func (b *board) worst(l, e int) uint16 {
	return slices.MaxFunc(b.on[l][e], func(x, y uint16) int {
		if sx, sy := b.sharesDomain(l, e, x), b.sharesDomain(l, e, y); sx != sy {
			return map[bool]int{true: 1, false: -1}[sx]
		}
		return cmp.Or(cmp.Compare(b.fill(l, x, 0), b.fill(l, y, 0)), cmp.Compare(x, y))
	})
}

// shrink takes replicas from nodes whose room became smaller, spare replicas first.
func (b *board) shrink() {
	for spare := b.replicas; spare >= 1; spare-- {
		for l := range b.on {
			for e := range b.on[l] {
				for _, n := range slices.Clone(b.on[l][e]) {
					if b.count[n] > b.slots[n] && len(b.on[l][e]) >= spare {
						b.take(l, e, n)
					}
				}
			}
		}
	}
}

func (b *board) plan() *Plan {
	p := &Plan{Revision: 1, Layers: slices.Clone(b.in.Layers), Experts: b.in.Experts}
	if b.in.Current != nil {
		p.Revision = b.in.Current.Revision + 1
	}
	index := make([]uint16, len(b.nodes))
	for n, count := range b.count {
		if count > 0 {
			index[n] = uint16(len(p.NodeIDs))
			p.NodeIDs = append(p.NodeIDs, b.nodes[n].ID)
		}
	}
	p.Replicas = make([][][]uint16, len(b.on))
	for l := range b.on {
		p.Replicas[l] = make([][]uint16, len(b.on[l]))
		for e, on := range b.on[l] {
			at := make([]uint16, len(on))
			for i, n := range on {
				at[i] = index[n]
			}
			slices.Sort(at)
			p.Replicas[l][e] = at
		}
	}
	return p
}

func (b *board) imbalance() float64 {
	worst := 0.0
	for l := range b.load {
		for n := range b.nodes {
			worst = max(worst, b.fill(l, uint16(n), 0))
		}
	}
	return worst
}

func (b *board) notes() []string {
	var notes []string
	if b.replicas < b.in.Replicas {
		why := "room"
		if len(b.nodes) < b.in.Replicas {
			why = "nodes"
		}
		notes = append(notes, fmt.Sprintf("%s for %d of the %d wanted replicas of each expert",
			why, b.replicas, b.in.Replicas))
	}
	if n := len(b.in.Nodes) - len(b.nodes) - b.draining; n > 0 {
		notes = append(notes, fmt.Sprintf("nodes too small for one replica: %d", n))
	}
	together := 0
	for l := range b.on {
		for e, on := range b.on[l] {
			if slices.ContainsFunc(on, func(n uint16) bool { return b.sharesDomain(l, e, n) }) {
				together++
			}
		}
	}
	if together > 0 {
		notes = append(notes, fmt.Sprintf("experts with replicas in one failure domain: %d", together))
	}
	if b.tight {
		notes = append(notes, "some nodes exceed their room while the change runs")
	}
	if b.deferred {
		notes = append(notes, "more moves wait for the next plan")
	}
	return notes
}
