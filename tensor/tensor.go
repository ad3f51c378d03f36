// Package tensor names element types and shapes and holds rows of float32. It
// knows how numbers are laid out in memory, and does no arithmetic on them.
package tensor

import "fmt"

// Rows is a dense row-major float32 matrix: N rows of Dim columns.
type Rows struct {
	// Data holds the rows, one after the other, (N, Dim).
	Data []float32
	// N is the number of rows, Dim the number of columns.
	N, Dim int
}

// MakeRows returns n rows of dim zeros. It panics if a number is negative or if
// the product is out of range: whoever takes them from outside checks them first.
func MakeRows(n, dim int) Rows {
	if n < 0 || dim < 0 {
		panic(fmt.Sprintf("tensor: MakeRows(%d, %d)", n, dim))
	}
	if dim > 0 && n > maxElements/dim {
		panic(fmt.Sprintf("tensor: MakeRows(%d, %d) is out of range", n, dim))
	}
	return Rows{Data: make([]float32, n*dim), N: n, Dim: dim}
}

const maxElements = int(^uint(0)>>1) / 4

// Row returns row i, which shares memory with r. Appending to it cannot reach
// the next row.
func (r Rows) Row(i int) []float32 {
	return r.Data[i*r.Dim : (i+1)*r.Dim : (i+1)*r.Dim]
}

// Slice returns rows lo to hi, without hi, which share memory with r.
func (r Rows) Slice(lo, hi int) Rows {
	return Rows{Data: r.Data[lo*r.Dim : hi*r.Dim : hi*r.Dim], N: hi - lo, Dim: r.Dim}
}
