package router_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"drover/expertnode"
	"drover/kernel"
	"drover/router"
)

// TestConnectsAhead lets a node register before a plan uses it: it is connected then, and
// not any more when it drains.
func TestConnectsAhead(t *testing.T) {
	var opened, closed atomic.Int64 // streams of n1
	nodes := startNodes(t, 2, kernel.BF16, func(o *expertnode.Options) {
		if o.NodeID == "n1" {
			o.Events.StreamOpened = func(string) { opened.Add(1) }
			o.Events.StreamClosed = func(string, error) { closed.Add(1) }
		}
	})
	r := startRouter(t, kernel.BF16, nil)
	v := viewOf(testSpec, 1, 1, nodes[0])
	v.Nodes["n1"] = nodes[1].node
	r.Update(v)
	waitReady(t, r)
	waitFor(t, func() error {
		if opened.Load() == 0 {
			return errors.New("the node that no plan uses has no link")
		}
		return nil
	})
	check(t, r, nodes[0].fake, batchOf(1))
	if rows := r.RowsByNode(); rows["n1"] != 0 {
		t.Errorf("rows by node = %v, want none of n1", rows)
	}
	r.Update(viewOf(testSpec, 2, 1, nodes[1]))
	waitReady(t, r)
	check(t, r, nodes[1].fake, batchOf(1))
	if n := opened.Load(); n != 1 || closed.Load() != 0 {
		t.Errorf("%d streams to a node that was connected ahead, %d closed; want 1", n, closed.Load())
	}
	v = viewOf(testSpec, 3, 1, nodes[0])
	drained := nodes[1].node
	drained.Draining = true
	v.Nodes["n1"] = drained
	r.Update(v)
	waitReady(t, r)
	waitFor(t, func() error {
		if closed.Load() != opened.Load() {
			return errors.New("a node that is empty and drains keeps its stream")
		}
		return nil
	})
}

// TestUnreadyNode has a node that was started anew and holds nothing: nothing is sent to it
// while others, or this machine, can compute.
func TestUnreadyNode(t *testing.T) {
	empty := startNode(t, nodeConfig{id: "n0", fake: &fake{spec: testSpec, mode: kernel.BF16,
		holds: func(int, int) bool { return false }}})
	full := startNodes(t, 2, kernel.BF16, nil)[1]
	local := newLocal()
	unready := map[string]bool{"n0": true}
	for name, o := range map[string]struct {
		nodes []*testNode
		local router.LocalExperts
	}{
		"another replica": {[]*testNode{empty, full}, nil},
		"this machine":    {[]*testNode{empty}, local},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRouter(t, kernel.BF16, func(opts *router.Options) {
				opts.Local = o.local
				opts.CheckFraction = -1
				opts.Events.Retried = func(id string, _, _ int, err error) {
					t.Errorf("%s was asked: %v", id, err)
				}
			})
			v := viewOf(testSpec, 1, len(o.nodes), o.nodes...)
			r.Update(v)
			waitReady(t, r) // its links are up
			v = viewOf(testSpec, 1, len(o.nodes), o.nodes...)
			v.Unready = unready
			r.Update(v)
			if o.local == nil {
				waitReady(t, r)
			} else if r.Ready() == nil {
				t.Error("ready without a node that holds anything")
			}
			for seed := range uint64(100) {
				check(t, r, &local.fake, batchOf(seed))
			}
		})
	}
	if local.rows.Load() == 0 {
		t.Error("nothing was computed on this machine")
	}
}

// TestNewLinkIsHedged has a node, beside one that is known, that never answers its first
// frames though it is alive: others are asked after what is usual for them, not after the
// frame timeout, also where nothing is left that may be sent twice.
func TestNewLinkIsHedged(t *testing.T) {
	node := startNodes(t, 1, kernel.BF16, nil)[0]
	stuck := &mute{hello: goodHello("n1"), pongs: true}
	fresh := startMute(t, stuck)
	r := startRouter(t, kernel.BF16, func(o *router.Options) {
		o.FrameTimeout, o.SlowTimeout = time.Hour, 24*time.Hour
		o.HedgeFraction = 1e-9
		o.CheckFraction = -1
	})
	r.Update(viewOf(testSpec, 1, 1, node))
	waitReady(t, r)
	for range 32 { // of one expert, which is as much work as any frame below
		check(t, r, node.fake, oneRow(1, 0))
	}
	r.SpendHedges()
	r.Update(viewOf(testSpec, 2, 2, node, fresh))
	waitFor(t, func() error {
		for expert := range testSpec.Experts {
			check(t, r, node.fake, oneRow(1, expert))
		}
		if stuck.frames.Load() == 0 {
			return errors.New("the new node was asked nothing")
		}
		return nil
	})
	if r.Stats().HedgedRows == 0 {
		t.Error("a frame on a new link was answered without a hedge by a node that never answers")
	}
}
