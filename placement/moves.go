package placement

import (
	"cmp"
	"errors"
	"slices"
)

// add gives each expert the replicas that it lacks: heavy experts first, each to the
// node with the least load for its share.
func (b *board) add() error {
	order := make([]int, b.in.Experts)
	for l := range b.on {
		for e := range order {
			order[e] = e
		}
		slices.SortFunc(order, func(x, y int) int {
			return cmp.Or(cmp.Compare(b.weight[l][y], b.weight[l][x]), cmp.Compare(x, y))
		})
		for _, e := range order {
			for len(b.on[l][e]) < b.replicas {
				if !b.place(l, e) && !b.augment(l, e) {
					return errors.New("placement: no node is left for a replica")
				}
			}
		}
	}
	return nil
}

// place puts a replica on the best node with room, and returns false if there is none.
func (b *board) place(l, e int) bool {
	best, found := uint16(0), false
	for i := range b.nodes {
		n := uint16(i)
		if b.count[n] >= b.slots[n] || slices.Contains(b.on[l][e], n) {
			continue
		}
		if !found || b.better(l, e, n, best) {
			best, found = n, true
		}
	}
	if found {
		b.tight = b.tight || b.crowded(l, e, best)
		b.put(l, e, best)
	}
	return found
}

// crowded tells whether the node has no room for one more while a change runs.
func (b *board) crowded(l, e int, n uint16) bool {
	return b.both[n] >= b.slots[n] && !slices.Contains(b.old[l][e], n)
}

// better tells whether x suits a new replica more than y does.
func (b *board) better(l, e int, x, y uint16) bool {
	if cx, cy := b.crowded(l, e, x), b.crowded(l, e, y); cx != cy {
		return cy
	}
	if sx, sy := b.sharesDomain(l, e, x), b.sharesDomain(l, e, y); sx != sy {
		return sy
	}
	w := b.weight[l][e]
	spread := func(n uint16) float64 { return float64(b.count[n]) / b.share[n] }
	return cmp.Or(compareFloat(b.fill(l, x, w), b.fill(l, y, w)),
		compareFloat(spread(x), spread(y)), cmp.Compare(x, y)) < 0
}

// compareFloat takes numbers that differ by rounding only for equal.
func compareFloat(x, y float64) int {
	if d := x - y; d < 1e-9 && d > -1e-9 {
		return 0
	}
	return cmp.Compare(x, y)
}

// hop is one step of an augmenting path: an expert's replica leaves node from.
type hop struct {
	l, e int
	from int
}

// augment makes room for a replica of an expert where each node with room holds it
// already: it finds the shortest chain of replicas that each move to the next node, the
// last to a node with room (an augmenting path of the matching of replicas and slots).
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
		if b.count[n] < b.slots[n] {
			b.shift(via, n)
			b.tight = true
			for via[n].from >= 0 {
				n = via[n].from
			}
			b.put(l, e, uint16(n))
			return true
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

// shift moves the replicas of a path that ends in n.
func (b *board) shift(via []hop, n int) {
	for via[n].from >= 0 {
		h := via[n]
		b.take(h.l, h.e, uint16(h.from))
		b.put(h.l, h.e, uint16(n))
		n = h.from
	}
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
	best, found := uint16(0), false
	for i := range b.nodes {
		n := uint16(i)
		if b.accepts(l, e, n) && !b.sharesDomain(l, e, n) &&
			(!found || b.better(l, e, n, best)) {
			best, found = n, true
		}
	}
	if found {
		b.move(l, e, from, best)
	}
}

// accepts tells whether a node has room for a replica that it lacks, now and while the
// change runs.
func (b *board) accepts(l, e int, n uint16) bool {
	return !slices.Contains(b.on[l][e], n) && b.count[n] < b.slots[n] && !b.crowded(l, e, n)
}

// move moves one replica, unless the bound on moves is used up.
func (b *board) move(l, e int, from, to uint16) bool {
	kept := slices.Contains(b.old[l][e], from)
	if kept && b.movesLeft == 0 {
		b.deferred = true
		return false
	}
	if kept {
		b.movesLeft--
	}
	b.take(l, e, from)
	b.put(l, e, to)
	return true
}

// balance moves replicas of a layer from nodes above their share to nodes below it,
// until all are within the tolerance or no move makes the fuller of the two less full.
func (b *board) balance(l int) {
	order := make([]uint16, len(b.nodes))
	for n := range order {
		order[n] = uint16(n)
	}
	for range 2 * b.in.Experts * b.replicas {
		slices.SortFunc(order, func(x, y uint16) int {
			return cmp.Or(compareFloat(b.fill(l, y, 0), b.fill(l, x, 0)), cmp.Compare(x, y))
		})
		if b.even(l, order) || !b.improve(l, order) {
			return
		}
	}
}

// even tells whether the fullest and the emptiest node are within the tolerance.
func (b *board) even(l int, order []uint16) bool {
	return b.fill(l, order[0], 0) <= 1+b.in.Tolerance &&
		b.fill(l, order[len(order)-1], 0) >= 1-b.in.Tolerance
}

// improve makes one move from a fuller node to an emptier one.
func (b *board) improve(l int, order []uint16) bool {
	for _, from := range order {
		for i := len(order) - 1; i >= 0; i-- {
			to := order[i]
			if b.fill(l, to, 0) >= b.fill(l, from, 0) {
				break
			}
			if e, ok := b.lightens(l, from, to); ok {
				return b.move(l, e, from, to)
			}
		}
	}
	return false
}

// lightens finds the expert whose move makes the most of the room between two nodes:
// first one that costs nothing because the node has yet to load it, then the heaviest.
func (b *board) lightens(l int, from, to uint16) (expert int, ok bool) {
	costs := false
	for e, on := range b.on[l] {
		if !slices.Contains(on, from) || !b.accepts(l, e, to) {
			continue
		}
		w := b.weight[l][e]
		if b.fill(l, to, w)+1e-9 >= b.fill(l, from, 0) || b.joinsDomain(l, e, from, to) {
			continue
		}
		kept := slices.Contains(b.old[l][e], from)
		if !ok || costs && !kept || costs == kept && w > b.weight[l][expert] {
			expert, costs, ok = e, kept, true
		}
	}
	return expert, ok
}

// joinsDomain tells whether a move would put two replicas of an expert in one domain.
func (b *board) joinsDomain(l, e int, from, to uint16) bool {
	return b.nodes[to].Domain != "" && slices.ContainsFunc(b.on[l][e], func(o uint16) bool {
		return o != from && b.nodes[o].Domain == b.nodes[to].Domain
	})
}
