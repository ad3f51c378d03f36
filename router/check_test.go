package router_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/kernel"
	"drover/placement"
	"drover/router"
)

// verdicts collects what is told of wrong nodes.
type verdicts struct {
	mu                    sync.Mutex // guards the fields below
	quarantined, disputed []string
	links                 int // that are connected, or were
}

// listen checks everything, and has time for verdicts also on a machine that is busy.
func (v *verdicts) listen(o *router.Options) {
	o.CheckFraction, o.FrameTimeout = 1, 10*time.Second
	o.Events.Quarantined = func(w router.Verdict) {
		id, layer, expert := w.NodeID, w.Layer, w.Expert
		v.mu.Lock()
		defer v.mu.Unlock()
		v.quarantined = append(v.quarantined, id)
		if layer != 1 && layer != 3 || expert < 0 || expert > 15 {
			v.quarantined = append(v.quarantined, fmt.Sprintf("layer %d expert %d", layer, expert))
		}
	}
	o.Events.LinkUp = func(string, int) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.links++
	}
	o.Events.Disputed = func(ids []string, layer, expert int) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.disputed = append(v.disputed, strings.Join(ids, "+"))
	}
}

func (v *verdicts) want(t *testing.T, quarantined, disputed []string) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if !slices.Equal(v.quarantined, quarantined) || !slices.Equal(v.disputed, disputed) {
		t.Errorf("quarantined %v, disputed %v, want %v and %v", v.quarantined, v.disputed,
			quarantined, disputed)
	}
}

// connected waits until so many links were connected: for verdicts one replica is too few.
func (v *verdicts) connected(t *testing.T, links int) {
	t.Helper()
	waitFor(t, func() error {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.links < links {
			return errors.New("not all nodes are connected")
		}
		return nil
	})
}

func always() bool { return true }

// TestSoundNodesAgree checks every frame of sound nodes.
func TestSoundNodesAgree(t *testing.T) {
	for copies := 1; copies <= 3; copies++ {
		for _, local := range []*localFake{nil, newLocal()} {
			nodes, v := startNodes(t, 3, kernel.BF16, nil), new(verdicts)
			r := startRouter(t, kernel.BF16, func(o *router.Options) {
				v.listen(o)
				if local != nil {
					o.Local = local
				}
			})
			r.Update(viewOf(testSpec, 1, copies, nodes...))
			v.connected(t, 3)
			for seed := range uint64(10) {
				check(t, r, nodes[0].fake, batchOf(seed))
			}
			v.want(t, nil, nil)
			s := r.Stats()
			if could := copies > 1 || local != nil; could != (s.Checked > 0) || s.LastResort > 0 {
				t.Errorf("%d copies, here %v: %+v", copies, local != nil, s)
			}
		}
	}
}

// TestWrongNodeIsQuarantined has one node return wrong numbers with the right checksum. All
// rows that are used are right, also those that it computed for the same batch; then
// it is not used any more, until it is another life of the node.
func TestWrongNodeIsQuarantined(t *testing.T) {
	for name, tc := range map[string]struct {
		copies int
		local  *localFake
	}{
		"three replicas":                  {3, nil},
		"two replicas and this machine":   {2, newLocal()},
		"three replicas and this machine": {3, newLocal()},
		"one replica and this machine":    {1, newLocal()},
	} {
		t.Run(name, func(t *testing.T) {
			nodes, v := startNodes(t, 3, kernel.BF16, nil), new(verdicts)
			nodes[1].fake.setLies(always)
			r := startRouter(t, kernel.BF16, func(o *router.Options) {
				v.listen(o)
				if tc.local != nil {
					o.Local = tc.local
				}
			})
			r.Update(viewOf(testSpec, 1, tc.copies, nodes...))
			v.connected(t, 3)
			for seed := range uint64(12) {
				check(t, r, nodes[0].fake, batchOf(seed))
			}
			v.want(t, []string{"n1"}, nil)
			if !r.Quarantined("n1") || r.Quarantined("n0") || r.Stats().Quarantined != 1 ||
				r.Stats().Mismatches == 0 {
				t.Errorf("quarantined: %v, %v, stats %+v", r.Quarantined("n0"), r.Quarantined("n1"), r.Stats())
			}
			before := nodes[1].fake.rows.Load()
			r.Update(viewOf(testSpec, 2, tc.copies, nodes[0], nodes[2]))
			r.Update(viewOf(testSpec, 3, tc.copies, nodes...)) // in the same life
			v.connected(t, 4)
			for seed := range uint64(12) {
				check(t, r, nodes[0].fake, batchOf(seed))
			}
			if got := nodes[1].fake.rows.Load(); got != before || !r.Quarantined("n1") {
				t.Errorf("a quarantined node computed %d rows", got-before)
			}
			repaired := startNode(t, nodeConfig{id: "n1", epoch: 2,
				fake: &fake{spec: testSpec, mode: kernel.BF16}})
			r.Update(viewOf(testSpec, 4, tc.copies, nodes[0], repaired, nodes[2]))
			v.connected(t, 5)
			for seed := range uint64(12) {
				check(t, r, nodes[0].fake, batchOf(seed))
			}
			if repaired.fake.rows.Load() == 0 || r.Quarantined("n1") {
				t.Error("the node's next life is not used")
			}
			v.want(t, []string{"n1"}, nil)
		})
	}
}

