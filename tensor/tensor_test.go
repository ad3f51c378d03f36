package tensor

import (
	"math"
	"testing"
)

func TestDTypeNames(t *testing.T) {
	for d := Unknown + 1; int(d) < len(dtypes); d++ {
		got, ok := ParseDType(d.String())
		if !ok || got != d || d.Size() == 0 {
			t.Errorf("ParseDType(%q) = %v, %v; size %d", d.String(), got, ok, d.Size())
		}
	}
	for _, s := range []string{"", "Unknown", "bf16", "F99", "F8_E4M3 "} {
		if d, ok := ParseDType(s); ok || d != Unknown {
			t.Errorf("ParseDType(%q) = %v, %v, want none", s, d, ok)
		}
	}
	if d := DType(200); d.Size() != 0 || d.String() != "DType(200)" {
		t.Errorf("DType(200) is %q of size %d", d, d.Size())
	}
}

func TestRows(t *testing.T) {
	r := MakeRows(3, 2)
	for i := range r.Data {
		r.Data[i] = float32(i)
	}
	row := r.Row(1)
	if len(row) != 2 || row[0] != 2 || row[1] != 3 {
		t.Fatalf("Row(1) = %v, want [2 3]", row)
	}
	_ = append(row, 99)
	if r.Data[4] != 4 {
		t.Errorf("appending to Row(1) overwrote row 2: %v", r.Data)
	}
	s := r.Slice(1, 3)
	if s.N != 2 || s.Dim != 2 || s.Row(1)[0] != 4 {
		t.Errorf("Slice(1, 3) = %+v", s)
	}
	if s := r.Slice(3, 3); s.N != 0 || len(s.Data) != 0 {
		t.Errorf("Slice(3, 3) = %+v, want no rows", s)
	}
}

func TestMakeRowsPanics(t *testing.T) {
	for _, tc := range [][2]int{{-1, 1}, {1, -1}, {math.MaxInt, 2}, {1 << 40, 1 << 40}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("MakeRows(%d, %d) did not panic", tc[0], tc[1])
				}
			}()
			MakeRows(tc[0], tc[1])
		}()
	}
}

// Every bfloat16 survives the way to float32 and back; a NaN becomes quiet.
func TestBF16RoundTrip(t *testing.T) {
	for u := range 1 << 16 {
		b := uint16(u)
		f := BF16ToFloat32(b)
		want := b
		if f != f {
			want |= 0x40
		}
		if got := Float32ToBF16(f); got != want {
			t.Fatalf("%#04x -> %v -> %#04x, want %#04x", b, f, got, want)
		}
	}
}

func TestFloat32ToBF16(t *testing.T) {
	for name, tc := range map[string]struct {
		bits uint32
		want uint16
	}{
		"exact":              {0x3f800000, 0x3f80},
		"below half":         {0x3f807fff, 0x3f80},
		"half to even, down": {0x3f808000, 0x3f80},
		"half to even, up":   {0x3f818000, 0x3f82},
		"above half":         {0x3f808001, 0x3f81},
		"negative half":      {0xbf818000, 0xbf82},
		"carry to exponent":  {0x3fffffff, 0x4000},
		"largest":            {0x7f7fffff, 0x7f80},
		"infinity":           {0xff800000, 0xff80},
		"NaN in low bits":    {0x7f800001, 0x7fc0},
		"negative NaN":       {0xffffffff, 0xffff},
		"subnormal":          {0x00018000, 0x0002},
		"negative zero":      {0x80000000, 0x8000},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Float32ToBF16(math.Float32frombits(tc.bits)); got != tc.want {
				t.Errorf("%#08x -> %#04x, want %#04x", tc.bits, got, tc.want)
			}
		})
	}
}

// Every half is compared with its definition, computed in float64.
func TestF16ToFloat32(t *testing.T) {
	for u := range 1 << 16 {
		h := uint16(u)
		exponent, mantissa := int(h>>10&0x1f), float64(h&0x3ff)
		want := math.Ldexp(1+mantissa/1024, exponent-15)
		switch {
		case exponent == 0:
			want = math.Ldexp(mantissa/1024, -14)
		case exponent == 31 && mantissa == 0:
			want = math.Inf(1)
		case exponent == 31:
			want = math.NaN()
		}
		want = math.Copysign(want, 1-2*float64(h>>15))
		got := F16ToFloat32(h)
		same := float64(got) == want || got != got && want != want
		if !same || math.Signbit(float64(got)) != math.Signbit(want) {
			t.Fatalf("%#04x -> %v, want %v", h, got, want)
		}
	}
}

// Every e4m3 is compared with its definition, computed in float64, and survives the way to
// float32 and back.
func TestE4M3RoundTrip(t *testing.T) {
	for u := range 1 << 8 {
		b := byte(u)
		exponent, mantissa := int(b>>3&15), float64(b&7)
		want := math.Ldexp(1+mantissa/8, exponent-7)
		switch {
		case exponent == 0:
			want = math.Ldexp(mantissa/8, -6)
		case b&0x7f == 0x7f:
			want = math.NaN()
		}
		want = math.Copysign(want, 1-2*float64(b>>7))
		got := E4M3ToFloat32(b)
		same := float64(got) == want || got != got && want != want
		if !same || math.Signbit(float64(got)) != math.Signbit(want) {
			t.Fatalf("%#02x -> %v, want %v", b, got, want)
		}
		if back := Float32ToE4M3(got); back != b {
			t.Errorf("%#02x -> %v -> %#02x", b, got, back)
		}
	}
}

// Float32ToE4M3 changes exactly halfway between two neighbours, where it goes to the even one.
func TestFloat32ToE4M3(t *testing.T) {
	for b := range byte(0x7e) {
		tie := (E4M3ToFloat32(b) + E4M3ToFloat32(b+1)) / 2 // exact
		even := b + b&1
		for _, tc := range []struct {
			f    float32
			want byte
		}{{tie, even}, {math.Nextafter32(tie, 0), b}, {math.Nextafter32(tie, 1000), b + 1}} {
			if got := Float32ToE4M3(tc.f); got != tc.want {
				t.Errorf("%g -> %#02x, want %#02x", tc.f, got, tc.want)
			}
			if got := Float32ToE4M3(-tc.f); got != tc.want|0x80 {
				t.Errorf("%g -> %#02x, want %#02x", -tc.f, got, tc.want|0x80)
			}
		}
	}
	inf := float32(math.Inf(1))
	for _, f := range []float32{448, 449, 464, 480, 1e9, math.MaxFloat32, inf} {
		if p, n := Float32ToE4M3(f), Float32ToE4M3(-f); p != 0x7e || n != 0xfe {
			t.Errorf("%g -> %#02x, %g -> %#02x", f, p, -f, n)
		}
	}
}
