package placement

import (
	"cmp"
	"math"
	"slices"
)

// feed gives nodes that have joined their part: a node with too few replicas and too
// little load, over all layers, gets replicas of the fullest nodes, layer by layer. While
// the load must not matter, only nodes with less than half their part do.
func (b *board) feed() {
	least := 1 - b.in.Tolerance
	if b.in.HoldLoad {
		least = min(least, 0.5)
	}
	total, replicas := make([]float64, len(b.nodes)), 0
	for n := range b.nodes {
		for l := range b.load {
			total[n] += b.load[l][n] / float64(len(b.load))
		}
		replicas += b.count[n]
	}
	for n, share := range b.share {
		hungry := func(least float64) bool {
			return total[n] < least*share && float64(b.count[n]) < least*share*float64(replicas)
		}
		if !hungry(least) {
			continue
		}
		idle := b.count[n] == 0
		for fed := true; fed; {
			fed = false
			for l := range b.load {
				if !hungry(1 - b.in.Tolerance/2) {
					break
				}
				e, from, ok := b.gift(l, uint16(n), idle)
				if !ok {
					continue
				}
				if !b.move(l, e, from, uint16(n)) {
					return
				}
				part := b.weight[l][e] / float64(len(b.load))
				total[n], total[from], fed = total[n]+part, total[from]-part, true
			}
		}
	}
}

// gift finds the replica of the fullest node of a layer that may move to another: the
// heaviest that leaves that one less full than the giver is now. Where any may give, it is of
// the fullest node that can: the fullest of all may not, as the only one of its failure domain.
func (b *board) gift(l int, to uint16, anyGiver bool) (expert int, from uint16, ok bool) {
	givers := make([]uint16, len(b.nodes))
	for n := range givers {
		givers[n] = uint16(n)
	}
	slices.SortStableFunc(givers, func(x, y uint16) int {
		return compareFloat(b.fill(l, y, 0), b.fill(l, x, 0))
	})
	for _, from = range givers {
		fill := b.fill(l, from, 0)
		for e, on := range b.on[l] {
			if !slices.Contains(on, from) || ok && b.weight[l][e] <= b.weight[l][expert] ||
				compareFloat(b.fill(l, to, b.weight[l][e]), fill) >= 0 {
				continue
			}
			if b.accepts(l, e, to) && !b.crowds(l, e, from, to) {
				expert, ok = e, true
			}
		}
		if ok || !anyGiver {
			break
		}
	}
	return expert, from, ok
}

// step is one change of a layer for the sake of balance: a move of expert e from node
// from to node to, with f the other way if that is not negative; or, with from equal to
// to, a replica that is added, or dropped.
type step struct {
	e, f     int
	from, to uint16
	drop     bool
	cost     int
	fill     float64 // of the fuller of the two, afterwards
}

// layer is a layer in which steps are searched.
type layer struct {
	*board
	l     int
	held  [][]int // experts of each node
	steps []step  // done
}

func (b *board) open(l int) *layer {
	y := &layer{board: b, l: l, held: make([][]int, len(b.nodes))}
	for e, on := range b.on[l] {
		for _, n := range on {
			y.held[n] = append(y.held[n], e)
		}
	}
	return y
}

// do does a step and notes it.
func (y *layer) do(s step) {
	y.steps = append(y.steps, s)
	switch {
	case s.drop:
		y.remove(s.e, s.to)
	case s.from == s.to:
		y.insert(s.e, s.to)
	default:
		y.carry(s.e, s.from, s.to)
		if s.f >= 0 {
			y.carry(s.f, s.to, s.from)
		}
	}
}

// undo takes back the steps, except for so many of the first.
func (y *layer) undo(keep int) {
	for i := len(y.steps) - 1; i >= keep; i-- {
		switch s := y.steps[i]; {
		case s.drop:
			y.insert(s.e, s.to)
		case s.from == s.to:
			y.remove(s.e, s.to)
		default:
			y.carry(s.e, s.to, s.from)
			if s.f >= 0 {
				y.carry(s.f, s.from, s.to)
			}
		}
	}
	y.steps = y.steps[:keep]
}

func (y *layer) carry(e int, from, to uint16) {
	y.take(y.l, e, from)
	y.put(y.l, e, to)
	i := slices.Index(y.held[from], e)
	y.held[from] = slices.Delete(y.held[from], i, i+1)
	y.held[to] = append(y.held[to], e)
}

