package router_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drover/kernel"
	"drover/moe"
	"drover/router"
)

// localFake computes on the router's own machine, after whatever the test puts before.
type localFake struct {
	fake
	batch func(ctx context.Context) error // nil: nothing
}

func (l *localFake) ComputeBatch(ctx context.Context, b *moe.Batch, errs []error) {
	if l.batch != nil {
		if err := l.batch(ctx); err != nil {
			for i := range errs {
				errs[i] = err
			}
			return
		}
	}
	l.fake.ComputeBatch(b, errs)
}

func newLocal() *localFake {
	return &localFake{fake: fake{spec: testSpec, mode: kernel.BF16}}
}

// withLocal starts a Router that has a last resort.
func withLocal(t *testing.T, l *localFake, change func(*router.Options)) *router.Router {
	t.Helper()
	return startRouter(t, kernel.BF16, func(o *router.Options) {
		o.Local = l
		if change != nil {
			change(o)
		}
	})
}

// TestLastResort kills the only node, computes here, and goes back when it is back.
func TestLastResort(t *testing.T) {
	node, local := startNodes(t, 1, kernel.BF16, nil)[0], newLocal()
	var told atomic.Int64
	r := withLocal(t, local, func(o *router.Options) {
		o.Events.LastResort = func(layer, expert, experts int, reason error) {
			if layer != 1 && layer != 3 || expert < 0 || experts < 1 || reason == nil {
				t.Errorf("LastResort(%d, %d, %d, %v)", layer, expert, experts, reason)
			}
			told.Add(int64(experts))
		}
	})
	r.Update(viewOf(testSpec, 1, 1, node))
	waitReady(t, r)
	check(t, r, node.fake, batchOf(1))
	if n := local.rows.Load(); n != 0 {
		t.Errorf("%d rows were computed here beside a live node", n)
	}
	node.stop()
	for seed := range uint64(8) {
		check(t, r, node.fake, batchOf(seed))
	}
	here := r.Stats().LastResort
	if here == 0 || local.rows.Load() == 0 || int64(here) != told.Load() {
		t.Errorf("%d experts were computed here, %d told", here, told.Load())
	}
	again := startNode(t, nodeConfig{id: "n0", epoch: 2, address: node.node.Address,
		fake: &fake{spec: testSpec, mode: kernel.BF16}})
	waitReady(t, r)
	for seed := range uint64(8) {
		check(t, r, node.fake, batchOf(seed))
	}
	if again.fake.rows.Load() == 0 || r.Stats().LastResort != here {
		t.Errorf("the node that is back computed %d rows, this machine %d experts more",
			again.fake.rows.Load(), r.Stats().LastResort-here)
	}
}

// TestLastResortOfStuckNodes has a node that greets and never answers, or only pings: the
// first batches wait for it, and the others do not ask it any more.
func TestLastResortOfStuckNodes(t *testing.T) {
	for _, pongs := range []bool{false, true} {
		stuck := &mute{hello: goodHello("n0"), pongs: pongs}
		node, local := startMute(t, stuck), newLocal()
		var told atomic.Int64
		r := withLocal(t, local, func(o *router.Options) {
			o.Events.Stuck = func(id string, _ int) {
				if id == "n0" {
					told.Add(1)
				}
			}
		})
		r.Update(viewOf(testSpec, 1, 1, node))
		waitReady(t, r)
		const batches = 200
		for seed := range uint64(batches) {
			check(t, r, &local.fake, batchOf(seed))
		}
		if pongs && stuck.frames.Load() > batches/4 {
			t.Errorf("%d frames went to a stuck node", stuck.frames.Load())
		}
		if pongs { // in time
			waitFor(t, func() error {
				if s := r.Stats(); s.Stuck == 0 || s.Stuck != uint64(told.Load()) {
					return fmt.Errorf("stuck %d times, told %d times", s.Stuck, told.Load())
				}
				return nil
			})
		}
	}
}

// TestLastResortFails lets this machine fail until the node is back.
func TestLastResortFails(t *testing.T) {
	for name, fail := range map[string]func() error{
		"error": func() error { return errors.New("the disk is broken") },
		"panic": func() error { panic("a bug") },
	} {
		t.Run(name, func(t *testing.T) {
			node, local := startNodes(t, 1, kernel.BF16, nil)[0], newLocal()
			tries := make(chan struct{}, 1000)
			local.batch = func(context.Context) error {
				tries <- struct{}{}
				return fail()
			}
			r := withLocal(t, local, nil)
			r.Update(viewOf(testSpec, 1, 1, node))
			waitReady(t, r)
			node.stop()
			var restarting sync.WaitGroup
			restarting.Go(func() {
				<-tries
				<-tries
				startNode(t, nodeConfig{id: "n0", epoch: 2, address: node.node.Address,
					fake: &fake{spec: testSpec, mode: kernel.BF16}})
			})
			check(t, r, node.fake, batchOf(1))
			restarting.Wait()
		})
	}
	t.Run("for ever", func(t *testing.T) {
		node, local := startNodes(t, 1, kernel.BF16, nil)[0], newLocal()
		local.batch = func(context.Context) error { return errors.New("the disk is broken") }
		r := withLocal(t, local, func(o *router.Options) { o.FailAfter = 200 * time.Millisecond })
		r.Update(viewOf(testSpec, 1, 1, node))
		waitReady(t, r)
		node.stop()
		wantNoReplica(t, r.Forward(context.Background(), oneRow(3, 7), nil), "layer 3 expert 7",
			"node n0: ", "on this machine: the disk is broken")
	})
}

// TestLastResortBlocksNobody lets this machine load for ever: another lane goes on with
// a live node, and the lane itself when its node is back or its client leaves.
func TestLastResortBlocksNobody(t *testing.T) {
	nodes, local := startNodes(t, 2, kernel.BF16, nil), newLocal()
	loading := make(chan struct{}, 1000)
	local.batch = func(ctx context.Context) error {
		loading <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	r := withLocal(t, local, func(o *router.Options) { o.Lanes = 2 })
	r.Update(viewOf(testSpec, 1, 1, nodes...)) // even experts on n0, odd ones on n1
	waitReady(t, r)
	nodes[0].stop()

	ctx, cancel := context.WithCancelCause(context.Background())
	reason := errors.New("the client left")
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Forward(ctx, oneRow(1, 2), nil); !errors.Is(err, reason) {
			t.Errorf("Forward = %v, want %v", err, reason)
		}
	})
	<-loading
	for range 5 {
		check(t, r, nodes[1].fake, oneRow(3, 5))
	}
	cancel(reason)
	running.Wait()

	running.Go(func() { check(t, r, nodes[1].fake, oneRow(1, 2)) })
	<-loading
	startNode(t, nodeConfig{id: "n0", epoch: 2, address: nodes[0].node.Address,
		fake: &fake{spec: testSpec, mode: kernel.BF16}})
	running.Wait()
}
