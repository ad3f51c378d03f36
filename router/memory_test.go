package router_test

import (
	"fmt"
	"runtime"
	"testing"

	"drover/kernel"
	"drover/moe"
	"drover/router"
	"drover/tensor"
)

// TestSessionsAreForgotten has a node live again and again. What stays of its earlier lives, of
// batches that were larger than later ones among others, keeps no connection in memory.
func TestSessionsAreForgotten(t *testing.T) {
	const lives = 6
	other := startNode(t, nodeConfig{id: "other", fake: &fake{spec: testSpec, mode: kernel.BF16}})
	r := startRouter(t, kernel.BF16, func(o *router.Options) { o.Lanes = 2 })
	var ended []func() int
	for life := range uint64(lives) {
		node := startNode(t, nodeConfig{id: "mortal", epoch: life + 1,
			fake: &fake{spec: testSpec, mode: kernel.BF16}})
		r.Update(viewOf(testSpec, life+1, 2, node, other))
		waitFor(t, func() error {
			if n := r.Sessions()(); n != 4 {
				return fmt.Errorf("%d sessions, want 2 of each node", n)
			}
			return nil
		})
		check(t, r, other.fake, firstExperts(testSpec.Experts-int(life)))
		ended = append(ended, r.Sessions())
		node.stop()
		check(t, r, other.fake, firstExperts(testSpec.Experts-int(life)))
	}
	r.Update(viewOf(testSpec, lives+1, 1, other))
	waitFor(t, func() error {
		runtime.GC()
		for life, alive := range ended {
			if n := alive(); n > 2 { // the other node's
				return fmt.Errorf("%d sessions of life %d are in memory, want the other node's 2", n, life+1)
			}
		}
		return nil
	})
}

// firstExperts is a batch of a row for each of the first n experts.
func firstExperts(n int) *moe.Batch {
	b := &moe.Batch{Layer: testSpec.Layers[0], X: tensor.MakeRows(n, testSpec.Hidden),
		Y: tensor.MakeRows(n, testSpec.Hidden)}
	for expert := range n {
		b.Experts, b.Counts = append(b.Experts, int32(expert)), append(b.Counts, 1)
		for i := range b.X.Row(expert) {
			b.X.Row(expert)[i] = float32(expert + i%3)
		}
	}
	moe.RoundRows(kernel.BF16, b.X)
	return b
}