func (y *layer) insert(e int, n uint16) {
	y.put(y.l, e, n)
	y.held[n] = append(y.held[n], e)
	y.divide(y.l, e)
}

func (y *layer) remove(e int, n uint16) {
	y.take(y.l, e, n)
	i := slices.Index(y.held[n], e)
	y.held[n] = slices.Delete(y.held[n], i, i+1)
	y.divide(y.l, e)
}

// balance makes the fullest node of each layer less full. A layer in which that is worth
// less than the least gain stays as it is. Those that gain the most for each move come
// first, as far as the bound on moves goes.
func (b *board) balance() {
	type proposal struct {
		*layer
		free int // steps that cost nothing
		rate float64
	}
	var all []proposal
	for l := range b.on {
		_, before := b.fullest(l)
		if before <= 1+b.in.Tolerance && b.in.Current != nil {
			continue
		}
		y := b.open(l)
		y.search(false)
		free := len(y.steps)
		_, before = b.fullest(l)
		y.search(true)
		y.prune(free)
		_, after := b.fullest(l)
		cost := y.expense()
		if before-after < b.in.MinGain*before {
			y.undo(free)
			if before > 1+b.in.Tolerance && compareFloat(after, before) < 0 {
				b.missed = max(b.missed, before)
			}
		} else if cost > 0 {
			all = append(all, proposal{y, free, (before - after) / float64(cost)})
		}
	}
	if b.movesLeft == math.MaxInt {
		return
	}
	slices.SortStableFunc(all, func(x, y proposal) int { return cmp.Compare(y.rate, x.rate) })
	for _, p := range all {
		keep := p.free
		for keep < len(p.steps) && b.pay(p.steps[keep].cost) {
			keep++
		}
		p.undo(keep)
	}
}

// expense is the number of moves of the steps.
func (y *layer) expense() int {
	cost := 0
	for _, s := range y.steps {
		cost += s.cost
	}
	return cost
}

// search moves replicas, swaps them and adds extra ones until the fullest node is nearly
// even, or nothing helps. Steps that cost nothing go on a little longer.
func (y *layer) search(costly bool) {
	near := 1.01
	if costly {
		near = 1 + y.in.Tolerance/2
	}
	extra := y.extras() - y.extrasHeld()
	_, least := y.fullest(y.l)
	keep := len(y.steps) // as many steps led to the least
	defer func() { y.undo(keep) }()
	for range 4 * y.in.Experts * max(y.replicas, 1) {
		from, fill := y.fullest(y.l)
		if compareFloat(fill, least) < 0 {
			least, keep = fill, len(y.steps)
		}
		if fill <= near {
			return
		}
		s, ok := y.relieve(from, fill, costly)
		if !ok && costly && extra <= 0 {
			s, ok = y.retract(fill)
		} else if !ok && (costly || y.in.Current == nil) && extra > 0 {
			s, ok = y.replicate()
		}
		if !ok {
			return
		}
		if y.do(s); s.drop {
			extra++
		} else if s.from == s.to {
			extra--
		}
	}
}

// extrasHeld counts the replicas of the layer above the aim.
func (y *layer) extrasHeld() int {
	held := 0
	for e, on := range y.on[y.l] {
		held += max(len(on)-y.want[y.l][e], 0)
	}
	return held
}

// replicate adds a replica of the expert whose replicas carry the most each, and for which
// there is a node.
func (y *layer) replicate() (step, bool) {
	var without []int
	for {
		best, most := 0, 0.0
		for e, on := range y.on[y.l] {
			w := y.weight[y.l][e]
			if w > most && y.hot(y.l, e) && len(on) < min(y.in.MaxReplicas, len(y.nodes)) &&
				!slices.Contains(without, e) {
				best, most = e, w
			}
		}
		if most == 0 {
			return step{}, false
		}
		if n, ok := y.best(y.l, best, true); ok {
			return step{e: best, f: -1, from: n, to: n, cost: y.loads(y.l, best, n)}, true
		}
		without = append(without, best)
	}
}

