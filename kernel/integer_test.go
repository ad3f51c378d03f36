package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"drover/tensor"
)

// TestIntegerTiles compares products with the plain Go version for every number of
// rows that a panel can have, several panels among them, and blocks that do not fill a
// tile, with codes as large as they get.
func TestIntegerTiles(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		if level == plainGo {
			t.Skip("plain Go is what the others are compared with")
		}
		r := rand.New(rand.NewPCG(31, 32))
		for f := WeightsInt8; f <= WeightsInt4; f++ {
			alone, several := panelRows(level, f)
			for rows := 1; rows <= max(2*several, alone)+several; rows++ {
				n, k := 65+r.IntN(64), 65+r.IntN(600)
				name := fmt.Sprintf("%v: %d rows, %d × %d", f, rows, n, k)
				m, x := extremeMatrix(t, r, n, k, f, 100), extremeRow(r, rows*k, 500)
				sameIntegers(t, name, m, tensor.Rows{Data: x, N: rows, Dim: k})
				for same := range 2 {
					largestCodes(r, m, same)
					for i := range x {
						x[i] = float32(r.IntN(2-same)*2 - 1)
					}
					sameIntegers(t, name+", largest codes", m, tensor.Rows{Data: x, N: rows, Dim: k})
				}
			}
		}
	})
}

// TestIntegerSlices compares a product that is large enough to be cut into slices of inputs
// and chunks of outputs, and one of more rows than are multiplied together.
func TestIntegerSlices(t *testing.T) {
	r := rand.New(rand.NewPCG(37, 38))
	for f := WeightsInt8; f <= WeightsInt4; f++ {
		for _, s := range [][3]int{{13, 545, 14100}, {14, 33, 9000}, {64, 40, 5200}, {140, 49, 130}} {
			rows, n, k := s[0], s[1], s[2]
			x := tensor.Rows{Data: extremeRow(r, rows*k, 100_000), N: rows, Dim: k}
			sameIntegers(t, fmt.Sprint(f, s), extremeMatrix(t, r, n, k, f, 100_000), x)
		}
	}
}

// TestIntegerSpans compares products of rows whose magnitudes differ from group to group, with
// spans that are not whole, of zeros, and with a number that is none.
func TestIntegerSpans(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(39, 40))
		for f := WeightsInt8; f <= WeightsInt4; f++ {
			for _, k := range []int{1, 63, 64, 65, 129, 192, 255, 256, 257, 320, 500, 1000, 5120} {
				for _, rows := range []int{1, 2, 3 + r.IntN(4), 7 + r.IntN(6), 13 + r.IntN(7)} {
					x := randomRows(r, rows, k)
					for i := range rows {
						differentGroups(r, x.Row(i))
					}
					m := randomMatrix(t, r, 1+r.IntN(70), k, f)
					sameIntegers(t, fmt.Sprintf("%v: %d rows, %d × %d", f, rows, m.N, k), m, x)
				}
			}
		}
	})
}

// differentGroups gives each group of a row a magnitude of its own, or zeros, and few an
// extreme number.
func differentGroups(r *rand.Rand, x []float32) {
	for ; len(x) > 0; x = x[min(groupInputs, len(x)):] {
		by := float32(math.Ldexp(1, r.IntN(60)-30))
		if r.IntN(4) == 0 {
			by = 0
		}
		for i := range min(groupInputs, len(x)) {
			x[i] *= by
		}
		if r.IntN(60) == 0 {
			x[r.IntN(min(groupInputs, len(x)))] = extremes[r.IntN(len(extremes))]
		}
	}
}

// largestCodes sets all codes of weights to the largest or the smallest, or all to the
// largest.
func largestCodes(r *rand.Rand, m *Matrix, same int) {
	for at := 0; at < len(m.w); at++ {
		switch {
		case m.format == WeightsInt8 && at%int8Bytes < int8Scales:
			m.w[at] = [...]byte{255, 1}[r.IntN(2-same)]
		case m.format == WeightsInt4 && at%int4Bytes < int4Scales:
			m.w[at] = [...]byte{255, 0, 15, 240}[r.IntN(4-3*same)]
		}
	}
}

