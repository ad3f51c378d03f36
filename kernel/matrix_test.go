package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"drover/tensor"
)

// TestMatrixSameBytes compares Mul with the plain Go version and a row alone with the
// same row in a batch, bit by bit, with each instruction set, on shapes that use every
// tile and every edge, and on extreme numbers.
func TestMatrixSameBytes(t *testing.T) {
	shapes := [][3]int{{1, 1, 1}, {0, 16, 16}, {1, 64, 2}, {2, 80, 33}, {3, 17, 5}, {4, 16, 1},
		{5, 130, 64}, {9, 63, 31}, {13, 128, 128}, {15, 144, 10}, {23, 97, 8}, {7, 64, 3},
		// More rows than are copied at a time, and inputs in several slices.
		{70, 83, 259}, {8, 130, 513}, {6, 66, 2051}, {3, 70, 4101}}
	withLevels(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		for d := WeightsF32; d <= lastFormat; d++ {
			for _, s := range shapes {
				for _, few := range []int{0, 4, 100} {
					name := fmt.Sprintf("%s %v", d, s)
					m := extremeMatrix(t, r, s[1], s[2], d, few)
					x := tensor.Rows{Data: extremeRow(r, s[0]*s[2], few), N: s[0], Dim: s[2]}
					sameBytes(t, name, m, x)
				}
			}
		}
	})
}

func extremeMatrix(t *testing.T, r *rand.Rand, n, k int, d Format, few int) *Matrix {
	m, err := NewMatrix(n, k, d)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		row := extremeRow(r, k, few)
		if d.scaled() { // scales are finite
			for j, v := range row {
				if v != v || v > 1e4 || v < -1e4 {
					row[j] = float32(j)
				}
			}
		}
		if err := m.SetRow(i, row); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func sameBytes(t *testing.T, name string, m *Matrix, x tensor.Rows) {
	t.Helper()
	got, want := tensor.MakeRows(x.N, m.N), tensor.MakeRows(x.N, m.N)
	m.Mul(got, x)
	var a Activations
	a.Prepare(x, m.format)
	a.Quantise(0, x.N)
	m.mulGeneric(want, &a, 0, m.N)
	compare(t, name, got.Data, want.Data)
	alone := tensor.MakeRows(1, m.N)
	for i := range x.N {
		m.Mul(alone, x.Slice(i, i+1))
		compare(t, fmt.Sprintf("%s: row %d alone", name, i), alone.Data, want.Row(i))
	}
}

// TestMatrixRandomShapes tries shapes of which nobody thought.
func TestMatrixRandomShapes(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(27, 28))
		for range 60 {
			rows, n, k := r.IntN(20), 1+r.IntN(150), 1+r.IntN(40)
			d := WeightsF32 + Format(r.IntN(int(lastFormat)))
			m := extremeMatrix(t, r, n, k, d, 50)
			x := tensor.Rows{Data: extremeRow(r, rows*k, 50), N: rows, Dim: k}
			sameBytes(t, fmt.Sprintf("%s: %d rows, %d × %d", d, rows, n, k), m, x)
		}
	})
}
