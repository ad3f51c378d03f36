//go:build cuda && linux

package cuda

import (
	"math"
	"math/rand/v2"
	"testing"

	"drover/kernel"
	"drover/tensor"
)

// TestMulFP8 multiplies with codes of all sizes, subnormal ones among them.
func TestMulFP8(t *testing.T) {
	b := newBench(t)
	rng := rand.New(rand.NewPCG(31, 32))
	for i, s := range [][3]int{{1, 1, 1}, {1, 64, 64}, {3, 17, 33}, {8, 65, 2}, {9, 15, 130},
		{17, 150, 67}, {1, 31, 513}, {70, 33, 5}} {
		rows, n, k := s[0], s[1], s[2]
		m, err := kernel.NewMatrix(n, k, kernel.WeightsFP8)
		if err != nil {
			t.Fatal(err)
		}
		for j := range n {
			w := numbers(rng, k, false)
			for l := range w {
				w[l] *= float32(math.Ldexp(1, -rng.IntN(24)))
			}
			if err := m.SetRow(j, w); err != nil {
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
		b.launch("mul_fp8", Grid{ceil(n, 64), ceil(rows, 8), 64}, y.At(0), b.on(bytesOf(x.Data)).At(0),
			b.on(m.Packed()).At(0), uint64(rows), uint64(n), uint64(k))
		b.same(y, want.Data, "%d rows × %d×%d", rows, n, k)
	}
}
