package router_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"drover/kernel"
	"drover/router"
)

// TestMetrics counts what goes to nodes, and what becomes of it when one of them dies.
func TestMetrics(t *testing.T) {
	nodes := startNodes(t, 2, kernel.BF16, nil)
	// Each node has the only replica of half of the experts, and time to answer.
	r := startRouter(t, kernel.BF16, func(o *router.Options) {
		o.FrameTimeout, o.CheckFraction = time.Minute, -1
	})
	if lost, all := r.Unreachable(); lost != 0 || all != 0 || r.NodeMetrics() != nil {
		t.Errorf("without a View: %d of %d, %v", lost, all, r.NodeMetrics())
	}
	r.Update(viewOf(testSpec, 1, 1, nodes...))
	waitReady(t, r)
	for seed := range uint64(20) {
		check(t, r, nodes[0].fake, batchOf(seed))
	}
	calls, frames, rows := r.CallMetrics(), uint64(0), uint64(0)
	for _, n := range r.NodeMetrics() {
		if n.Links != n.Lanes || n.Lanes == 0 || n.SentBytes != n.ReceivedBytes || n.SentBytes == 0 ||
			n.Failures > 0 || n.LinksLost > 0 || n.Quarantined || n.Work == 0 || len(n.LayerWork) != len(testSpec.Layers) {
			t.Errorf("%+v", n)
		}
		frames, rows = frames+n.Frames, rows+n.Rows
	}
	if calls.Wire.Count != frames || calls.Compute.Count != frames || calls.Queue.Count != frames ||
		rows != r.Stats().Rows {
		t.Errorf("%d frames, %d rows: %+v", frames, rows, calls)
	}
	if lost, all := r.Unreachable(); lost != 0 || all != len(testSpec.Layers)*testSpec.Experts {
		t.Errorf("%d of %d experts cannot be reached", lost, all)
	}

	nodes[1].stop()
	nodes[0].stop()
	waitFor(t, func() error {
		lost, all := r.Unreachable()
		if n := r.NodeMetrics()[0]; lost != all || n.Links > 0 || n.LinksLost < uint64(n.Lanes) {
			return fmt.Errorf("experts of dead nodes can be reached: %+v", n)
		}
		return nil
	})
}

// TestFailoversAreCounted stops a node that has frames to answer.
func TestFailoversAreCounted(t *testing.T) {
	nodes := startNodes(t, 2, kernel.BF16, nil)
	r := startRouter(t, kernel.BF16, func(o *router.Options) { o.CheckFraction = -1 })
	r.Update(viewOf(testSpec, 1, 2, nodes...))
	waitReady(t, r)
	stop := make(chan struct{})
	nodes[1].fake.setBefore(func(int, int) error {
		select {
		case <-stop:
		default:
			close(stop)
			go nodes[1].stop()
		}
		return errors.New("it ends")
	})
	for seed := uint64(0); ; seed++ {
		check(t, r, nodes[0].fake, batchOf(seed))
		s := r.Stats()
		if s.Retries > 0 {
			if s.Failovers > s.Retries || r.NodeMetrics()[1].Failures == 0 {
				t.Errorf("%+v, %+v", s, r.NodeMetrics())
			}
			return
		}
	}
}
