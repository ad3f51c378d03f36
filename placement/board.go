package placement

import (
	"cmp"
	"math"
	"slices"
)

// board is a plan in the making. Nodes, layers and experts are positions.
type board struct {
	in       *Input
	nodes    []Node
	domain   []int       // of each node; equal numbers share one
	slots    []int       // room of each node, in replicas
	share    []float64   // of each layer's load that a node should carry; they sum to 1
	scale    []float64   // 1 / share
	work     [][]float64 // of each expert; a layer's sum to 1
	replicas int         // that every expert gets
	want     [][]int     // of each expert, without extra ones
	weight   [][]float64 // of its layer's load that one replica of an expert carries
	old, on  [][][]uint16
	load     [][]float64 // by layer and node
	count    []int       // replicas of a node in the new plan
	// both counts the replicas of a node in the old or the new plan: what it holds while
	// the change runs, since nodes load before they drop. It stays within the slots.
	both      []int
	movesLeft int // for balance, domains and extra replicas
	draining  int // nodes that get nothing
	stranded  []Replica
	waiting   bool    // a promised replica finds no room until others are dropped
	deferred  bool    // the next plan goes on
	before    float64 // imbalance of the current plan; 0: none, or not whole
	missed    float64 // imbalance of a layer that was not worth moves; 0: none
	marks     marks
}

// marks answers, for the expert that was looked at last, what holds of a node.
type marks struct {
	stamp           int
	on, old, domain []int // equal to stamp: yes
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
	b.domain = domains(b.nodes)
	b.replicas = min(in.Replicas, len(b.nodes), room/experts)
	b.share = shares(b.nodes, b.slots, experts*b.replicas)
	b.scale = make([]float64, len(b.nodes))
	for n, share := range b.share {
		b.scale[n] = 1 / share
	}
	b.work = works(in)
	n := len(b.nodes)
	b.count, b.both = make([]int, n), make([]int, n)
	b.marks = marks{on: make([]int, n), old: make([]int, n), domain: make([]int, n)}
	b.load, b.weight = grid[float64](len(in.Layers), n), grid[float64](len(in.Layers), in.Experts)
	b.want = grid[int](len(in.Layers), in.Experts)
	b.old = grid[[]uint16](len(in.Layers), in.Experts)
	b.on = grid[[]uint16](len(in.Layers), in.Experts)
	return b
}

func grid[T any](rows, columns int) [][]T {
	g := make([][]T, rows)
	for i := range g {
		g[i] = make([]T, columns)
	}
	return g
}

// domains numbers the failure domains. A node without one is a domain of its own.
func domains(nodes []Node) []int {
	number, byName := make([]int, len(nodes)), map[string]int{}
	for i, n := range nodes {
		first, known := byName[n.Domain]
		if n.Domain == "" || !known {
			first, byName[n.Domain] = i, i
		}
		number[i] = first
	}
	return number
}

// setWeight says what one replica of an expert carries.
func (b *board) setWeight(l, e int, w float64) {
	for _, n := range b.on[l][e] {
		b.load[l][n] += w - b.weight[l][e]
	}
	b.weight[l][e] = w
}

// divide shares an expert's work among the replicas that it has.
func (b *board) divide(l, e int) {
	b.setWeight(l, e, b.work[l][e]/float64(max(len(b.on[l][e]), 1)))
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
	return (b.load[l][n] + more) * b.scale[n]
}

// fullest is the node of a layer with the most load for its share.
func (b *board) fullest(l int) (node uint16, fill float64) {
	for n := range b.nodes {
		if f := b.fill(l, uint16(n), 0); n == 0 || compareFloat(f, fill) > 0 {
			node, fill = uint16(n), f
		}
	}
	return node, fill
}

// imbalance is the largest fill of any node in any layer.
func (b *board) imbalance() float64 {
	worst := 0.0
	for l := range b.load {
		_, fill := b.fullest(l)
		worst = max(worst, fill)
	}
	return worst
}

