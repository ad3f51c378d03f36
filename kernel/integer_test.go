package kernel

import (
	"fmt"
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
			for rows := 1; rows <= 2*panelRows(level)+1; rows++ {
				n, k := 129+r.IntN(64), 65+r.IntN(200)
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
