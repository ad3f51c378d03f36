package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// The least that a change of plan must move is computed from the plans alone: the new
// plan's sets of replicas, each of which some node must hold, are given to the nodes so
// that the fewest replicas have to be loaded (an assignment problem). A planner that
// gave the right sets to the wrong nodes, or moved what could stay, is above it.

// leastMoves returns the fewest replicas that must be loaded to get from one plan to
// another if the nodes may be exchanged for each other. Nodes that are not in next's
// cluster hold nothing that counts.
func leastMoves(old, next *Plan, nodes []Node) int {
	has := make([]map[Replica]bool, len(nodes))
	for i, n := range nodes {
		has[i] = map[Replica]bool{}
		for _, r := range old.Holds(n.ID) {
			has[i][r] = true
		}
	}
	cost := grid[float64](len(nodes), len(nodes))
	for set, n := range nodes {
		for _, r := range next.Holds(n.ID) {
			for i := range nodes {
				if nodes[i].Speed != n.Speed {
					cost[set][i] = 1e6
				} else if !has[i][r] {
					cost[set][i]++
				}
			}
		}
	}
	return int(math.Round(assign(cost)))
}

// assign solves the assignment problem by shortest augmenting paths with potentials (the
// Hungarian method) and returns the least cost.
func assign(cost [][]float64) float64 {
	n := len(cost)
	u, v, match := make([]float64, n+1), make([]float64, n+1), make([]int, n+1)
	for row := 1; row <= n; row++ {
		match[0] = row
		column, via := 0, make([]int, n+1)
		least, done := make([]float64, n+1), make([]bool, n+1)
		for j := range least {
			least[j] = math.Inf(1)
		}
		for ok := true; ok; ok = match[column] != 0 {
			done[column] = true
			i, next, delta := match[column], 0, math.Inf(1)
			for j := 1; j <= n; j++ {
				if done[j] {
					continue
				}
				if c := cost[i-1][j-1] - u[i] - v[j]; c < least[j] {
					least[j], via[j] = c, column
				}
				if least[j] < delta {
					delta, next = least[j], j
				}
			}
			for j := range done {
				if done[j] {
					u[match[j]] += delta
					v[j] -= delta
				} else {
					least[j] -= delta
				}
			}
			column = next
		}
		for column != 0 {
			match[column] = match[via[column]]
			column = via[column]
		}
	}
	return -v[0]
}

func TestAssign(t *testing.T) {
	if got := assign([][]float64{{4, 1, 3}, {2, 0, 5}, {3, 2, 2}}); got != 5 {
		t.Errorf("assign = %v, want 5", got)
	}
}

// leastLoaded is a bound that knows of the new plan only how many replicas there are of
// each expert and on each node: what an expert lacks must be loaded somewhere, and so must
// what a node holds above what it held.
func leastLoaded(old, next *Plan, nodes []Node) int {
	experts, byNode := 0, 0
	live := map[string]bool{}
	for _, n := range nodes {
		live[n.ID] = true
		byNode += max(next.Count(n.ID)-old.Count(n.ID), 0)
	}
	for l, layer := range next.Layers {
		for e, on := range next.Replicas[l] {
			left := 0
			for _, i := range old.On(layer, e) {
				if live[old.NodeIDs[i]] {
					left++
				}
			}
			experts += max(len(on)-left, 0)
		}
	}
	return max(experts, byNode)
}

// TestMovesNearTheLeast grows and shrinks a cluster and compares what is moved with the
// least that the new plans take.
func TestMovesNearTheLeast(t *testing.T) {
	ids := func(of ...int) []Node {
		var nodes []Node
		for _, i := range of {
			nodes = append(nodes, Node{ID: fmt.Sprintf("n%d", i), CapacityBytes: 1 << 40})
		}
		return nodes
	}
	steps := [][]Node{ids(0, 1), ids(0, 1, 2, 3, 4, 5), ids(1, 3, 4), ids(1, 3, 4, 6, 7)}
	for _, replicas := range []int{1, 2} {
		for _, spread := range []float64{0, 1} {
			t.Run(fmt.Sprintf("replicas=%d/spread=%v", replicas, spread), func(t *testing.T) {
				in := Input{Layers: []int{0, 1, 2, 3, 4, 5}, Experts: 128, ReplicaBytes: 1,
					Replicas: replicas, Spare: 0.125, Load: skewed(4, 6, 128, spread)}
				for _, in.Nodes = range steps {
					moveOn(t, &in)
				}
			})
		}
	}
}

// moveOn plans, compares what was loaded with the bounds, and makes the plan the current one.
func moveOn(t *testing.T, in *Input) {
	t.Helper()
	old := in.Current
	p, why := next(t, *in)
	in.Current = p
	if old == nil {
		return
	}
	least, counted := leastMoves(old, p, in.Nodes), leastLoaded(old, p, in.Nodes)
	t.Logf("%d nodes: moved %d, least by assignment %d, by counting %d", len(in.Nodes), why.Added,
		least, counted)
	if counted > why.Added || least > why.Added {
		t.Errorf("%d moved, fewer than the least, %d and %d", why.Added, least, counted)
	}
	if float64(why.Added) > 1.2*float64(least)+1 {
		t.Errorf("%d moved, the least is %d", why.Added, least)
	}
	if float64(why.Added) > 1.2*float64(counted)+2*float64(len(in.Layers)) {
		t.Errorf("%d moved, by counting the least is %d", why.Added, counted)
	}
}

// TestRandomMovesNearTheLeast does the same with nodes that come and go at random.
func TestRandomMovesNearTheLeast(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			in := Input{Layers: []int{0, 1, 2, 3}, Experts: 64, ReplicaBytes: 1,
				Replicas: 1 + int(seed%2), Spare: 0.125, Load: skewed(seed, 4, 64, float64(seed%3)/2)}
			id := 0
			for range 12 {
				for range 1 + r.IntN(3) {
					if n := len(in.Nodes); n > 3 && r.IntN(2) == 0 {
						i := r.IntN(n)
						in.Nodes = append(append([]Node{}, in.Nodes[:i]...), in.Nodes[i+1:]...)
					} else if n < 10 {
						in.Nodes = append(append([]Node{}, in.Nodes...), Node{
							ID: fmt.Sprintf("n%03d", id), CapacityBytes: 1 << 40, Speed: float64(1 + id%2)})
						id++
					}
				}
				moveOn(t, &in)
			}
		})
	}
}
