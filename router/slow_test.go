package router_test

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"drover/kernel"
	"drover/router"
)

// TestSlowNodeIsAvoided makes one of three nodes much slower than the others: it gets a
// small share, and little is sent twice. TestLinksInSimulation heals it.
func TestSlowNodeIsAvoided(t *testing.T) {
	nodes := startNodes(t, 3, kernel.BF16, nil)
	var slow atomic.Bool
	for i, n := range nodes {
		n.fake.setBefore(func(int, int) error {
			if i == 0 && slow.Load() {
				time.Sleep(20 * time.Millisecond)
			}
			return nil
		})
	}
	r := startRouter(t, kernel.BF16, nil)
	r.Update(viewOf(testSpec, 1, 2, nodes...))
	waitReady(t, r)
	rng := rand.New(rand.NewPCG(8, 8))
	// run returns the share of the rows that went to the first node.
	run := func(batches int) float64 {
		before, sent := r.RowsByNode()["n0"], r.Stats().Rows
		for range batches {
			check(t, r, nodes[1].fake, randomBatch(rng, testSpec, kernel.BF16, 3))
		}
		return float64(r.RowsByNode()["n0"]-before) / float64(r.Stats().Rows-sent)
	}
	run(50) // to know the links
	slow.Store(true)
	run(50)
	if share := run(150); share > 0.2 {
		t.Errorf("a slow node gets %.0f %% of the rows, want at most 20 %%", 100*share)
	}
	s := r.Stats()
	if twice := s.HedgedRows + s.ProbedRows; float64(twice) > 0.05*float64(s.Rows)+200 {
		t.Errorf("%d of %d rows were sent twice, want at most 5 %%", twice, s.Rows)
	}
	t.Logf("%+v", s)
}

// TestProbesHealSuspects lets a node be silent until its link is replaced: suspicion ends
// with the first probe that is answered, though other replicas could take all.
func TestProbesHealSuspects(t *testing.T) {
	nodes := startNodes(t, 2, kernel.BF16, nil)
	for _, n := range nodes {
		n.fake.setBefore(func(int, int) error { time.Sleep(time.Millisecond); return nil })
	}
	hole := startBlackHole(t, nodes[0].node)
	nodes[0].node = hole.node
	var lost atomic.Int64
	r := startRouter(t, kernel.BF16, func(o *router.Options) {
		o.Events.LinkDown = func(string, int, error) { lost.Add(1) }
	})
	r.Update(viewOf(testSpec, 1, 2, nodes...))
	waitReady(t, r)
	for seed := range uint64(20) {
		check(t, r, nodes[1].fake, batchOf(seed))
	}
	hole.swallow.Store(true)
	for lost.Load() == 0 {
		check(t, r, nodes[1].fake, batchOf(1))
	}
	hole.swallow.Store(false)
	waitReady(t, r)
	before := r.RowsByNode()["n0"]
	waitFor(t, func() error {
		for range 10 {
			check(t, r, nodes[1].fake, batchOf(2))
		}
		if r.RowsByNode()["n0"] < before+100 {
			return errors.New("the node that is well again gets too small a share")
		}
		return nil
	})
}
