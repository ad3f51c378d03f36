//go:build cuda && linux

package cuda

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"drover/kernel"
	"drover/kernel/devicetest"
	"drover/tensor"
)

// tensorProduct multiplies rows by one of the kernels of TensorKind.
func (b *bench) tensorProduct(k *panelKernel, m *kernel.Matrix, x tensor.Rows) []float32 {
	b.Helper()
	slabs := (x.Dim + halvesInputs - 1) / halvesInputs
	halves, y := b.on(make([]byte, x.N*slabs*128)), b.on(make([]byte, 4*x.N*m.N))
	b.launch("split_rows", Grid{ceil(x.N*slabs*16, 128), 1, 128}, halves.At(0),
		b.on(bytesOf(x.Data)).At(0), uint64(x.N), uint64(x.Dim), uint64(k.words))
	panels := k.addPanels(nil, b.on(m.Packed()).At(0), 0, x.N)
	b.launch(kernelNames[k.kernel], k.grid(len(panels), m.N), y.At(0), halves.At(0),
		b.on(memoryOf(panels)).At(0), uint64(m.N), uint64(m.K))
	raw := b.read(y, 0, 4*x.N*m.N)
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(raw))), x.N*m.N)
}

// close64 compares products with sums in float64. Rows lose what two bfloat16 have no room for,
// and each product of 16 inputs may round or cut off, whatever the hardware's order is.
func close64(t *testing.T, m *kernel.Matrix, x tensor.Rows, got []float32, what string) {
	t.Helper()
	products := float64(4 * ((x.Dim + halvesInputs - 1) / halvesInputs))
	for i := range x.N {
		for n := range m.N {
			want, size := 0.0, 0.0
			for k, v := range x.Row(i) {
				p := float64(v) * float64(m.At(n, k))
				want, size = want+p, size+math.Abs(p)
			}
			g := float64(got[i*m.N+n])
			if math.IsNaN(want) && math.IsNaN(g) || want == g {
				continue
			}
			if bound := size * (0x1p-17 + products*0x1p-22); !(math.Abs(g-want) <= bound) {
				t.Fatalf("%s: row %d, output %d is %g, want %g, off by more than %g", what, i, n, g, want,
					bound)
			}
		}
	}
}

// tensorRows are rows whose numbers have more bits than two bfloat16 have room for; some are no
// numbers.
func tensorRows(rng *rand.Rand, n, dim int) tensor.Rows {
	x := randomRows(rng, n, dim, false)
	for i, v := range []float64{math.Inf(1), math.NaN(), math.Inf(-1), 0, 0x1p-130} {
		if i < n {
			x.Row(i)[i%dim] = float32(v)
		}
	}
	return x
}

// TestMulTensor compares products with float64, and bits of rows alone, a few, and many.
func TestMulTensor(t *testing.T) { testMulTensor(newBench(t)) }

func testMulTensor(b *bench) {
	rng := rand.New(rand.NewPCG(41, 42))
	for f, kernels := range tensorKernels {
		for _, s := range [][3]int{{1, 1, 1}, {3, 17, 33}, {16, 65, 200}, {140, 150, 67}, {17, 31, 513},
			{130, 33, 5}, {129, 128, 64}, {5, 33, 96}, {133, 270, 418}} {
			m := newMatrix(b.T, rng, s[1], s[2], f)
			x := tensorRows(rng, s[0], s[2])
			many, few := b.tensorProduct(&kernels[1], m, x), b.tensorProduct(&kernels[0], m, x)
			hopper := hopperKernels[f]
			close64(b.T, m, x, many, f.String()+", many rows")
			alone := b.tensorProduct(&kernels[0], m, x.Slice(x.N-1, x.N))
			part := b.tensorProduct(&kernels[1], m, x.Slice(x.N/3, x.N))
			for what, p := range map[string][]float32{"few rows": few, "a row alone": alone,
				"some rows": part, "by Hopper": b.tensorProduct(&hopper, m, x),
				"some rows by Hopper": b.tensorProduct(&hopper, m, x.Slice(x.N/2, x.N))} {
				if !sameBits(p, many[len(many)-len(p):]) {
					b.Errorf("%v, %d×%d matrix, %d rows: %s: other bytes", f, m.N, m.K, x.N, what)
				}
			}
		}
	}
}

