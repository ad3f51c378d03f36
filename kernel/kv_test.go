package kernel

import (
	"math"
	"math/rand/v2"
	"testing"
)

// at returns an element of a key, or a value, of a tile.
func (l KVLayout) at(tile []byte, head, pos, element int) (key, value float32) {
	b := tile[head*l.headBytes() : (head+1)*l.headBytes()]
	k, v := l.split(b)
	var w [KVTokens]float32
	size := l.elementBytes()
	l.widenVector(&w, k[element*KVTokens*size:])
	key = w[pos]
	l.widenVector(&w, v[(pos*l.dims()+element/KVTokens*KVTokens)*size:])
	value = w[element%KVTokens]
	if l.Precision == PrecisionInt8 {
		keys, values := kvScales(b)
		key *= keys[pos]
		value *= values[pos]
	}
	return key, value
}

// TestKVLayout writes a tile twice, in any order, and reads it back. bfloat16 keeps
// 8 bits, int8 errs by half a step of 1/127 of the largest.
func TestKVLayout(t *testing.T) {
	for p, relative := range map[Precision]float64{PrecisionExact: 0, PrecisionBF16: 1.0 / 256,
		PrecisionInt8: 0.51 / 127} {
		for _, dim := range []int{1, 2, 12, 16, 33, 128} {
			l := KVLayout{3, dim, p}
			r := rand.New(rand.NewPCG(91, uint64(dim)))
			tile := make([]byte, l.TileBytes())
			k, v := randomRows(r, KVTokens, 3*dim), randomRows(r, KVTokens, 3*dim)
			for _, pos := range append(r.Perm(KVTokens), r.Perm(KVTokens)...) {
				l.Put(tile, pos, k.Row(pos), v.Row(pos))
			}
			for pos := range KVTokens {
				for i := range 3 * dim {
					key, value := l.at(tile, i/dim, pos, i%dim)
					from := i / dim * dim
					for _, x := range [][2]float32{{key, k.Row(pos)[i]}, {value, v.Row(pos)[i]}} {
						size := math.Abs(float64(x[1]))
						if p == PrecisionInt8 {
							size = float64(max(absMax(k.Row(pos)[from:from+dim]),
								absMax(v.Row(pos)[from:from+dim])))
						}
						if !(math.Abs(float64(x[0])-float64(x[1])) <= relative*size) {
							t.Fatalf("%+v: position %d element %d is %g, want %g", l, pos, i, x[0], x[1])
						}
					}
				}
			}
		}
	}
}

func TestKVLayoutExtremes(t *testing.T) {
	l := KVLayout{1, 3, PrecisionInt8}
	tile := make([]byte, l.TileBytes())
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for _, bad := range []float32{nan, inf} {
		l.Put(tile, 3, []float32{1, bad, 2}, []float32{bad, 1, 2})
		if k, v := l.at(tile, 0, 3, 0); k == k || v == v {
			t.Errorf("with %g: key %g, value %g, want NaN", bad, k, v)
		}
	}
	l.Put(tile, 3, []float32{0x1p-101, 0, -0x1p-110}, []float32{math.MaxFloat32, -1, 0})
	if k, v := l.at(tile, 0, 3, 0); k != 0 || !(v >= math.MaxFloat32*0.999) {
		t.Errorf("key %g, value %g, want 0 and the largest", k, v)
	}
}

func TestKVLayoutCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		l  KVLayout
		ok bool
	}{
		"bf16":       {KVLayout{8, 128, PrecisionBF16}, true},
		"odd":        {KVLayout{1, 5, PrecisionExact}, true},
		"no heads":   {KVLayout{0, 128, PrecisionBF16}, false},
		"no size":    {KVLayout{8, 0, PrecisionBF16}, false},
		"large head": {KVLayout{8, MaxHeadDim + 1, PrecisionBF16}, false},
		"int4":       {KVLayout{8, 128, PrecisionInt4}, false},
		"zero":       {KVLayout{}, false},
	} {
		if err := tc.l.Check(); (err == nil) != tc.ok {
			t.Errorf("%s: %v, want ok %t", name, err, tc.ok)
		}
		if tc.ok && tc.l.TileBytes()%KVTokens != 0 {
			t.Errorf("%s: a tile has %d bytes", name, tc.l.TileBytes())
		}
	}
}

func BenchmarkPut(b *testing.B) {
	for p := PrecisionExact; p <= PrecisionInt8; p++ {
		b.Run(p.String(), func(b *testing.B) {
			l := KVLayout{8, 128, p}
			tile, x := make([]byte, l.TileBytes()), randomRows(rand.New(rand.NewPCG(1, 2)), 2, 1024)
			for i := range b.N {
				l.Put(tile, i%KVTokens, x.Row(0), x.Row(1))
			}
		})
	}
}
