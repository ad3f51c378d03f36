//go:build cuda && linux

package cuda

import (
	"math"
	"math/rand/v2"
	"testing"

	"drover/kernel"
	"drover/tensor"
)

// smallScales are weights of which some scales are float16 below its normal numbers.
func smallScales(rng *rand.Rand, k int) []float32 {
	w := numbers(rng, k, false)
	for i := range w {
		w[i] *= float32(math.Ldexp(1, -4-i/32%6*4))
	}
	return w
}

// spread makes the groups of each span differ in magnitude, and which of them has the largest
// number differ from row to row.
func spread(x tensor.Rows) {
	for i := range x.N {
		for k, v := range x.Row(i) {
			x.Row(i)[k] = float32(math.Ldexp(float64(v), -2*((i+k/groupInputs)%spanGroups)))
		}
	}
}

// testCodes compares products with those of a CPU, by all kernels.
func testCodes(b *bench, m *kernel.Matrix, x tensor.Rows) {
	b.Helper()
	want := tensor.MakeRows(x.N, m.N)
	m.Mul(want, x)
	packed, in := b.on(m.Packed()), b.on(bytesOf(x.Data))
	for _, k := range productsOf(Kind, true)[m.Format()] {
		y := b.grouped(&k, m.Format(), in, x.N, m.N, m.K, []*Memory{packed}, []int{x.N})
		b.same(y, want.Data, "%s, %d rows × %d×%d", kernelNames[k.kernel], x.N, m.N, m.K)
	}
}

func TestMulCodes(t *testing.T) {
	b := newBench(t)
	rng := rand.New(rand.NewPCG(7, 8))
	for _, f := range []kernel.Format{kernel.WeightsInt8, kernel.WeightsInt4} {
		for i, s := range [][3]int{{1, 1, 1}, {1, 64, 64}, {3, 17, 33}, {8, 65, 200}, {9, 15, 130},
			{17, 150, 67}, {1, 31, 513}, {70, 33, 5}, {64, 128, 64}, {63, 127, 640}, {129, 130, 65},
			{5, 33, 1500}, {130, 257, 961}, {128, 300, 385}} {
			m := newMatrix(t, rng, s[1], s[2], f)
			x := randomRows(rng, s[0], s[2], i%2 == 1)
			if i%4 == 0 {
				spread(x)
			}
			if x.N > 8 {
				x.Data[0], x.Data[x.Dim], x.Data[2*x.Dim] = float32(math.Inf(1)), float32(math.NaN()), 0x1p-101
			}
			testCodes(b, m, x)
		}
	}
}

// TestMulSpans has rows whose scale is that of one group of a span, or of what there is of one, of
// several spans, and those of which one group is no numbers, or all are next to nothing.
func TestMulSpans(t *testing.T) {
	b := newBench(t)
	rng := rand.New(rand.NewPCG(9, 8))
	for _, f := range []kernel.Format{kernel.WeightsInt8, kernel.WeightsInt4} {
		for _, s := range [][3]int{{9, 37, 64}, {67, 40, 192}, {9, 130, 256}, {131, 33, 320},
			{17, 37, 512}, {140, 17, 1100}} {
			m := newMatrix(t, rng, s[1], s[2], f)
			x := randomRows(rng, s[0], s[2], false)
			spread(x)
			testCodes(b, m, x)
			for i, v := range []float32{float32(math.NaN()), float32(math.Inf(-1)), 0x1p-99} {
				x.Row(2 * i)[s[2]-1] = v
			}
			for k := range x.Row(5) {
				x.Row(5)[k] = 0x1p-101
			}
			testCodes(b, m, x)
		}
	}
}

// TestMulLargestCodes has sums as large as they can be, of both signs.
func TestMulLargestCodes(t *testing.T) {
	b := newBench(t)
	const n, k = 20, 128
	for _, f := range []kernel.Format{kernel.WeightsInt8, kernel.WeightsInt4} {
		m, err := kernel.NewMatrix(n, k, f)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			row := make([]float32, k)
			for j := range row {
				row[j] = float32(1 - 2*(i%2))
			}
			if err := m.SetRow(i, row); err != nil {
				t.Fatal(err)
			}
		}
		x := tensor.MakeRows(18, k)
		for i := range x.Data {
			x.Data[i] = float32(3 - 6*(i/k%2))
		}
		testCodes(b, m, x)
	}
}

func TestNorm(t *testing.T) {
	b := newBench(t)
	rng := rand.New(rand.NewPCG(9, 10))
	for i, s := range [][2]int{{1, 1}, {3, 17}, {1, 128}, {5, 130}, {70, 3}} {
		rows, dim := s[0], s[1]
		x := tensor.Rows{Data: numbers(rng, rows*dim, i > 2), N: rows, Dim: dim}
		weight, eps := numbers(rng, dim, i > 2), 1e-5
		for weighted := range 2 {
			want, used := tensor.MakeRows(rows, dim), weight
			if weighted == 0 {
				used = nil
			}
			kernel.RMSNorm(want, x, used, eps)
			dx, y := b.on(bytesOf(x.Data)), b.on(make([]byte, 4*rows*dim))
			sums, factors := b.on(make([]byte, 8*16*rows)), b.on(make([]byte, 4*rows))
			b.launch("norm_sums", Grid{ceil(rows*16, 128), 1, 128}, sums.At(0), dx.At(0), uint64(rows),
				uint64(dim))
			b.launch("norm_factors", Grid{ceil(rows, 128), 1, 128}, factors.At(0), sums.At(0),
				uint64(rows), uint64(dim), math.Float64bits(eps))
			b.launch("norm_apply", Grid{ceil(rows*dim, 128), 1, 128}, y.At(0), dx.At(0), factors.At(0),
				b.on(bytesOf(weight)).At(0), uint64(rows*dim), uint64(dim), uint64(weighted))
			b.same(y, want.Data, "%d rows of %d, weighted %d", rows, dim, weighted)
		}
	}
}

func TestSwiGLU(t *testing.T) {
	b := newBench(t)
	rng := rand.New(rand.NewPCG(11, 12))
	for i, s := range [][2]int{{1, 1}, {3, 17}, {5, 130}, {2, 2000}} {
		rows, width := s[0], s[1]
		h := tensor.Rows{Data: numbers(rng, rows*2*width, i > 0), N: rows, Dim: 2 * width}
		if i == 3 { // gates from where e^x is nothing to where it is infinite, and no numbers
			for j := range width {
				h.Data[j] = float32(j-width/2) / 8
			}
			h.Data[2*width], h.Data[2*width+1] = float32(math.NaN()), float32(math.Inf(-1))
		}
		want := tensor.MakeRows(rows, width)
		kernel.SwiGLU(want, h)
		y := b.on(make([]byte, 4*rows*width))
		b.launch("swiglu_rows", Grid{ceil(rows*width, 128), 1, 128}, y.At(0), b.on(bytesOf(h.Data)).At(0),
			uint64(rows*width), uint64(width))
		b.same(y, want.Data, "%d rows of %d", rows, width)
	}
}
