package placement

import (
	"cmp"
	"errors"
	"slices"
)

// add gives each expert the replicas that it lacks, each to the node with the least load
// for its share: a first one to all, then a second one, heavy experts first.
func (b *board) add() error {
	most := b.replicas
	if b.replicas < b.in.Replicas {
		most++
	}
	order := make([]int, b.in.Experts)
	for level := 1; level <= most; level++ {
		for l := range b.on {
			for e := range order {
				order[e] = e
			}
			slices.SortFunc(order, func(x, y int) int {
				return cmp.Or(cmp.Compare(b.weight[l][y], b.weight[l][x]), cmp.Compare(x, y))
			})
			for _, e := range order {
				if len(b.on[l][e]) >= level || b.want[l][e] < level {
					continue
				}
				if err := b.addOne(l, e); err != nil {
					return err
				}
			}
		}
	}
	for l := range b.on {
		for e := range b.on[l] {
			b.divide(l, e)
		}
	}
	return b.makeRoom()
}

func (b *board) addOne(l, e int) error {
	b.setWeight(l, e, b.work[l][e]/float64(b.want[l][e]))
	switch {
	case b.place(l, e), len(b.on[l][e]) < b.replicas && b.augment(l, e):
		return nil
	case len(b.on[l][e]) > 0:
		b.deferred = b.deferred || b.crowded()
		b.waiting = b.waiting || len(b.on[l][e]) < b.replicas
		return nil
	case len(b.in.Current.On(b.in.Layers[l], e)) > 0:
		b.stranded, b.waiting = append(b.stranded, Replica{l, e}), true
		return nil
	}
	return errors.New("placement: no node is left for a replica")
}

// crowded tells whether a node will have room when what it drops is gone.
func (b *board) crowded() bool {
	for n := range b.nodes {
		if b.count[n] < b.slots[n] && b.both[n] >= b.slots[n] {
			return true
		}
	}
	return false
}

// place puts a replica on the best node with room, and returns false if there is none.
func (b *board) place(l, e int) bool {
	n, ok := b.best(l, e, false)
	if ok {
		b.put(l, e, n)
	}
	return ok
}

// best finds the node for a replica: outside the domains of the others if it can be, with
// the least load for its share. Of nodes that are equally empty, and more replicas of the
// layer follow than there are nodes, the one with the most replicas in other layers comes
// first, since heavy experts do: it gets few others. Else that with the fewest does. An
// extra replica leaves the node its headroom.
func (b *board) best(l, e int, extra bool) (node uint16, ok bool) {
	b.look(l, e)
	m, w := &b.marks, b.weight[l][e]
	many := b.in.Experts*b.replicas > len(b.nodes)
	var shared bool
	var fill, spread float64
	for n := range b.nodes {
		if !b.fits(n) || extra && b.slots[n]-b.both[n] <= headroom(b.slots[n]) {
			continue
		}
		s := m.domain[b.domain[n]] == m.stamp
		f := b.fill(l, uint16(n), w)
		if ok && (s && !shared || s == shared && compareFloat(f, fill) > 0) {
			continue
		}
		p := float64(b.count[n]) * b.scale[n]
		if many && b.load[l][n] <= 0 {
			p = -p
		}
		if ok && s == shared && compareFloat(f, fill) == 0 && compareFloat(p, spread) >= 0 {
			continue
		}
		node, ok, shared, fill, spread = uint16(n), true, s, f, p
	}
	return node, ok
}

// hop is one step of an augmenting path: an expert's replica leaves node from.
type hop struct {
	l, e int
	from int
}

// augment makes room for a replica of an expert where each node with room holds it
// already: it finds the shortest chain of replicas that each move to the next node, the
// last to a node with room (an augmenting path of the matching of replicas and slots).
// Nodes that are full while the change runs cannot take part in it yet: then only the
// last moves, and the next plan goes on.
func (b *board) augment(l, e int) bool {
	reached, via := make([]bool, len(b.nodes)), make([]hop, len(b.nodes))
	var queue []int
	for n := range b.nodes {
		if !slices.Contains(b.on[l][e], uint16(n)) {
			reached[n], via[n] = true, hop{from: -1}
			queue = append(queue, n)
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		n := queue[0]
		if b.count[n] < b.slots[n] && b.both[n] < b.slots[n] {
			return b.shift(via, n, Replica{l, e})
		}
		queue = b.extend(n, reached, via, queue)
	}
	return false
}

// extend adds the nodes to which a replica on n could move.
func (b *board) extend(n int, reached []bool, via []hop, queue []int) []int {
	for l := range b.on {
		for e, on := range b.on[l] {
			if !slices.Contains(on, uint16(n)) {
				continue
			}
			for m := range b.nodes {
				if !reached[m] && !slices.Contains(on, uint16(m)) {
					reached[m], via[m] = true, hop{l, e, n}
					queue = append(queue, m)
				}
			}
		}
	}
	return queue
}

// shift moves the replicas of a path that ends in n, and puts the new one at its start.
func (b *board) shift(via []hop, n int, r Replica) bool {
	for via[n].from >= 0 {
		h := via[n]
		if !b.takes(h.l, h.e, uint16(n)) {
			return false
		}
		b.take(h.l, h.e, uint16(h.from))
		b.put(h.l, h.e, uint16(n))
		n = h.from
	}
	if !b.takes(r.Layer, r.Expert, uint16(n)) {
		return false
	}
	b.put(r.Layer, r.Expert, uint16(n))
	return true
}

// makeRoom gives up replicas that are not the last of their expert where experts without
// any found no room: the nodes may load those when these are gone, by the next plan.
func (b *board) makeRoom() error {
	lacking := len(b.stranded)
	for n := range b.nodes {
		lacking -= max(b.slots[n]-b.count[n], 0)
	}
	for l := range b.on {
		for e := range b.on[l] {
			for lacking > 0 && len(b.on[l][e]) > 1 {
				b.take(l, e, b.worst(l, e))
				lacking--
			}
			b.divide(l, e)
		}
	}
	if lacking > 0 {
		return errors.New("placement: no node is left for a replica")
	}
	return nil
}

// separate moves replicas that share a failure domain to a free one.
func (b *board) separate() {
	for l := range b.on {
		for e := range b.on[l] {
			for _, from := range slices.Clone(b.on[l][e]) {
				if b.sharesDomain(l, e, from) {
					b.separateOne(l, e, from)
				}
			}
		}
	}
}

func (b *board) separateOne(l, e int, from uint16) {
	to, ok := b.best(l, e, false)
	if ok && !b.joinsDomain(l, e, from, to) {
		b.move(l, e, from, to)
	}
}

// move moves one replica, unless the bound on moves is used up.
func (b *board) move(l, e int, from, to uint16) bool {
	if !b.pay(b.cost(l, e, from, to)) {
		return false
	}
	b.take(l, e, from)
	b.put(l, e, to)
	return true
}

// cost of a move is 1 if it makes a node load what no lost node requires it to: if it
// leaves a place that the current plan has for one that it has not.
func (b *board) cost(l, e int, from, to uint16) int {
	if !slices.Contains(b.old[l][e], from) {
		return 0
	}
	return b.loads(l, e, to)
}

// loads is 1 if a node would have to load an expert anew. What the first plan places
// costs nothing more.
func (b *board) loads(l, e int, n uint16) int {
	if b.in.Current == nil || slices.Contains(b.old[l][e], n) {
		return 0
	}
	return 1
}

// pay takes so many moves off the bound, or defers them.
func (b *board) pay(moves int) bool {
	if moves > b.movesLeft {
		b.deferred = true
		return false
	}
	b.movesLeft -= moves
	return true
}
