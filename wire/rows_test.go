package wire

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

func TestRowsRoundTrip(t *testing.T) {
	for n := range 19 {
		want := make([]float32, n)
		for i := range want {
			want[i] = float32(i)*1.5 - 4
		}
		for _, dtype := range []DType{BF16, Float32} {
			encoded := make([]byte, n*dtype.Size())
			PutRows(encoded, want, dtype)
			got := make([]float32, n)
			TakeRows(got, encoded, dtype)
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("%v, %d elements: [%d] = %v, want %v", dtype, n, i, got[i], want[i])
				}
			}
		}
	}
}

// TestRoundBF16 checks the corners of rounding to nearest even.
func TestRoundBF16(t *testing.T) {
	for name, tc := range map[string]struct {
		in   uint32
		want uint16
	}{
		"one":                 {0x3f800000, 0x3f80},
		"tie to even, down":   {0x3f808000, 0x3f80},
		"tie to even, up":     {0x3f818000, 0x3f82},
		"above the tie":       {0x3f808001, 0x3f81},
		"carry into exponent": {0x3fffffff, 0x4000},
		"negative zero":       {0x80000000, 0x8000},
		"overflow":            {0x7f7fffff, 0x7f80},
		"infinity":            {0xff800000, 0xff80},
		"quiet NaN":           {0x7fc00000, 0x7fc0},
		"signalling NaN":      {0x7f810000, 0x7f81},
		"NaN in the low bits": {0x7f800001, 0x7fc0},
		"subnormal":           {0x00008001, 0x0001},
	} {
		if got := roundBF16(math.Float32frombits(tc.in)); got != tc.want {
			t.Errorf("%s: roundBF16(%#x) = %#x, want %#x", name, tc.in, got, tc.want)
		}
	}
}

// TestFastLoopsEqualPlainOnes compares with one element at a time, rounded or not.
func TestFastLoopsEqualPlainOnes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 40 {
		rows := make([]float32, n)
		for i := range rows {
			bits := rng.Uint32()
			if n%2 == 0 {
				bits &^= 0xffff
			}
			rows[i] = math.Float32frombits(bits)
		}
		fast, plain := make([]byte, 2*n), make([]byte, 2*n)
		PutRows(fast, rows, BF16)
		for i, v := range rows {
			binary.LittleEndian.PutUint16(plain[2*i:], roundBF16(v))
		}
		if !bytes.Equal(fast, plain) {
			t.Fatalf("%d elements: put %x, want %x", n, fast, plain)
		}
		TakeRows(rows, fast, BF16)
		for i, v := range rows {
			want := binary.LittleEndian.Uint16(plain[2*i:])
			if math.Float32bits(v) != uint32(want)<<16 {
				t.Fatalf("%d elements: took %#x, want %#x", n, math.Float32bits(v), want)
			}
		}
	}
}

func TestBF16LosesNothingTwice(t *testing.T) {
	src, out := make([]byte, 2<<16), make([]byte, 2<<16)
	for v := range 1 << 16 {
		binary.LittleEndian.PutUint16(src[2*v:], uint16(v))
	}
	rows := make([]float32, 1<<16)
	TakeRows(rows, src, BF16)
	PutRows(out, rows, BF16)
	for v := range 1 << 16 {
		got := binary.LittleEndian.Uint16(out[2*v:])
		if want := uint16(v); got != want {
			t.Errorf("bf16 %#x came back as %#x", want, got)
		}
	}
}

func TestRowsOfWrongSizePanic(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic for a destination that is too small")
		}
	}()
	PutRows(make([]byte, 3), make([]float32, 2), BF16)
}

func BenchmarkRows(b *testing.B) {
	rows := make([]float32, 256*5120)
	for i := range rows {
		rows[i] = float32(i % 256) // as rounded rows are, exact in bf16
	}
	for _, dtype := range []DType{BF16, Float32} {
		bytes := make([]byte, len(rows)*dtype.Size())
		b.Run("put/"+dtype.String(), func(b *testing.B) {
			b.SetBytes(int64(len(bytes)))
			b.ReportAllocs()
			for b.Loop() {
				PutRows(bytes, rows, dtype)
			}
		})
		b.Run("take/"+dtype.String(), func(b *testing.B) {
			b.SetBytes(int64(len(bytes)))
			b.ReportAllocs()
			for b.Loop() {
				TakeRows(rows, bytes, dtype)
			}
		})
	}
}