// sameIntegers compares MulPart, in parts, with the plain Go version.
func sameIntegers(t *testing.T, name string, m *Matrix, x tensor.Rows) {
	t.Helper()
	got, want := tensor.MakeRows(x.N, m.N), tensor.MakeRows(x.N, m.N)
	var a Activations
	a.Prepare(x, m.format)
	a.Quantise(0, x.N/2)
	a.Quantise(x.N/2, x.N)
	for lo := 0; lo < m.N; lo += PartOutputs {
		m.MulPart(got, &a, lo, min(lo+PartOutputs, m.N))
	}
	m.mulGeneric(want, &a, 0, m.N)
	compare(t, name, got.Data, want.Data)
	m.MulPart(got, &a, 0, m.N)
	compare(t, name+", whole", got.Data, want.Data)
}

// FuzzIntegerShapes looks for shapes and numbers with which a set of instructions gives
// other bytes than plain Go.
func FuzzIntegerShapes(f *testing.F) {
	f.Add(uint64(1), uint8(1), uint16(64), uint16(64), true)
	f.Add(uint64(2), uint8(13), uint16(81), uint16(65), false)
	f.Add(uint64(3), uint8(24), uint16(31), uint16(600), true)
	f.Fuzz(func(t *testing.T, seed uint64, rows uint8, n, k uint16, four bool) {
		best := level
		defer func() { level = best }()
		format := WeightsInt8
		if four {
			format = WeightsInt4
		}
		r := rand.New(rand.NewPCG(seed, 0))
		m := extremeMatrix(t, r, 1+int(n)%200, 1+int(k)%700, format, r.IntN(200))
		x := tensor.MakeRows(int(rows)%40, m.K)
		copy(x.Data, extremeRow(r, len(x.Data), r.IntN(1000)))
		for level = plainGo + 1; level <= best; level++ {
			sameIntegers(t, fmt.Sprintf("%s: %d rows, %d × %d", instructionNames[level], x.N, m.N, m.K), m, x)
		}
	})
}

// TestQuantiseSameBytes compares Quantise with the plain Go version on every kind of
// number, groups that are not whole, and values at the bounds of a group's cases.
func TestQuantiseSameBytes(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(33, 34))
		for range 400 {
			rows, k := 1+r.IntN(15), 1+r.IntN(1500) // up to five times four groups
			x := tensor.Rows{Data: extremeRow(r, rows*k, []int{0, 3, 1000, 5000}[r.IntN(4)]), N: rows, Dim: k}
			if r.IntN(3) == 0 {
				near := []float32{smallestGroup, 127, 63.5, 0.5, math.MaxFloat32, 1e-38, 0}
				near = near[:1+r.IntN(len(near))]
				for i := range x.Data {
					x.Data[i] = near[r.IntN(len(near))] * float32(1-2*r.IntN(2))
				}
			}
			for f := WeightsInt8; f <= WeightsInt4; f++ {
				var got, want Activations
				got.Prepare(x, f)
				want.Prepare(x, f)
				for i := range rows {
					want.quantiseRow(i)
				}
				got.Quantise(0, rows)
				for i, w := range want.packed {
					if got.packed[i] != w {
						t.Fatalf("%v: %d × %d: word %d is %#x, plain Go gives %#x", f, rows, k, i,
							uint32(got.packed[i]), uint32(w))
					}
				}
			}
		}
	})
}

// TestQuantiseTinyGroups checks the value below which a group counts as zeros.
func TestQuantiseTinyGroups(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		for _, c := range []struct {
			v     float32
			code  int8
			scale float32
		}{
			{smallestGroup, 127, smallestGroup / 127},
			{-smallestGroup, -127, smallestGroup / 127},
			{math.Nextafter32(smallestGroup, 0), 0, 0},
			{math.MaxFloat32, 127, math.MaxFloat32 / 127},
		} {
			var a Activations
			a.Prepare(tensor.Rows{Data: []float32{0, c.v}, N: 1, Dim: 2}, WeightsInt8)
			a.Quantise(0, 1)
			at := a.place(0, 0)
			if codes := a.codes(at); codes[1] != c.code || a.scale(at) != c.scale {
				t.Errorf("%g: code %d, scale %g, want %d, %g", c.v, codes[1], a.scale(at), c.code, c.scale)
			}
		}
	})
}

func TestIntegersDoNotAllocate(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(37, 38))
		for f := WeightsInt8; f <= WeightsInt4; f++ {
			m, x, y := randomMatrix(t, r, 81, 70, f), randomRows(r, 14, 70), tensor.MakeRows(14, 81)
			var a Activations
			n := leastAllocations(10, func() {
				a.Prepare(x, f)
				a.Quantise(0, x.N)
				m.MulPart(y, &a, 0, m.N)
			})
			if n != 0 {
				t.Errorf("%v: a product makes %g allocations", f, n)
			}
		}
	})
}
