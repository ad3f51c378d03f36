//go:build cuda && linux

package cuda

import (
	"math/rand/v2"
	"testing"

	"drover/kernel"
	"drover/tensor"
)

// expert is a feed-forward network on the host and on the device.
type expert struct {
	gateUp, down   *kernel.Matrix
	dGateUp, dDown *Memory
}

func newMatrix(t *testing.T, rng *rand.Rand, n, k int, f kernel.Format) *kernel.Matrix {
	t.Helper()
	m, err := kernel.NewMatrix(n, k, f)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := m.SetRow(i, smallScales(rng, k)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// grouped launches products of parts of x with their matrices; parts without rows have
// no panels.
func (b *bench) grouped(k *panelKernel, f kernel.Format, x *Memory, rows, outputs, inputs int,
	matrices []*Memory, ends []int) *Memory {
	b.Helper()
	var panels []mulPanel
	from := 0
	for i, m := range matrices {
		panels = k.addPanels(panels, m.At(0), from, ends[i])
		from = ends[i]
	}
	y, table := b.on(make([]byte, 4*rows*outputs)), b.on(memoryOf(panels))
	grid, name := k.grid(len(panels), outputs), kernelNames[k.kernel]
	if !f.Integer() {
		b.launch(name, grid, y.At(0), x.At(0), table.At(0), uint64(outputs), uint64(inputs))
		return y
	}
	groups := (inputs + 63) / 64
	codes, scales := b.on(make([]byte, rows*groups*64)), b.on(make([]byte, 4*rows*groups))
	b.launch("quantise_rows", elementGrid(quantiseThreads(rows, inputs)), codes.At(0), scales.At(0),
		x.At(0), uint64(rows), uint64(inputs), uint64(k.words))
	b.launch(name, grid, y.At(0), codes.At(0), scales.At(0), table.At(0), uint64(outputs),
		uint64(inputs))
	return y
}

// formats are all formats of weights.
var formats = []kernel.Format{kernel.WeightsF32, kernel.WeightsBF16, kernel.WeightsInt8,
	kernel.WeightsInt4, kernel.WeightsFP8}

// testExperts runs feed-forward networks with skewed rows, from none to many, in four
// launches for all of them, with all kernels.
func testExperts(t *testing.T) {
	b := newBench(t)
	rng := rand.New(rand.NewPCG(21, 22))
	for _, f := range formats {
		for _, s := range []struct{ experts, hidden, width, most int }{{128, 20, 9, 3},
			{6, 130, 70, 40}, {3, 200, 150, 90}, {2, 900, 1300, 3}} {
			var experts []expert
			var gateUp, down []*Memory
			var ends []int
			rows := 0
			for i := range s.experts {
				e := expert{gateUp: newMatrix(t, rng, 2*s.width, s.hidden, f),
					down: newMatrix(t, rng, s.hidden, s.width, f)}
				e.dGateUp, e.dDown = b.on(e.gateUp.Packed()), b.on(e.down.Packed())
				experts = append(experts, e)
				gateUp, down = append(gateUp, e.dGateUp), append(down, e.dDown)
				if rows += rng.IntN(s.most+1) * rng.IntN(2); i == 1 {
					rows += s.most
				}
				ends = append(ends, rows)
			}
			x, want := randomRows(rng, rows, s.hidden, s.hidden == 20), tensor.MakeRows(rows, s.hidden)
			from := 0
			for i, e := range experts {
				part := x.Slice(from, ends[i])
				inner, act := tensor.MakeRows(part.N, 2*s.width), tensor.MakeRows(part.N, s.width)
				e.gateUp.Mul(inner, part)
				kernel.SwiGLU(act, inner)
				e.down.Mul(want.Slice(from, ends[i]), act)
				from = ends[i]
			}
			for _, k := range productsOf(Kind, true)[f] {
				inner := b.grouped(&k, f, b.on(bytesOf(x.Data)), rows, 2*s.width, s.hidden, gateUp, ends)
				act := b.on(make([]byte, 4*rows*s.width))
				b.launch("swiglu_rows", Grid{ceil(rows*s.width, 128), 1, 128}, act.At(0), inner.At(0),
					uint64(rows*s.width), uint64(s.width))
				y := b.grouped(&k, f, act, rows, s.hidden, s.width, down, ends)
				b.same(y, want.Data, "%s, %+v, %d rows", kernelNames[k.kernel], s, rows)
			}
		}
	}
}

// TestExperts and the two after it have kernels whose threads wait for each other and for
// copies: with threads in order, which copy as late as can be, and in others.
func TestExperts(t *testing.T) {
	needStandIn(t)
	testExperts(t)
}

func TestExpertsReverse(t *testing.T) {
	if with(t, "STANDIN", "reverse") {
		testExperts(t)
	}
}

func TestExpertsShuffle(t *testing.T) {
	if with(t, "STANDIN", "shuffle") {
		testExperts(t)
	}
}