// compareFloat takes numbers that differ by rounding only for equal.
func compareFloat(x, y float64) int {
	if d := x - y; d < 1e-9 && d > -1e-9 {
		return 0
	}
	return cmp.Compare(x, y)
}

// sharesDomain tells whether another replica of the expert lies in the node's domain.
func (b *board) sharesDomain(l, e int, n uint16) bool {
	return b.joinsDomain(l, e, n, n)
}

// joinsDomain tells whether a replica that moves from one node to another would lie in
// one domain with a third.
func (b *board) joinsDomain(l, e int, from, to uint16) bool {
	for _, o := range b.on[l][e] {
		if o != from && b.domain[o] == b.domain[to] {
			return true
		}
	}
	return false
}

// crowds tells whether a move would have a replica share a domain that shares none where it is:
// where all nodes lie in one domain, no move does.
func (b *board) crowds(l, e int, from, to uint16) bool {
	return b.joinsDomain(l, e, from, to) && !b.sharesDomain(l, e, from)
}

// look sets the marks for an expert.
func (b *board) look(l, e int) {
	m := &b.marks
	m.stamp++
	for _, n := range b.old[l][e] {
		m.old[n] = m.stamp
	}
	for _, n := range b.on[l][e] {
		m.on[n], m.domain[b.domain[n]] = m.stamp, m.stamp
	}
}

// fits tells whether a node lacks the expert that was looked at and has room for it, now
// and while the change runs.
func (b *board) fits(n int) bool {
	m := &b.marks
	return m.on[n] != m.stamp && b.count[n] < b.slots[n] &&
		(b.both[n] < b.slots[n] || m.old[n] == m.stamp)
}

// accepts is fits for any expert.
func (b *board) accepts(l, e int, n uint16) bool {
	return b.count[n] < b.slots[n] && b.takes(l, e, n)
}

// takes tells whether a node that gives up another replica could have this one.
func (b *board) takes(l, e int, n uint16) bool {
	return !slices.Contains(b.on[l][e], n) &&
		(b.both[n] < b.slots[n] || slices.Contains(b.old[l][e], n))
}

// keep starts from what the current plan holds on nodes that are still there.
func (b *board) keep() {
	if b.in.Current == nil {
		return
	}
	at := make(map[string]uint16, len(b.nodes))
	for i, n := range b.nodes {
		at[n.ID] = uint16(i)
	}
	index := make([]int, len(b.in.Current.NodeIDs))
	for i, id := range b.in.Current.NodeIDs {
		index[i] = -1
		if n, ok := at[id]; ok {
			index[i] = int(n)
		}
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
			b.divide(l, e)
		}
	}
	b.before = b.imbalance()
	for l := range b.on {
		if slices.ContainsFunc(b.on[l], func(on []uint16) bool { return len(on) == 0 }) {
			b.before = 0
		}
	}
	b.shrink()
}

// shrink takes replicas from nodes whose room became smaller, those first of which the
// most others are left.
func (b *board) shrink() {
	most := 0
	for n := range b.nodes {
		if b.count[n] > b.slots[n] {
			most = len(b.nodes)
		}
	}
	for spare := most; spare >= 1; spare-- {
		for l := range b.on {
			for e := range b.on[l] {
				for _, n := range slices.Clone(b.on[l][e]) {
					if b.count[n] > b.slots[n] && len(b.on[l][e]) >= spare {
						b.take(l, e, n)
					}
				}
				b.divide(l, e)
			}
		}
	}
}

// worst returns the replica of an expert to give up first.
func (b *board) worst(l, e int) uint16 {
	return slices.MaxFunc(b.on[l][e], func(x, y uint16) int {
		if sx, sy := b.sharesDomain(l, e, x), b.sharesDomain(l, e, y); sx != sy {
			return map[bool]int{true: 1, false: -1}[sx]
		}
		return cmp.Or(compareFloat(b.fill(l, x, 0), b.fill(l, y, 0)), cmp.Compare(x, y))
	})
}