// sameBits compares bits; all NaNs are the same.
func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool {
		return math.Float32bits(x) == math.Float32bits(y) || x != x && y != y
	})
}

func TestMulTensorReverse(t *testing.T) {
	if with(t, "STANDIN", "reverse") {
		testMulTensor(newBench(t))
	}
}

func TestMulTensorShuffle(t *testing.T) {
	if with(t, "STANDIN", "shuffle") {
		testMulTensor(newBench(t))
	}
}

// openTensor opens the first device as one of TensorKind.
func openTensor(t *testing.T) *Device {
	t.Helper()
	needStandIn(t)
	a, err := OpenDevice(TensorKind, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a.(*Device)
}

// TestTensorDevice asks for results as near a CPU's as two bfloat16 for a number let them be.
func TestTensorDevice(t *testing.T) {
	d := openTensor(t)
	devicetest.Run(t, d, devicetest.Options{Tolerance: 1e-4})
	if got := d.Class(kernel.BF16); got != kernel.ClassOn("cuda-tensor", kernel.BF16) {
		t.Errorf("its class is %s", got)
	}
	if _, err := OpenDevice("cuda-tensors", 0); err == nil ||
		!strings.Contains(err.Error(), "cuda-tensors") {
		t.Errorf("a kind that there is not: %v", err)
	}
}

// TestTensorAlone checks that a row has the same bytes alone, in a batch, and with other experts
// beside it, through single products and through experts; and that products of floats are of
// tensor cores, whatever the rows.
func TestTensorAlone(t *testing.T) {
	d := openTensor(t)
	for f := range tensorKernels {
		testAlone(t, d, f)
	}
}

func testAlone(t *testing.T, d *Device, f kernel.Format) {
	const hidden, rows = 72, 60
	rng := rand.New(rand.NewPCG(43, 44))
	e := newExperts(t, d, rng, 3, hidden, 40, f)
	x := randomRows(rng, rows, hidden, false)
	run := func(x tensor.Rows, counts ...int) []float32 {
		e.rows(counts...)
		in, y := must1(d.Allocate(x.N, hidden))(t), must1(d.Allocate(x.N, hidden))(t)
		d.Write(in, x)
		d.FeedForward(y, in, e.parts)
		return slices.Clone(must1(d.Read(y))(t).Data)
	}
	mul := func(x tensor.Rows) []float32 {
		in, y := must1(d.Allocate(x.N, hidden))(t), must1(d.Allocate(x.N, 80))(t)
		d.Write(in, x)
		d.Mul(in, []kernel.Product{{Y: y, W: e.parts[0].GateUp}})
		return slices.Clone(must1(d.Read(y))(t).Data)
	}
	var names []string
	for _, k := range []string{"mul_narrow_", "mul_tensor_", "mul_few_", "mul_grouped_", "mul_"} {
		names = append(names, k+f.String())
	}
	var all, single []float32
	times := counted(t, func() { all, single = run(x, 5, 50, 5), mul(x) }, names...)
	for i := range rows {
		var counts [3]int
		counts[min(max(i-5, 0)/50+min(i/5, 1), 2)] = 1
		times2 := counted(t, func() {
			if !slices.Equal(run(x.Slice(i, i+1), counts[:]...), all[i*hidden:(i+1)*hidden]) {
				t.Errorf("%v, row %d through its expert has other bytes alone", f, i)
			}
			if !slices.Equal(mul(x.Slice(i, i+1)), single[i*80:(i+1)*80]) {
				t.Errorf("%v, row %d of a product has other bytes alone", f, i)
			}
		}, names...)
		if !slices.Equal(times2, []int{3, 0, 0, 0, 0}) {
			t.Fatalf("a row: %v times %v", times2, names)
		}
	}
	if !slices.Equal(times, []int{0, 3, 0, 0, 0}) {
		t.Errorf("%d rows: %v times %v", rows, times, names)
	}
}