// TestRareLiesAreFound samples a part of the frames of a node that lies now and then.
func TestRareLiesAreFound(t *testing.T) {
	nodes, v := startNodes(t, 3, kernel.BF16, nil), new(verdicts)
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(6, 6))
	nodes[2].fake.setLies(func() bool {
		mu.Lock()
		defer mu.Unlock()
		return rng.IntN(20) == 0
	})
	r := startRouter(t, kernel.BF16, func(o *router.Options) {
		v.listen(o)
		o.CheckFraction = 0.1
	})
	r.Update(viewOf(testSpec, 1, 3, nodes...))
	v.connected(t, 3)
	batches := 0
	waitFor(t, func() error {
		for range 20 {
			batches++
			if err := r.Forward(context.Background(), batchOf(uint64(batches)), nil); err != nil {
				t.Fatal(err)
			}
		}
		if !r.Quarantined("n2") {
			return errors.New("the liar is not found")
		}
		return nil
	})
	v.want(t, []string{"n2"}, nil)
	for seed := range uint64(20) {
		check(t, r, nodes[0].fake, batchOf(seed))
	}
	s := r.Stats()
	if share := float64(s.CheckedRows) / float64(s.Rows); share > 0.3 {
		t.Errorf("%.2f of the rows were sent again to check them", share)
	}
	t.Logf("found within %d batches; %+v", batches, s)
}

// TestDisputeWithoutArbiter has two replicas and nobody else: the rows of neither are used.
func TestDisputeWithoutArbiter(t *testing.T) {
	nodes, v := startNodes(t, 2, kernel.BF16, nil), new(verdicts)
	nodes[1].fake.setLies(always)
	r := startRouter(t, kernel.BF16, v.listen)
	r.Update(viewOf(testSpec, 1, 2, nodes...))
	v.connected(t, 2)
	err := r.Forward(context.Background(), oneRow(3, 7), nil)
	wantNoReplica(t, err, "layer 3 expert 7", "n0", "n1", "no third opinion")
	v.mu.Lock()
	if len(v.disputed) != 1 || len(v.quarantined) != 0 {
		t.Errorf("disputed %v, quarantined %v", v.disputed, v.quarantined)
	}
	v.mu.Unlock()
	sound := func() bool { return false }
	nodes[1].fake.setLies(sound)
	check(t, r, nodes[0].fake, oneRow(3, 7)) // the next batch is another
}

// TestChecksNeedNoSecond has the other replica fail, be silent, or leave: the rows of the
// first are used.
func TestChecksNeedNoSecond(t *testing.T) {
	for name, second := range map[string]func(*testing.T) *testNode{
		"fails": func(t *testing.T) *testNode {
			n := startNodes(t, 1, kernel.BF16, nil)[0]
			n.fake.setBefore(func(int, int) error { return errors.New("a fault") })
			return n
		},
		"is silent": func(t *testing.T) *testNode { return startMute(t, &mute{hello: goodHello("n0")}) },
		"is stuck": func(t *testing.T) *testNode {
			return startMute(t, &mute{hello: goodHello("n0"), pongs: true})
		},
		"is gone": func(t *testing.T) *testNode {
			n := startNodes(t, 1, kernel.BF16, nil)[0]
			n.stop()
			return n
		},
	} {
		t.Run(name, func(t *testing.T) {
			first, v := startNodes(t, 2, kernel.BF16, nil)[1], new(verdicts)
			other := second(t)
			r := startRouter(t, kernel.BF16, func(o *router.Options) {
				v.listen(o)
				o.FrameTimeout = 100 * time.Millisecond
			})
			view := viewOf(testSpec, 1, 2, other, first)
			r.Update(view)
			waitFor(t, func() error {
				alone := &placement.View{Plan: view.Plan, Nodes: view.Nodes}
				r.Update(alone)
				return r.Ready()
			})
			for seed := range uint64(4) {
				check(t, r, first.fake, batchOf(seed))
			}
			v.want(t, nil, nil)
		})
	}
}

// TestAllIsChecked has a node lie where nobody else answers in time, and this machine is slow:
// if all is to be checked, nothing of what it says is used.
func TestAllIsChecked(t *testing.T) {
	for copies := 1; copies <= 2; copies++ {
		nodes, v, local := startNodes(t, 3, kernel.BF16, nil), new(verdicts), newLocal()
		slow := func(int, int) error {
			time.Sleep(5 * time.Millisecond)
			return nil
		}
		local.setBefore(slow)
		nodes[0].fake.setBefore(slow)
		nodes[2].fake.setBefore(slow)
		r := startRouter(t, kernel.BF16, func(o *router.Options) {
			v.listen(o)
			o.FrameTimeout, o.Local = 4*time.Millisecond, local
		})
		r.Update(viewOf(testSpec, 1, copies, nodes...))
		v.connected(t, 3)
		for seed := range uint64(6) {
			if seed == 3 { // until then it is learnt that this machine is slow
				nodes[1].fake.setLies(always)
			}
			check(t, r, nodes[0].fake, batchOf(seed))
		}
	}
}
