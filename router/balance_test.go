package router

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// exact is the least largest finish of all distributions.
func exact(b *balance) float64 {
	least := math.Inf(1)
	finish, count := make([]float64, len(b.nodes)), make([]int, len(b.nodes))
	for i := range b.nodes {
		finish[i] = b.nodes[i].base
	}
	var try func(item int)
	try = func(item int) {
		if item == len(b.items) {
			largest := 0.
			for i := range finish {
				if count[i] > 0 {
					largest = max(largest, finish[i])
				}
			}
			least = min(least, largest)
			return
		}
		it := &b.items[item]
		for _, o := range b.options[it.first:it.last] {
			cost := b.cost(int32(item), o)
			finish[o] += cost
			count[o]++
			try(item + 1)
			finish[o] -= cost
			count[o]--
		}
	}
	try(0)
	return least
}

// randomBalance has some nodes and items with one to three options.
func randomBalance(rng *rand.Rand, equal bool) *balance {
	b := new(balance)
	nodes := 2 + rng.IntN(4)
	b.reset(nodes)
	for i := range b.nodes {
		b.nodes[i].each = 1
		if !equal {
			b.nodes[i].base, b.nodes[i].each = rng.Float64(), 0.5+2*rng.Float64()
		}
	}
	for range 1 + rng.IntN(9) {
		work := 1.
		if !equal {
			work = 1 + float64(rng.IntN(16))/8
		}
		b.item(work)
		perm := rng.Perm(nodes)
		for _, n := range perm[:min(1+rng.IntN(3), nodes)] {
			b.option(n)
		}
	}
	return b
}

// checkBalance wants every item on one of its options and finishes that add up.
func checkBalance(t *testing.T, b *balance) {
	t.Helper()
	finish := make([]float64, len(b.nodes))
	for i := range b.nodes {
		finish[i] = b.nodes[i].base
	}
	for i := range b.items {
		it := &b.items[i]
		ok := false
		for _, o := range b.options[it.first:it.last] {
			ok = ok || o == it.on
		}
		if !ok {
			t.Fatalf("item %d is on node %d, its options are %v", i, it.on, b.options[it.first:it.last])
		}
		finish[it.on] += b.cost(int32(i), it.on)
	}
	for i := range finish {
		if math.Abs(finish[i]-b.nodes[i].finish) > 1e-9*(1+finish[i]) {
			t.Fatalf("node %d finishes at %v, its items add up to %v", i, b.nodes[i].finish, finish[i])
		}
	}
}

// TestBalanceIsBest compares with all distributions of small cases: where all items and
// nodes are equal, it is one of the best ones.
func TestBalanceIsBest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		b := randomBalance(rng, true)
		b.solve()
		checkBalance(t, b)
		if got, want := b.largest(), exact(b); got != want {
			t.Fatalf("largest number of experts = %v, the least possible is %v: %+v", got, want, b)
		}
	}
}

// TestBalanceIsGood does the same with nodes and items that differ, where the best is hard
// to find: it is close on average and never far.
func TestBalanceIsGood(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	sum, worst, best := 0., 1., 0
	const cases = 3000
	for range cases {
		b := randomBalance(rng, false)
		b.solve()
		checkBalance(t, b)
		gap := b.largest() / exact(b)
		if gap < 1-1e-9 {
			t.Fatalf("better than the best: %v", gap)
		}
		sum, worst = sum+gap, max(worst, gap)
		if gap < 1+1e-9 {
			best++
		}
	}
	t.Logf("largest finish over the least possible: mean %.4f, worst %.3f, the best in %d of %d",
		sum/cases, worst, best, cases)
	if sum/cases > 1.02 || worst > 1.5 {
		t.Errorf("mean gap %v, worst %v, want at most 1.02 and 1.5", sum/cases, worst)
	}
}

// TestBalanceAvoidsTheSlow puts nothing on a node that is ten times slower than what the
// others can take together.
func TestBalanceAvoidsTheSlow(t *testing.T) {
	b := new(balance)
	b.reset(3)
	for i, each := range []float64{10, 1, 1} {
		b.nodes[i].each = each
	}
	for i := range 8 {
		b.item(1)
		b.option(i % 3)
		b.option((i + 1) % 3)
	}
	b.solve()
	if b.nodes[0].items != 0 || b.largest() > 5 {
		t.Errorf("nodes %+v, want nothing on the slow one", b.nodes)
	}
}

func BenchmarkBalance(b *testing.B) {
	for _, size := range []struct{ items, nodes int }{{1, 4}, {8, 4}, {32, 8}, {128, 8}, {128, 64}} {
		b.Run(fmt.Sprintf("%dexperts_%dnodes", size.items, size.nodes), func(b *testing.B) {
			var plan balance
			rng := rand.New(rand.NewPCG(1, 1))
			options := make([]int, 2*size.items)
			for i := range options {
				options[i] = rng.IntN(size.nodes)
			}
			b.ReportAllocs()
			for b.Loop() {
				plan.reset(size.nodes)
				for i := range plan.nodes {
					plan.nodes[i].base, plan.nodes[i].each = 1, 0.1
				}
				for i := range size.items {
					plan.item(1)
					plan.option(options[2*i])
					plan.option(options[2*i+1])
				}
				plan.solve()
			}
		})
	}
}
