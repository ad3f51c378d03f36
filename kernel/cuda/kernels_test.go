//go:build cuda && linux

package cuda

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"drover/kernel"
	"drover/tensor"
)

// bench is a context with the kernels loaded, for tests of them.
type bench struct {
	*testing.T
	c      *Context
	module *Module
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, c: open(t)}
	t.Cleanup(func() { closeContext(t, b.c) })
	m, err := b.c.LoadKernels()
	if err != nil {
		t.Fatal(err)
	}
	b.module = m
	return b
}

// on returns memory of the device with these bytes, and some more behind them, which no
// kernel may touch.
func (b *bench) on(data []byte) *Memory {
	b.Helper()
	const more = 64
	m, err := b.c.Allocate(len(data) + more)
	if err != nil {
		b.Fatal(err)
	}
	h, err := b.c.AllocateHost(len(data))
	if err != nil {
		b.Fatal(err)
	}
	copy(h.Bytes, data)
	if err := errors.Join(m.Write(0, h, len(data)), b.c.Sync(), h.Free()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if !slices.Equal(b.read(m, len(data), more), make([]byte, more)) {
			b.Errorf("a kernel wrote behind %d bytes", len(data))
		}
		if err := m.Free(); err != nil {
			b.Error(err)
		}
	})
	return m
}

func (b *bench) read(m *Memory, at, size int) []byte {
	b.Helper()
	h, err := b.c.AllocateHost(size)
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(m.Read(h, at, size), b.c.Sync()); err != nil {
		b.Fatal(err)
	}
	data := slices.Clone(h.Bytes)
	if err := h.Free(); err != nil {
		b.Fatal(err)
	}
	return data
}

func (b *bench) launch(name string, g Grid, arguments ...uint64) {
	b.Helper()
	k, err := b.module.Kernel(name)
	if err != nil {
		b.Fatal(err)
	}
	if n := sharedBytes[kernelID(slices.Index(kernelNames[:], name))]; n > 0 {
		err = k.share(n)
	}
	if err != nil {
		b.Fatal(err)
	}
	if err := k.Launch(g, arguments...); err != nil {
		b.Fatal(err)
	}
}

// same compares bits. All NaNs are the same.
func (b *bench) same(m *Memory, want []float32, what string, args ...any) {
	b.Helper()
	raw := b.read(m, 0, 4*len(want))
	got := unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(raw))), len(want))
	for i, w := range want {
		if math.Float32bits(got[i]) != math.Float32bits(w) && !(got[i] != got[i] && w != w) {
			b.Fatalf("%s: element %d is %g (%#x), want %g (%#x)", fmt.Sprintf(what, args...), i,
				got[i], math.Float32bits(got[i]), w, math.Float32bits(w))
		}
	}
}

func bytesOf(x []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}

// extremes are numbers whose products round, underflow, overflow or are none.
var extremes = []float32{0, float32(math.Copysign(0, -1)), math.SmallestNonzeroFloat32,
	-math.SmallestNonzeroFloat32, 1.1754942e-38, 1e-20, -1e20, math.MaxFloat32, 1 + 1.0/(1<<23)}

// numbers returns normal numbers, each eighth an extreme if those are wanted.
func numbers(rng *rand.Rand, n int, extreme bool) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
		if extreme && rng.IntN(8) == 0 {
			x[i] = extremes[rng.IntN(len(extremes))]
		}
	}
	return x
}

func ceil(n, d int) uint32 { return uint32((n + d - 1) / d) }

func TestMul(t *testing.T) {
	b := newBench(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for name, f := range map[string]kernel.Format{
		"mul_f32": kernel.WeightsF32, "mul_bf16": kernel.WeightsBF16} {
		for i, s := range [][3]int{{1, 1, 1}, {1, 64, 64}, {3, 17, 33}, {8, 65, 2}, {9, 15, 130},
			{17, 150, 67}, {1, 31, 513}, {70, 33, 5}} {
			rows, n, k := s[0], s[1], s[2]
			m, err := kernel.NewMatrix(n, k, f)
			if err != nil {
				t.Fatal(err)
			}
			for j := range n {
				if err := m.SetRow(j, numbers(rng, k, i%2 == 1)); err != nil {
					t.Fatal(err)
				}
			}
			x := tensor.Rows{Data: numbers(rng, rows*k, i%2 == 1), N: rows, Dim: k}
			if rows > 8 {
				x.Data[0], x.Data[k] = float32(math.Inf(1)), float32(math.NaN())
			}
			want := tensor.MakeRows(rows, n)
			m.Mul(want, x)
			y := b.on(make([]byte, 4*rows*n))
			b.launch(name, Grid{ceil(n, 64), ceil(rows, 8), 64}, y.At(0), b.on(bytesOf(x.Data)).At(0),
				b.on(m.Packed()).At(0), uint64(rows), uint64(n), uint64(k))
			b.same(y, want.Data, "%s, %d rows × %d×%d", name, rows, n, k)
		}
	}
}

func TestRows(t *testing.T) {
	b := newBench(t)
	rng := rand.New(rand.NewPCG(3, 4))
	for i, s := range [][2]int{{1, 1}, {3, 17}, {1, 128}, {5, 130}, {70, 3}} {
		rows, dim := s[0], s[1]
		x, y := numbers(rng, rows*dim, i > 0), numbers(rng, rows*dim, i > 0)
		factors := numbers(rng, rows, i > 0)
		dx, dy := b.on(bytesOf(x)), b.on(bytesOf(y))
		grid := Grid{ceil(rows*dim, 128), 1, 128}
		b.launch("add_rows", grid, dy.At(0), dx.At(0), uint64(rows*dim))
		kernel.Add(y, x)
		b.same(dy, y, "sum of %d rows of %d", rows, dim)
		b.launch("scale_rows", grid, dx.At(0), b.on(bytesOf(factors)).At(0), uint64(rows*dim), uint64(dim))
		for j, f := range factors {
			kernel.Scale(x[j*dim:(j+1)*dim], f)
		}
		b.same(dx, x, "%d scaled rows of %d", rows, dim)
	}
}

func TestRotate(t *testing.T) {
	b := newBench(t)
	rng := rand.New(rand.NewPCG(5, 6))
	for i, s := range [][3]int{{1, 1, 1}, {3, 5, 4}, {17, 2, 64}, {2, 3, 33}} {
		rows, heads, half := s[0], s[1], s[2]
		dim := heads * 2 * half
		for halves, rotate := range []func(row, cos, sin []float32){kernel.RotatePairs,
			kernel.RotateHalves} {
			x := numbers(rng, rows*dim, i > 0)
			cos, sin := numbers(rng, rows*half, i > 1), numbers(rng, rows*half, i > 1)
			dx := b.on(bytesOf(x))
			b.launch("rotate_rows", Grid{ceil(rows*dim/2, 128), 1, 128}, dx.At(0), b.on(bytesOf(cos)).At(0),
				b.on(bytesOf(sin)).At(0), uint64(rows*dim/2), uint64(dim), uint64(half), uint64(halves))
			for r := range rows {
				rotate(x[r*dim:(r+1)*dim], cos[r*half:(r+1)*half], sin[r*half:(r+1)*half])
			}
			b.same(dx, x, "form %d, %d rows of %d heads of %d", halves, rows, heads, 2*half)
		}
	}
}
