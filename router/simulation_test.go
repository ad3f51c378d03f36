package router

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// simNodes is a lane's view of nodes in virtual time: balance and link states decide,
// and frames take as long as the test says.
type simNodes struct {
	rng    *rand.Rand
	plan   balance
	states []linkState
	slow   []float64 // times the usual time that a node takes
	extra  budget
	rows   int // sent once
	twice  int // probes
	used   []int
}

const (
	simBase = 200 * time.Microsecond // of a frame
	simEach = 300 * time.Microsecond // of an expert
)

func newSim(nodes int) *simNodes {
	s := &simNodes{rng: rand.New(rand.NewPCG(7, uint64(nodes))), extra: newBudget()}
	s.states, s.slow = make([]linkState, nodes), make([]float64, nodes)
	s.used = make([]int, nodes)
	for i := range s.slow {
		s.slow[i] = 1
	}
	return s
}

// took draws the time of a frame.
func (s *simNodes) took(node, experts int) time.Duration {
	usual := float64(simBase) + float64(simEach)*float64(experts)
	return time.Duration(usual * s.slow[node] * (0.9 + 0.2*s.rng.Float64()))
}

// round sends one row to each of so many experts, each of which has replicas on two nodes
// in turn, and returns when the last node is done.
func (s *simNodes) round(experts int) time.Duration {
	n := len(s.states)
	s.plan.reset(n)
	for i := range s.states {
		s.plan.nodes[i].base, s.plan.nodes[i].each = s.states[i].usual.at(0), s.states[i].usual.slope()
	}
	held := make([]bool, n)
	for range experts {
		first := s.rng.IntN(n)
		s.plan.item(1)
		for c := range 2 {
			s.plan.option((first + c) % n)
			held[(first+c)%n] = true
		}
	}
	s.plan.solve()
	last := time.Duration(0)
	for i := range s.states {
		count := s.plan.nodes[i].items
		if count == 0 {
			if held[i] && s.states[i].passedOver() && s.extra.spend(1) {
				s.states[i].answered(sample{work: 1, took: s.took(i, 1), probe: true})
				s.twice++
			}
			continue
		}
		took := s.took(i, count)
		s.states[i].answered(sample{work: count, took: took})
		s.used[i] += count
		last = max(last, took)
	}
	s.rows += experts
	s.extra.earn(experts, 0.05)
	return last
}

// rounds runs rounds of four to twelve experts and returns their 99th percentile and
// the share of a node.
func (s *simNodes) rounds(count, node int) (p99 time.Duration, share float64) {
	clear(s.used)
	before := s.rows
	var all []time.Duration
	for range count {
		all = append(all, s.round(4+s.rng.IntN(9)))
	}
	slices.Sort(all)
	return all[len(all)*99/100], float64(s.used[node]) / float64(s.rows-before)
}

// TestLinksInSimulation makes one of several nodes ten times slower and well again. Rounds
// take no longer then than the other nodes need for all of the work, and the node gets its
// share back by a few probes.
func TestLinksInSimulation(t *testing.T) {
	for _, nodes := range []int{3, 4, 8} {
		s := newSim(nodes)
		s.rounds(200, 0)
		healthy, fair := s.rounds(4000, 0)
		s.slow[0] = 10
		s.rounds(20, 0) // until it is noticed
		slow, small := s.rounds(4000, 0)
		s.slow[0] = 1
		s.rounds(64*8, 0)
		again, back := s.rounds(4000, 0)
		t.Logf("%d nodes: p99 %v healthy, %v with a slow node, %v again; its share %.3f, %.3f, %.3f; "+
			"%.2f %% sent twice", nodes, healthy, slow, again, fair, small, back,
			100*float64(s.twice)/float64(s.rows))
		// Of three nodes two are left for all of the work; of more the neighbours have most.
		if limit := healthy * 5 / 3; slow > limit {
			t.Errorf("%d nodes: p99 with a slow node is %v, want at most %v", nodes, slow, limit)
		}
		if small > 0.02 {
			t.Errorf("%d nodes: the slow node's share is %.3f", nodes, small)
		}
		if back < 0.8*fair || again > healthy*11/10 {
			t.Errorf("%d nodes: well again, p99 is %v, the share %.3f; before: %v, %.3f",
				nodes, again, back, healthy, fair)
		}
		if s.twice > s.rows/20 {
			t.Errorf("%d nodes: %d of %d rows were sent twice", nodes, s.twice, s.rows)
		}
	}
}
