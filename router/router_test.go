package router_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"drover/expertnode"
	"drover/kernel"
	"drover/moe"
	"drover/router"
	"drover/tensor"
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

// weights is a Source of random experts that depend on layer and expert alone.
type weights struct{ spec moe.Spec }

func (w weights) Spec() moe.Spec { return w.spec }

func (w weights) Load(layer, expert int) (*moe.Expert, error) {
	rng := rand.New(rand.NewPCG(uint64(layer), uint64(expert)))
	matrix := func(n, k int) (*kernel.Matrix, error) {
		m, err := kernel.NewMatrix(n, k, kernel.WeightsBF16)
		if err != nil {
			return nil, err
		}
		row := make([]float32, k)
		for i := range n {
			for j := range row {
				row[j] = rng.Float32() - 0.5
			}
			if err := m.SetRow(i, row); err != nil {
				return nil, err
			}
		}
		return m, nil
	}
	gateUp, err := matrix(2*w.spec.Width, w.spec.Hidden)
	if err != nil {
		return nil, err
	}
	down, err := matrix(w.spec.Hidden, w.spec.Width)
	if err != nil {
		return nil, err
	}
	return moe.NewExpert(kernel.NewCPU(nil), gateUp, down)
}

// TestSameBytesAsHost computes real experts on four nodes, each with its own part,
// from two lanes at once, and compares with a Host that holds them all.
func TestSameBytesAsHost(t *testing.T) {
	spec := testSpec
	spec.Width = 20
	ctx := context.Background()
	for _, mode := range []kernel.Mode{kernel.Exact, kernel.BF16} {
		t.Run(mode.String(), func(t *testing.T) {
			whole := expertnode.NewHost(weights{spec}, mode, expertnode.HostOptions{})
			if err := whole.LoadAll(ctx); err != nil {
				t.Fatal(err)
			}
			var nodes []*testNode
			for i := range 4 {
				host := expertnode.NewHost(weights{spec}, mode, expertnode.HostOptions{})
				var part []expertnode.Replica
				for _, r := range whole.Held() {
					if r.Expert%4 == i || (r.Expert+1)%4 == i {
						part = append(part, r)
					}
				}
				if err := host.Assign(ctx, part); err != nil {
					t.Fatal(err)
				}
				nodes = append(nodes, startNode(t, nodeConfig{id: fmt.Sprintf("n%d", i),
					fake:   &fake{spec: spec, mode: mode},
					change: func(o *expertnode.Options) { o.Replicas = host }}))
			}
			r := startRouter(t, mode, func(o *router.Options) { o.Spec, o.Lanes = spec, 2 })
			r.Update(viewOf(spec, 1, 2, nodes...))
			waitReady(t, r)
			var running sync.WaitGroup
			for lane := range uint64(2) {
				running.Go(func() {
					rng := rand.New(rand.NewPCG(lane, 1))
					for range 10 {
						b := randomBatch(rng, spec, mode, 9)
						want := *b
						want.Y = tensor.MakeRows(b.Y.N, b.Y.Dim)
						if err := whole.Forward(ctx, &want, nil); err != nil {
							t.Error(err)
							return
						}
						if err := r.Forward(ctx, b, nil); err != nil {
							t.Error(err)
							return
						}
						if !slices.Equal(b.Y.Data, want.Y.Data) {
							t.Errorf("layer %d: the rows differ from the Host's", b.Layer)
						}
					}
				})
			}
			running.Wait()
		})
	}
}
