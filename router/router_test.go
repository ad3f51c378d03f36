package router_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"drover/kernel"
	"drover/router"
)

// TestSameBytesAsInProcess sends random batches over different numbers of nodes,
// with small frames so that batches are split.
func TestSameBytesAsInProcess(t *testing.T) {
	for _, mode := range []kernel.Mode{kernel.Exact, kernel.BF16} {
		for _, count := range []int{1, 2, 4, 7} {
			t.Run(fmt.Sprintf("%v/%d", mode, count), func(t *testing.T) {
				nodes := startNodes(t, count, mode, nil)
				r := startRouter(t, mode, func(o *router.Options) {
					o.MaxFrameBytes = 5 * testSpec.Hidden * 4
				})
				r.Update(viewOf(testSpec, 1, 2, nodes...))
				waitReady(t, r)
				rng := rand.New(rand.NewPCG(uint64(count), 7))
				for range 20 {
					check(t, r, nodes[0].fake, randomBatch(rng, testSpec, mode, 13))
				}
			})
		}
	}
}
