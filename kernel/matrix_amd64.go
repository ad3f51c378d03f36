package kernel

import "drover/tensor"

// tile is a product of some rows and neighbouring blocks of outputs in one call of
// assembly. It sets y[r][0:16*blocks] for each row r: ldy and ldx are the distances of
// the rows of y and x in elements, w is the first block and stride the bytes of a
// block, steps, not 0, the lines of a block.
type tile struct {
	rows, blocks int
	mul          func(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)
}

// The tiles of an instruction set and weight type, most rows first. The last has one
// row, so that any number of rows can be made of them.
var (
	tilesBF16AVX512 = []tile{
		{8, 2, mulBF16r8b2AVX512}, {4, 2, mulBF16r4b2AVX512}, {2, 4, mulBF16r2b4AVX512},
		{1, 4, mulBF16r1b4AVX512},
	}
	tilesBF16AVX2 = []tile{
		{6, 1, mulBF16r6b1AVX2}, {4, 1, mulBF16r4b1AVX2}, {1, 4, mulBF16r1b4AVX2},
	}
	tilesF32AVX2 = []tile{{4, 1, mulF32r4b1AVX2}, {1, 4, mulF32r1b4AVX2}}
)

//go:noescape
func mulBF16r8b2AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulBF16r4b2AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulBF16r2b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulBF16r1b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulBF16r6b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulBF16r4b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulBF16r1b4AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulF32r4b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulF32r1b4AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

// mulBF16r1b1AVX2 sets y[0:16] to one block times one row; steps is not 0.
//
//go:noescape
func mulBF16r1b1AVX2(y *float32, w *byte, x *float32, steps int)

// mulF32r1b1AVX2 is mulBF16r1b1AVX2 for weights of float32.
//
//go:noescape
func mulF32r1b1AVX2(y *float32, w *byte, x *float32, steps int)

// tiles returns m's tiles, nil where only plain Go can multiply.
func (m *Matrix) tiles() []tile {
	switch {
	case level < avx2:
		return nil
	case m.format == WeightsF32:
		return tilesF32AVX2
	case level < avx512:
		return tilesBF16AVX2
	}
	return tilesBF16AVX512
}

// mulVector is MulPart by vector instructions; false means that there are none.
func (m *Matrix) mulVector(y tensor.Rows, a *Activations, lo, hi int) bool {
	if m.format.Integer() {
		return m.mulInteger(y, a, lo, hi)
	}
	tiles := m.tiles()
	from := 0
	for _, t := range tiles {
		to := y.N - (y.N-from)%t.rows
		m.mulTiles(y.Slice(from, to), a.x.Slice(from, to), lo, hi, t)
		from = to
	}
	return tiles != nil
}

// mulTiles multiplies whole tiles of rows for outputs n0 to hi, without hi. A block of
// weights is used for all rows before the next, so that it is read from memory once.
func (m *Matrix) mulTiles(y, x tensor.Rows, n0, hi int, t tile) {
	steps, rest := m.K, 0
	if m.format == WeightsBF16 {
		steps, rest = m.K/2, m.K%2
	}
	width := t.blocks * blockRows
	if rest == 0 {
		for ; n0+width <= hi; n0 += width {
			for i := 0; i < x.N; i += t.rows {
				m.mulTile(y.Data[i*y.Dim+n0:], x.Data[i*x.Dim:], n0, steps, t)
			}
		}
	}
	for ; n0 < hi; n0 += blockRows {
		for i := range x.N {
			m.edge(y.Row(i)[n0:], x.Row(i), n0)
		}
	}
}

// mulTile is one call of assembly, which cannot be preempted in the middle: it is
// short, and made by a function that is not inlined, whose prologue is the preemption
// point.
//
//go:noinline
func (m *Matrix) mulTile(y, x []float32, n0, steps int, t tile) {
	t.mul(&y[0], m.N, &m.block(n0)[0], m.blockBytes, &x[0], m.K, steps)
}

// edge computes one block of one row where outputs or inputs are not whole.
//
//go:noinline
func (m *Matrix) edge(y, x []float32, n0 int) {
	var acc [blockRows]float32
	w, pairs := m.block(n0), m.K/2
	switch {
	case m.format == WeightsF32:
		mulF32r1b1AVX2(&acc[0], &w[0], &x[0], m.K)
	case pairs > 0:
		mulBF16r1b1AVX2(&acc[0], &w[0], &x[0], pairs)
	}
	if m.format == WeightsBF16 && m.K%2 == 1 {
		line := w[pairs*64:]
		for r := range acc {
			h := uint16(line[r*4]) | uint16(line[r*4+1])<<8
			acc[r] = fma32(tensor.BF16ToFloat32(h), x[m.K-1], acc[r])
		}
	}
	copy(y[:min(blockRows, m.N-n0)], acc[:])
}
