package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"drover/tensor"
)

// benchLevels runs a benchmark with each instruction set from lowest on; bytes is what
// one call reads.
func benchLevels(b *testing.B, name string, lowest instructions, bytes int, f func()) {
	best := level
	defer func() { level = best }()
	for l := lowest; l <= best; l++ {
		b.Run(name+"/"+instructionNames[l], func(b *testing.B) {
			level = l
			b.ReportAllocs()
			b.SetBytes(int64(bytes))
			for b.Loop() {
				f()
			}
		})
	}
}

func BenchmarkMul(b *testing.B) {
	r := rand.New(rand.NewPCG(11, 12))
	for d := WeightsF32; d <= lastFormat; d++ {
		m := randomMatrix(b, r, 2048, 2048, d)
		for _, n := range []int{1, 2, 4, 8, 64} {
			x, y := randomRows(r, n, 2048), tensor.MakeRows(n, 2048)
			name := fmt.Sprintf("%s/rows=%d", d, n)
			benchLevels(b, name, plainGo+1, m.Bytes(), func() { m.Mul(y, x) })
		}
	}
}

// BenchmarkLoops measures loops over 2048 elements, of which a call reads the input.
func BenchmarkLoops(b *testing.B) {
	r := rand.New(rand.NewPCG(13, 14))
	x, w, y := randomRows(r, 1, 2048), randomRows(r, 1, 2048), tensor.MakeRows(1, 2048)
	h, half := randomRows(r, 1, 4096), bfloats(x.Data)
	cos := make([]float32, 128)
	for i := range cos {
		cos[i] = 0.7
	}
	for _, f := range []struct {
		name  string
		bytes int
		run   func()
	}{
		{"Add", 8192, func() { Add(y.Data, x.Data) }},
		{"RMSNorm", 8192, func() { RMSNorm(y, x, w.Data, 1e-5) }},
		{"SwiGLU", 16384, func() { SwiGLU(y, h) }},
		{"expShifted", 8192, func() { expShifted(y.Data, x.Data, 3) }},
		{"Round", 8192, func() { Round(y.Data, tensor.BF16) }},
		{"NarrowBF16", 8192, func() { NarrowBF16(half, x.Data) }},
		{"RotatePairs", 8192, func() { RotatePairs(y.Data, cos[:64], cos[64:]) }},
		{"RotateHalves", 8192, func() { RotateHalves(y.Data, cos[:64], cos[64:]) }},
		{"Finite", 8192, func() { Finite(x.Data) }},
		{"FirstAbove", 8192, func() { FirstAbove(x.Data, 1e9) }},
		{"WidenBF16", 4096, func() { WidenBF16(y.Data, half) }},
	} {
		benchLevels(b, f.name, plainGo, f.bytes, f.run)
	}
}
