package placement

import (
	"cmp"
	"math"
	"slices"
)

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

// works returns each expert's part of its layer's load.
func works(in *Input) [][]float64 {
	all := grid[float64](len(in.Layers), in.Experts)
	for l := range all {
		sum := 0.0
		for e := range all[l] {
			all[l][e] = loadOf(in.Load, l, e)
			sum += all[l][e]
		}
		for e := range all[l] {
			if sum > 0 {
				all[l][e] /= sum
			} else {
				all[l][e] = 1 / float64(in.Experts)
			}
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

// headroom is what a node keeps free of replicas that nobody was promised, so that others
// can move.
func headroom(slots int) int { return max(slots/32, 1) }

// aim decides how many replicas each expert is to have, without extra ones: as many as
// are wanted or, where there is too little room, one less for the experts with the least
// work. What an expert has already it loses only to one with half as much work again.
func (b *board) aim() {
	experts := len(b.in.Layers) * b.in.Experts
	partial := 0
	if b.replicas < min(b.in.Replicas, len(b.nodes)) {
		for _, s := range b.slots {
			partial += s - headroom(s)
		}
		partial = max(partial-experts*b.replicas, 0)
	}
	type candidate struct {
		l, e int
		work float64
	}
	var all []candidate
	for l := range b.want {
		for e := range b.want[l] {
			b.want[l][e] = b.replicas
			c := candidate{l, e, b.work[l][e]}
			if len(b.on[l][e]) > b.replicas {
				c.work *= 1.5
			}
			all = append(all, c)
		}
	}
	if partial > 0 {
		slices.SortStableFunc(all, func(x, y candidate) int { return cmp.Compare(y.work, x.work) })
		for _, c := range all[:min(partial, experts)] {
			b.want[c.l][c.e]++
		}
	}
	b.trim()
}

// trim gives up what is above the aim, except for extra replicas.
func (b *board) trim() {
	most := b.extras()
	for l := range b.on {
		extra := 0
		for e := range b.on[l] {
			spare := b.want[l][e]
			for spare < min(len(b.on[l][e]), b.in.MaxReplicas) && extra < most {
				spare, extra = spare+1, extra+1
			}
			for len(b.on[l][e]) > spare {
				b.take(l, e, b.worst(l, e))
			}
			b.divide(l, e)
		}
	}
}

// extras is the number of extra replicas that a layer may have: none while there is no
// room for what is wanted of all experts.
func (b *board) extras() int {
	if b.replicas < b.in.Replicas {
		return 0
	}
	return int(b.in.Spare * float64(b.in.Experts*b.in.Replicas))
}

// hot tells whether a replica of an expert carries more than half of what an average node
// should.
func (b *board) hot(l, e int) bool {
	return b.weight[l][e]*float64(len(b.nodes)) > 0.5
}
