package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"drover/tensor"
)

// encode writes weights, (n, k), as a source of a type, whose outputs are rows or columns.
func encode(w tensor.Rows, d tensor.DType, columns bool) Source {
	s := Source{Type: d, OutputStride: w.Dim, InputStride: 1}
	if columns {
		s.OutputStride, s.InputStride = 1, w.N
	}
	s.Data = make([]byte, w.N*w.Dim*d.Size())
	for n := range w.N {
		for k, v := range w.Row(n) {
			at := (n*s.OutputStride + k*s.InputStride) * d.Size()
			switch d {
			case tensor.BF16:
				binary.LittleEndian.PutUint16(s.Data[at:], tensor.Float32ToBF16(v))
			case tensor.F16:
				binary.LittleEndian.PutUint16(s.Data[at:], tensor.Float32ToF16(v))
			default:
				binary.LittleEndian.PutUint32(s.Data[at:], math.Float32bits(v))
			}
		}
	}
	return s
}

// TestPack compares with SetRow, byte by byte, whole and in parts.
func TestPack(t *testing.T) { withLevels(t, testPack) }

func testPack(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 32))
	var p Packer
	for _, shape := range [][2]int{{16, 64}, {64, 66}, {50, 130}, {7, 5}, {33, 31}, {96, 4}, {80, 200}} {
		w := tensor.Rows{Data: extremeRow(r, shape[0]*shape[1], 0), N: shape[0], Dim: shape[1]}
		for i, v := range w.Data {
			if !(math.Abs(float64(v)) < 1e4) {
				w.Data[i] = float32(i%17) / 16
			}
		}
		for f := WeightsF32; f <= lastFormat; f++ {
			for _, d := range []tensor.DType{tensor.BF16, tensor.F16, tensor.F32} {
				for _, columns := range []bool{false, true} {
					name := fmt.Sprintf("%v %v from %v, columns %v", shape, f, d, columns)
					samePacked(t, name, &p, w, f, encode(w, d, columns))
				}
			}
		}
	}
}

func samePacked(t *testing.T, name string, p *Packer, w tensor.Rows, f Format, s Source) {
	t.Helper()
	want, err := NewMatrix(w.N, w.Dim, f)
	if err != nil {
		t.Fatal(err)
	}
	row := make([]float32, w.Dim)
	for n := range w.N {
		s.convert(row, n*s.OutputStride, s.InputStride)
		if err := want.SetRow(n, row); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []int{w.N, 16, 5} {
		got, err := NewMatrix(w.N, w.Dim, f)
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < w.N; n += step {
			if err := p.Pack(got, n, min(step, w.N-n), s.from(n)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if !bytes.Equal(got.Packed(), want.Packed()) {
			t.Errorf("%s: in steps of %d the packed weights differ", name, step)
		}
	}
}

func TestPackRefuses(t *testing.T) { withLevels(t, testPackRefuses) }

func testPackRefuses(t *testing.T) {
	var p Packer
	for f := WeightsF32; f <= lastFormat; f++ {
		for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 2e38} {
			if v == 2e38 && !f.scaled() {
				continue
			}
			for _, columns := range []bool{false, true} {
				w := tensor.MakeRows(40, 70)
				w.Row(17)[33] = float32(v)
				m, err := NewMatrix(40, 70, f)
				if err != nil {
					t.Fatal(err)
				}
				err = p.Pack(m, 0, 40, encode(w, tensor.BF16, columns))
				if err == nil || !bytes.Contains([]byte(err.Error()), []byte("output 17")) {
					t.Errorf("%v with a weight of %v: error %v, must name output 17", f, v, err)
				}
			}
		}
	}
	m, err := NewMatrix(16, 16, WeightsBF16)
	if err != nil {
		t.Fatal(err)
	}
	short := Source{Data: make([]byte, 511), Type: tensor.BF16, OutputStride: 16, InputStride: 1}
	if p.Pack(m, 0, 16, short) == nil {
		t.Error("a source that is too short is packed")
	}
}

// BenchmarkPack packs 512 outputs of 5120 inputs; a call reads their bfloat16 weights.
// "copy" copies them.
func BenchmarkPack(b *testing.B) {
	r := rand.New(rand.NewPCG(33, 34))
	w := randomRows(r, 512, 5120)
	for _, columns := range []bool{false, true} {
		s := encode(w, tensor.BF16, columns)
		into := make([]byte, len(s.Data))
		b.Run(fmt.Sprintf("copy/columns=%v", columns), func(b *testing.B) {
			b.SetBytes(int64(len(s.Data)))
			for b.Loop() {
				copy(into, s.Data)
			}
		})
		for f := WeightsF32; f <= lastFormat; f++ {
			m, err := NewMatrix(512, 5120, f)
			if err != nil {
				b.Fatal(err)
			}
			var p Packer
			b.Run(fmt.Sprintf("%v/columns=%v", f, columns), func(b *testing.B) {
				b.SetBytes(int64(len(s.Data)))
				for b.Loop() {
					if err := p.Pack(m, 0, m.N, s); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func TestFiniteBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(35, 36))
	for _, d := range []tensor.DType{tensor.BF16, tensor.F16, tensor.F32} {
		for n := range 600 {
			w := randomRows(r, 1, n)
			if !FiniteBytes(encode(w, d, false).Data, d) {
				t.Fatalf("%d finite elements of %s are refused", n, d)
			}
			if n == 0 {
				continue
			}
			w.Data[r.IntN(n)] = float32(math.Inf(1 - 2*r.IntN(2)))
			if FiniteBytes(encode(w, d, false).Data, d) {
				t.Fatalf("an infinity among %d elements of %s is not seen", n, d)
			}
		}
	}
}
