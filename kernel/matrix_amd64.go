package kernel

import "drover/tensor"

// mulBF16x64AVX2 sets y[0:64] to four neighbouring blocks times one row: w is the
// first block, stride the bytes of a block, x the row, pairs the number of whole
// pairs of inputs.
//
//go:noescape
func mulBF16x64AVX2(y *float32, w *byte, stride uintptr, x *float32, pairs int)

// mulBF16x16r4AVX2 sets y[r][0:16] for four rows to one block times the rows: ldx
// and ldy are the distances of the rows of x and y in elements.
//
//go:noescape
func mulBF16x16r4AVX2(y *float32, ldy int, w *byte, x *float32, ldx int, pairs int)

// mulBF16x16AVX2 sets y[0:16] to one block times one row.
//
//go:noescape
func mulBF16x16AVX2(y *float32, w *byte, x *float32, pairs int)

// mulAVX2 is Mul for bfloat16 weights. Outputs and inputs beyond whole blocks and
// pairs go through small copies on the stack. Assembly cannot be preempted in the
// middle, so each call is short (four blocks, or four rows) and is made by a Go
// function that is not inlined: its prologue is the preemption point.
func (m *Matrix) mulAVX2(y, x tensor.Rows) {
	pairs := m.K / 2
	stride := len(m.w) / ((m.N + blockRows - 1) / blockRows)
	i := 0
	for ; i+tileRows <= x.N; i += tileRows {
		for n0 := 0; n0 < m.N; n0 += blockRows {
			m.tile4(y, x, i, n0, stride, pairs)
		}
	}
	for ; i < x.N; i++ {
		m.row1(y.Row(i), x.Row(i), stride, pairs)
	}
}

//go:noinline
func (m *Matrix) tile4(y, x tensor.Rows, i, n0, stride, pairs int) {
	w := &m.w[n0/blockRows*stride]
	if n0+blockRows <= m.N && m.K%2 == 0 {
		mulBF16x16r4AVX2(&y.Data[i*y.Dim+n0], y.Dim, w, &x.Data[i*x.Dim], x.Dim, pairs)
		return
	}
	for r := i; r < i+tileRows; r++ {
		m.edge(y.Row(r)[n0:], x.Row(r), n0, stride, pairs)
	}
}

func (m *Matrix) row1(y, x []float32, stride, pairs int) {
	n0 := 0
	if m.K%2 == 0 {
		for ; n0+4*blockRows <= m.N; n0 += 4 * blockRows {
			m.tile64(y[n0:], x, n0, stride, pairs)
		}
	}
	for ; n0 < m.N; n0 += blockRows {
		m.edge(y[n0:], x, n0, stride, pairs)
	}
}

//go:noinline
func (m *Matrix) tile64(y, x []float32, n0, stride, pairs int) {
	w := &m.w[n0/blockRows*stride]
	mulBF16x64AVX2(&y[0], w, uintptr(stride), &x[0], pairs)
}

// edge computes one block of one row where outputs or inputs are not whole.
//
//go:noinline
func (m *Matrix) edge(y, x []float32, n0, stride, pairs int) {
	var acc [blockRows]float32
	at := n0 / blockRows * stride
	if pairs > 0 {
		mulBF16x16AVX2(&acc[0], &m.w[at], &x[0], pairs)
	}
	if m.K%2 == 1 {
		line := m.w[at+pairs*64:]
		for r := range acc {
			h := uint16(line[r*4]) | uint16(line[r*4+1])<<8
			acc[r] = fma32(tensor.BF16ToFloat32(h), x[m.K-1], acc[r])
		}
	}
	copy(y[:min(blockRows, m.N-n0)], acc[:])
}
