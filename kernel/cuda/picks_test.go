//go:build cuda && linux

package cuda

import (
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"drover/kernel"
	"drover/tensor"
)

func bytesOfPicks(p []int32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(p))), 4*len(p))
}

// cpuRows returns rows of a CPU, to compare with.
func cpuRows(t *testing.T, cpu *kernel.CPU, x []float32, dim int) kernel.Rows {
	t.Helper()
	r, err := cpu.Allocate(len(x)/dim, dim)
	if err != nil {
		t.Fatal(err)
	}
	cpu.Write(r, tensor.Rows{Data: x, N: r.N, Dim: dim})
	return r
}

func readCPU(t *testing.T, cpu *kernel.CPU, r kernel.Rows) []float32 {
	t.Helper()
	x, err := cpu.Read(r)
	if err != nil {
		t.Fatal(err)
	}
	return x.Data
}

func TestGatherScatter(t *testing.T) {
	b, cpu := newBench(t), kernel.NewCPU(nil)
	rng := rand.New(rand.NewPCG(13, 14))
	for i, s := range [][3]int{{1, 1, 1}, {3, 7, 17}, {70, 5, 130}, {4, 9, 64}} {
		rows, others, dim := s[0], s[1], s[2]
		x, y := numbers(rng, others*dim, i > 0), numbers(rng, rows*dim, i > 0)
		x[0] = float32(math.NaN())
		weights, picks := numbers(rng, rows, i > 0), make([]int32, rows)
		for j := range picks {
			picks[j] = int32(rng.IntN(others))
		}
		for mode := range 4 {
			weighted, narrow := mode&1, mode>>1
			pick, d := kernel.Picks{Rows: picks}, tensor.F32
			if weighted == 1 {
				pick.Weights = weights
			}
			if narrow == 1 {
				d = tensor.BF16
			}
			dx, dy := b.on(bytesOf(x)), b.on(bytesOf(y))
			dp, dw := b.on(bytesOfPicks(picks)), b.on(bytesOf(weights))
			hx, hy := cpuRows(t, cpu, x, dim), cpuRows(t, cpu, y, dim)
			// Rows of y are added to x's, then x's rows gathered into y.
			b.launch("scatter_rows", Grid{ceil(dim, 128), 1, 128}, dx.At(0), dy.At(0), dp.At(0), dw.At(0),
				uint64(rows), uint64(dim), uint64(weighted))
			b.launch("gather_rows", Grid{ceil(rows*dim, 128), 1, 128}, dy.At(0), dx.At(0), dp.At(0),
				dw.At(0), uint64(rows*dim), uint64(dim), uint64(weighted), uint64(narrow))
			cpu.Scatter(hx, hy, pick)
			cpu.Gather(hy, hx, pick, d)
			b.same(dx, readCPU(t, cpu, hx), "scatter of %d rows of %d, mode %d", rows, dim, mode)
			b.same(dy, readCPU(t, cpu, hy), "gather of %d rows of %d, mode %d", rows, dim, mode)
		}
	}
}

func TestEmbed(t *testing.T) {
	b, cpu := newBench(t), kernel.NewCPU(nil)
	rng := rand.New(rand.NewPCG(15, 16))
	const vocabulary, dim = 70, 33
	tokens := []int32{69, 0, 0, 13, 42}
	for i, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		data := make([]byte, vocabulary*dim*d.Size())
		for j := range data {
			data[j] = byte(rng.Uint32()) // all numbers that there are, and none
		}
		table, err := cpu.UploadTable(kernel.TableBytes{Data: data, DType: d, Rows: vocabulary, Dim: dim})
		if err != nil {
			t.Fatal(err)
		}
		want := cpuRows(t, cpu, make([]float32, len(tokens)*dim), dim)
		cpu.Embed(want, table, tokens)
		x := b.on(make([]byte, 4*len(tokens)*dim))
		b.launch("embed_rows", Grid{ceil(len(tokens)*dim, 128), 1, 128}, x.At(0), b.on(data).At(0),
			b.on(bytesOfPicks(tokens)).At(0), uint64(len(tokens)*dim), dim, uint64(i))
		b.same(x, readCPU(t, cpu, want), "%v", d)
	}
}
