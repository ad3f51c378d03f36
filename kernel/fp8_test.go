package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"drover/tensor"
)

// anyCodes fills a matrix of e4m3 with all codes but NaN, and scales of every size.
func anyCodes(r *rand.Rand, m *Matrix) {
	scales := []float32{0, 1, largestFP8Scale, 0.0123, 3e-5, 0x1p-100, math.SmallestNonzeroFloat32,
		math.Nextafter32(largestFP8Scale, 0)}
	for n := range m.N {
		for g := 0; g*groupInputs < m.K; g++ {
			var codes [groupInputs]byte
			for k := range min(groupInputs, m.K-g*groupInputs) {
				for codes[k] = byte(r.Uint32()); codes[k]&0x7f == 0x7f; codes[k]-- {
				}
				if r.IntN(4) == 0 {
					codes[k] &= 0x87 // a subnormal
				}
			}
			block := m.block(n - n%blockRows)[g*fp8Bytes : (g+1)*fp8Bytes]
			putFP8(block, n%blockRows, &codes, scales[r.IntN(len(scales))])
		}
	}
}

// TestFP8IsFloat32 compares products with those of the same weights in float32, bit by bit,
// for every number of rows that a
// tile has, and more.
func TestFP8IsFloat32(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(71, 72))
		for _, rows := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 29} {
			n, k := 65+r.IntN(64), 65+r.IntN(600)
			m, err := NewMatrix(n, k, WeightsFP8)
			if err != nil {
				t.Fatal(err)
			}
			anyCodes(r, m)
			same, err := NewMatrix(n, k, WeightsF32)
			if err != nil {
				t.Fatal(err)
			}
			row := make([]float32, k)
			for i := range n {
				for j := range row {
					row[j] = m.At(i, j)
				}
				if err := same.SetRow(i, row); err != nil {
					t.Fatal(err)
				}
			}
			x := tensor.Rows{Data: extremeRow(r, rows*k, 1000), N: rows, Dim: k}
			name := fmt.Sprintf("%d rows, %d × %d", rows, n, k)
			sameBytes(t, name, m, x)
			got, want := tensor.MakeRows(rows, n), tensor.MakeRows(rows, n)
			m.Mul(got, x)
			same.Mul(want, x)
			compare(t, name+", in float32", got.Data, want.Data)
		}
	})
}

// TestFP8Values checks every code with scales of all sizes: a weight is their product, rounded
// once.
func TestFP8Values(t *testing.T) {
	m, err := NewMatrix(1, groupInputs, WeightsFP8)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(73, 74))
	for range 2000 {
		scale := float32(math.Ldexp(1+r.Float64(), r.IntN(156)-149))
		var codes [groupInputs]byte
		for k := range codes {
			codes[k] = byte(r.IntN(0x7f) | r.IntN(2)<<7)
		}
		putFP8(m.w, 0, &codes, scale)
		for k, c := range codes {
			want := tensor.E4M3ToFloat32(c) * scale
			if got := m.At(0, k); math.Float32bits(got) != math.Float32bits(want) {
				t.Fatalf("code %#02x with scale %g: %g, want %g", c, scale, got, want)
			}
		}
	}
}

// TestFP8Rounding packs random weights: none is off by more than a sixteenth of itself, or
// half a step of the smallest codes.
func TestFP8Rounding(t *testing.T) {
	r := rand.New(rand.NewPCG(75, 76))
	w := extremeRow(r, 64*groupInputs, 0)
	m, err := NewMatrix(1, len(w), WeightsFP8)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range w {
		if !(math.Abs(float64(v)) < 1e4) {
			w[i] = 1
		}
	}
	if err := m.SetRow(0, w); err != nil {
		t.Fatal(err)
	}
	for k, v := range w {
		largest := absMax(w[k&^(groupInputs-1):][:groupInputs])
		off := math.Abs(float64(m.At(0, k)) - float64(v))
		if most := math.Abs(float64(v))/16 + float64(largest)/448*0x1p-10; off > most*1.0001 {
			t.Errorf("%g is packed as %g with the largest %g", v, m.At(0, k), largest)
		}
		if float32(math.Abs(float64(v))) == largest && off > float64(largest)*1e-6 {
			t.Errorf("the largest, %g, is packed as %g", v, m.At(0, k))
		}
	}
}

