package kernel

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"testing"

	"drover/tensor"
)

// recorded are hashes of results on amd64: another architecture's compiler may fuse
// multiplications with additions, and its vector instructions are others. Whoever changes
// them on purpose changes the constant arithmetic, too.
var recorded = map[string]uint64{
	"add":             0xd518f839ecdc40e3,
	"attention bf16":  0xcf8800c7d7dcbc81,
	"attention exact": 0x5c1bcc15f54eab6a,
	"attention int8":  0xb78c8733f0202a34,
	"bf16 [1 96 320]": 0xa362680659142305,
	"bf16 [7 83 131]": 0x6036bdf4ee8a6844,
	"expShifted":      0x1eefe933e1849e6c,
	"f32 [1 96 320]":  0x746ed5f411a5d01b,
	"f32 [7 83 131]":  0x46c1db4e9dfa7679,
	"fp8 [1 96 320]":  0x9787d2b6b49d9d93,
	"fp8 [7 83 131]":  0xf6a107b6ee864668,
	"int4 [1 96 320]": 0x2b488f0b60bbaee0,
	"int4 [7 83 131]": 0x25c3cb975e8f8356,
	"int8 [1 96 320]": 0x633527287324bb7a,
	"int8 [7 83 131]": 0xcf752b76bce0209f,
	"narrow":          0x2d8c27d6e6ef4427,
	"norm":            0xe398e1108ea1786d,
	"rotate":          0xd34ac8965468d93c,
	"round":           0x68a5341d2865e613,
	"scale":           0xd45712225b2ab399,
	"scaleWeighted":   0x59438c3006ad0cf3,
	"sigmoid":         0xc4c0c74bc3814b02,
	"swiGLU":          0x6f8fac726ce36c41,
	"widen":           0x34aadb8d32a306f4,
}

// exactRow is random numbers that every machine makes alike.
func exactRow(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(int32(r.Uint32())) * 0x1p-29
	}
	return x
}

func hashRows(rows ...[]float32) uint64 {
	h := fnv.New64a()
	for _, row := range rows {
		for _, v := range row {
			b := math.Float32bits(v)
			_, _ = h.Write([]byte{byte(b), byte(b >> 8), byte(b >> 16), byte(b >> 24)})
		}
	}
	return h.Sum64()
}

// TestRecordedBytes compares results with those recorded, in every set of instructions.
func TestRecordedBytes(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(61, 62))
		check := func(name string, rows ...[]float32) {
			if got := hashRows(rows...); got != recorded[name] {
				t.Errorf("not the recorded bytes, but\n%q: %#x,", name, got)
			}
		}
		products := func(f Format) {
			for _, s := range [][3]int{{1, 96, 320}, {7, 83, 131}} {
				m, err := NewMatrix(s[1], s[2], f)
				if err != nil {
					t.Fatal(err)
				}
				for n := range s[1] {
					if err := m.SetRow(n, exactRow(r, s[2])); err != nil {
						t.Fatal(err)
					}
				}
				y := tensor.MakeRows(s[0], s[1])
				m.Mul(y, tensor.Rows{Data: exactRow(r, s[0]*s[2]), N: s[0], Dim: s[2]})
				check(fmt.Sprint(f, s), y.Data)
			}
		}
		for f := WeightsF32; f <= WeightsInt4; f++ {
			products(f)
		}
		a, b, y := exactRow(r, 1000), exactRow(r, 1000), exactRow(r, 1000)
		for _, l := range loops {
			l.fast(y, a, b, 1.25)
			check(l.name, y)
		}
		x, out := tensor.Rows{Data: a, N: 2, Dim: 500}, tensor.MakeRows(2, 500)
		RMSNorm(out, x, b[:500], 1e-5)
		check("norm", out.Data)
		RotatePairs(out.Row(0), a[:50], b[:50])
		RotateHalves(out.Row(1), a[:50], b[:50])
		check("rotate", out.Data)
		for _, kv := range []Precision{PrecisionExact, PrecisionBF16, PrecisionInt8} {
			check(fmt.Sprint("attention ", kv), exactAttention(r, kv).Data)
		}
		products(WeightsFP8) // last: what it draws must not change the others
	})
}

// exactAttention is attention of random rows that every machine makes alike.
func exactAttention(r *rand.Rand, kv Precision) tensor.Rows {
	const tokens, heads, dim = 90, 2, 32
	a := Attention{Heads: 2 * heads, KV: KVLayout{Heads: heads, HeadDim: dim, Precision: kv}, Scale: 0.125}
	rows := func(dim int) tensor.Rows {
		return tensor.Rows{Data: exactRow(r, tokens*dim), N: tokens, Dim: dim}
	}
	c := &attentionCase{Attention: a, q: rows(2 * heads * dim), k: rows(heads * dim),
		v: rows(heads * dim)}
	c.tiles = newTestTiles(r, a.KV, c.k, c.v, 0xff)
	return c.run(new(AttentionRun), 0, tokens, tokens)
}