// retract drops the extra replica of least use, if there is an expert whose replicas carry
// a tenth more than those of that expert then would.
func (y *layer) retract(fill float64) (step, bool) {
	hottest := 0.0
	for e := range y.on[y.l] {
		if y.hot(y.l, e) {
			hottest = max(hottest, y.weight[y.l][e])
		}
	}
	best, least := step{}, hottest/1.1
	for e, on := range y.on[y.l] {
		if len(on) <= y.want[y.l][e] {
			continue
		}
		w := y.work[y.l][e] / float64(len(on)-1)
		if w >= least || y.exceeds(e, fill) {
			continue
		}
		n := y.worst(y.l, e)
		best, least = step{e: e, f: -1, from: n, to: n, drop: true}, w
	}
	return best, best.drop
}

// exceeds tells whether nodes of an expert would be as full as that if it had one replica
// less.
func (y *layer) exceeds(e int, fill float64) bool {
	on := y.on[y.l][e]
	more := y.work[y.l][e]/float64(len(on)-1) - y.weight[y.l][e]
	return slices.ContainsFunc(on, func(n uint16) bool {
		return compareFloat(y.fill(y.l, n, more), fill) >= 0
	})
}

// prune takes back the extra replicas, added after so many steps, without which the
// fullest node is no fuller.
func (y *layer) prune(free int) {
	_, fill := y.fullest(y.l)
	fill = max(fill, 1+y.in.Tolerance/2) + 1e-6
	for i := len(y.steps) - 1; i >= free; i-- {
		s := y.steps[i]
		if s.from != s.to || s.drop || y.exceeds(s.e, fill) || y.touched(i) {
			continue
		}
		y.remove(s.e, s.to)
		y.steps = slices.Delete(y.steps, i, i+1)
	}
}

// touched tells whether a step after the i-th has to do with the expert of that one.
func (y *layer) touched(i int) bool {
	return slices.ContainsFunc(y.steps[i+1:], func(s step) bool {
		return s.e == y.steps[i].e || s.f == y.steps[i].e
	})
}

// relieve finds the step that makes the fullest node, and the one that helps it, the least
// full: a move that costs nothing, else any move, else a swap.
func (y *layer) relieve(from uint16, fill float64, costly bool) (best step, ok bool) {
	for _, e := range y.held[from] {
		w := y.weight[y.l][e]
		left := y.fill(y.l, from, -w)
		y.look(y.l, e)
		for n := range y.nodes {
			got := max(y.fill(y.l, uint16(n), w), left)
			if compareFloat(got, fill) >= 0 || !y.fits(n) {
				continue
			}
			s := step{e, -1, from, uint16(n), false, y.cost(y.l, e, from, uint16(n)), got}
			if s.cost > 0 && !costly || ok && !s.beats(best) || y.crowds(y.l, e, from, s.to) {
				continue
			}
			best, ok = s, true
		}
	}
	if ok {
		return best, true
	}
	return y.swap(from, fill, costly)
}

// beats tells whether a step costs less than another or, at the same cost, is better.
func (s step) beats(o step) bool {
	return s.cost < o.cost || s.cost == o.cost && compareFloat(s.fill, o.fill) < 0
}

// swap finds the best exchange of a replica of the fullest node for a lighter one.
func (y *layer) swap(from uint16, fill float64, costly bool) (best step, ok bool) {
	for _, e := range y.held[from] {
		for n, others := range y.held {
			to := uint16(n)
			if to == from || slices.Contains(y.on[y.l][e], to) || y.crowds(y.l, e, from, to) {
				continue
			}
			for _, f := range others {
				d := y.weight[y.l][e] - y.weight[y.l][f]
				got := max(y.fill(y.l, from, -d), y.fill(y.l, to, d))
				if compareFloat(got, fill) >= 0 {
					continue
				}
				cost := y.cost(y.l, e, from, to) + y.cost(y.l, f, to, from)
				s := step{e, f, from, to, false, cost, got}
				if cost > 0 && !costly || ok && !s.beats(best) || !y.swaps(s) {
					continue
				}
				best, ok = s, true
			}
		}
	}
	return best, ok
}

// swaps tells whether a swap may be: whether the nodes lack what they get and have room
// for it while the change runs, and f crowds no domain.
func (y *layer) swaps(s step) bool {
	takes := func(e, instead int, n uint16) bool {
		return y.both[n] < y.slots[n] || slices.Contains(y.old[y.l][e], n) ||
			!slices.Contains(y.old[y.l][instead], n)
	}
	return takes(s.e, s.f, s.to) && takes(s.f, s.e, s.from) &&
		!slices.Contains(y.on[y.l][s.f], s.from) && !y.crowds(y.l, s.f, s.to, s.from)
}