// TestPackCodes packs weights that are e4m3 already, with scales for blocks, rows and all: in
// float32 and in e4m3 they are codes times scales, in other formats what becomes of that.
func TestPackCodes(t *testing.T) {
	r := rand.New(rand.NewPCG(77, 78))
	const n, k = 150, 300
	for name, s := range map[string]*Scales{
		"blocks": {Outputs: 128, Inputs: 128, Stride: 3, Values: make([]float32, 6)},
		"rows":   {Outputs: 1, Inputs: k, Stride: 1, Values: make([]float32, n)},
		"all":    {Outputs: n, Inputs: k, Stride: 1, Values: make([]float32, 1)},
		"odd":    {Outputs: 16, Inputs: 48, Stride: 7, Values: make([]float32, 70)},
	} {
		for i := range s.Values {
			s.Values[i] = r.Float32() / 1000
		}
		src := Source{Data: make([]byte, n*k), Type: tensor.F8E4M3, OutputStride: k, InputStride: 1,
			Scales: s}
		for i := range src.Data {
			src.Data[i] = byte(r.IntN(0x7f) | r.IntN(2)<<7)
		}
		for f := WeightsF32; f <= lastFormat; f++ {
			samePackedCodes(t, fmt.Sprintf("%s, %v", name, f), src, n, k, f)
		}
	}
}

func samePackedCodes(t *testing.T, name string, s Source, n, k int, f Format) {
	t.Helper()
	got, err := NewMatrix(n, k, f)
	if err != nil {
		t.Fatal(err)
	}
	want, err := NewMatrix(n, k, f)
	if err != nil {
		t.Fatal(err)
	}
	var p Packer
	for from := 0; from < n; from += 80 { // neither blocks of 64 outputs nor of 128
		if err := p.Pack(got, from, min(80, n-from), s.from(from)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	row := make([]float32, k)
	for i := range n {
		for j := range row {
			scale := s.Scales.Values[i/s.Scales.Outputs*s.Scales.Stride+j/s.Scales.Inputs]
			row[j] = tensor.E4M3ToFloat32(s.Data[i*k+j]) * scale
		}
		if err := want.SetRow(i, row); err != nil {
			t.Fatal(err)
		}
		for j, v := range row {
			if f == WeightsFP8 && s.Scales.groups(k) { // kept as it is
				if math.Float32bits(got.At(i, j)) != math.Float32bits(v) {
					t.Fatalf("%s: weight %d, %d is %g, want %g", name, i, j, got.At(i, j), v)
				}
			} else if math.Float32bits(got.At(i, j)) != math.Float32bits(want.At(i, j)) {
				t.Fatalf("%s: weight %d, %d is %g, want %g", name, i, j, got.At(i, j), want.At(i, j))
			}
		}
	}
}

func TestPackCodesRefuses(t *testing.T) {
	const n, k = 20, 70
	for name, tc := range map[string]struct {
		change func(s *Source)
		says   string
	}{
		"NaN":            {func(s *Source) { s.Data[17*k+33] = 0xff }, "output 17: input 33"},
		"no scales":      {func(s *Source) { s.Scales = nil }, "no scales"},
		"few scales":     {func(s *Source) { s.Scales.Values = s.Scales.Values[:19] }, "too few"},
		"columns":        {func(s *Source) { s.InputStride, s.OutputStride = n, 1 }, "neighbours"},
		"infinite scale": {func(s *Source) { s.Scales.Values[3] = float32(math.Inf(1)) }, "output 3"},
		"negative scale": {func(s *Source) { s.Scales.Values[3] = -1 }, "output 3"},
		"large scale":    {func(s *Source) { s.Scales.Values[3] = 129 }, "at most 128"},
	} {
		m, err := NewMatrix(n, k, WeightsFP8)
		if err != nil {
			t.Fatal(err)
		}
		s := Source{Data: make([]byte, n*k), Type: tensor.F8E4M3, OutputStride: k, InputStride: 1,
			Scales: &Scales{Outputs: 1, Inputs: 128, Stride: 1, Values: make([]float32, n)}}
		tc.change(&s)
		var p Packer
		if err := p.Pack(m, 0, n, s); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestFP8Refuses(t *testing.T) {
	m, err := NewMatrix(1, 100, WeightsFP8)
	if err != nil {
		t.Fatal(err)
	}
	row := make([]float32, 100)
	for _, v := range []float32{448 * 128, -448 * 128, 0x1p-149} {
		row[70] = v
		if err := m.SetRow(0, row); err != nil {
			t.Errorf("a weight of %g: %v", v, err)
		}
	}
	for _, v := range []float32{448 * 129, float32(math.Inf(-1)), float32(math.NaN())} {
		row[70] = v
		if err := m.SetRow(0, row); err == nil || !strings.Contains(err.Error(), "inputs 64 on") {
			t.Errorf("a weight of %g: error %v", v, err)
		}
	}
}
