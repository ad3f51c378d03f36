package kernel

import (
	"sync"

	"drover/tensor"
)

// tile is a product of some rows and neighbouring blocks of outputs in one call of
// assembly. It adds to y[r][0:16*blocks] for each row r: ldy and ldx are the distances
// of the rows of y and x in elements, w is the first block and stride the bytes of a
// block, steps, not 0, the lines to multiply, or for e4m3 the groups of lines. Some tiles fetch
// as many lines from next, where blocks lie as they do at w, into the cache.
type tile struct {
	rows, blocks int
	mul          mulFunc
}

type mulFunc func(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

// The tiles of an instruction set and weight type, most rows first. The last has one
// row, so that any number of rows can be made of them. Edges are for what is left of
// PartOutputs at the end.
var (
	tilesBF16AVX512 = []tile{
		{8, 2, mulBF16r8b2AVX512}, {4, 4, mulBF16r4b4AVX512}, {3, 4, mulBF16r3b4AVX512},
		{2, 4, mulBF16r2b4AVX512},
		{1, 4, mulBF16r1b4AVX512},
	}
	tilesBF16AVX2 = []tile{
		{6, 1, mulBF16r6b1AVX2}, {4, 4, mulBF16r4b4AVX2}, {2, 2, mulBF16r2b2AVX2},
		{1, 4, mulBF16r1b4AVX2},
	}
	edgesBF16AVX2 = []tile{
		{6, 1, mulBF16r6b1AVX2}, {4, 1, mulBF16r4b1AVX2}, {1, 1, mulBF16r1b1AVX2},
	}
	tilesF32AVX512 = []tile{
		{8, 2, mulF32r8b2AVX512}, {4, 4, mulF32r4b4AVX512}, {3, 4, mulF32r3b4AVX512},
		{2, 4, mulF32r2b4AVX512}, {1, 4, mulF32r1b4AVX512},
	}
	tilesF32AVX2 = []tile{{4, 4, mulF32r4b4AVX2}, {1, 4, mulF32r1b4AVX2}}
	edgesF32AVX2 = []tile{{4, 1, mulF32r4b1AVX2}, {1, 1, mulF32r1b1AVX2}}
)

//go:noescape
func mulBF16r8b2AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulBF16r4b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulBF16r3b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulBF16r2b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulBF16r1b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulBF16r6b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulBF16r4b4AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulBF16r4b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulBF16r1b4AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulBF16r2b2AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulBF16r1b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulF32r8b2AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulF32r4b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulF32r3b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulF32r2b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulF32r1b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulF32r4b4AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulF32r4b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulF32r1b4AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulF32r1b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

// oddBF16AVX2 adds one input x, whose weights are the low halves of the line at w and
// of those stride bytes apart, to y[0:16*blocks]; blocks is not 0.
//
//go:noescape
func oddBF16AVX2(y *float32, w *byte, stride int, x float32, blocks int)

// tiles returns m's tiles for four blocks of outputs and for fewer, nil where only
// plain Go can multiply.
func (m *Matrix) tiles() (whole, edges []tile) {
	switch {
	case level < avx2:
		return nil, nil
	case m.format == WeightsF32 && level < avx512:
		return tilesF32AVX2, edgesF32AVX2
	case m.format == WeightsF32:
		return tilesF32AVX512, edgesF32AVX2
	case m.format == WeightsFP8 && level < avx512:
		return tilesFP8AVX2, edgesFP8AVX2
	case m.format == WeightsFP8:
		return tilesFP8AVX512, edgesFP8AVX2
	case level < avx512:
		return tilesBF16AVX2, edgesBF16AVX2
	}
	return tilesBF16AVX512, edgesBF16AVX2
}

// Products of more than a few rows are made of slices of the inputs. The slices of
// some rows are copied side by side first: rows whose distance is a multiple of 4 KiB
// would push each other out of the cache, which has few places for such addresses.
// With many rows a slice of theirs and of the weights stays in the nearest cache; with
// fewer, reading the weights takes longer than the rest, and reads are long.
const (
	fewRows  = 2
	copyRows = 64
	// copySize is the number of elements in a copy.
	copySize = 1 << 14
	// callBytes is the most that a call of assembly reads of the weights.
	callBytes = 640 << 10
)

// rowCopy is a copy of slices of rows.
type rowCopy struct {
	// x has a line more for each row than the slice has inputs.
	x [copySize + copyRows*lineBytes/4]float32
	y [copyRows * blockRows]float32 // sums of a block that is not whole
}

// sliceInputs is the number of inputs in the slices of a product, which is even, and whole
// groups for weights that have scales.
func (m *Matrix) sliceInputs(rows int) int {
	k := m.K
	most := callBytes / (PartOutputs * 4)
	unit := 2
	switch m.format {
	case WeightsBF16:
		most *= 2
	case WeightsFP8:
		most, unit = 3*most, groupInputs
	}
	switch {
	case rows > 7 && m.format == WeightsFP8: // as long as the copy
		most = copySize / rows &^ (groupInputs - 1)
	case rows > 7:
		most = copySize / copyRows
	case rows > 4:
		most = copySize / 8
	case rows > fewRows:
		most = min(most, copySize/4)
	}
	slices := (k + most - 1) / most
	return ((k+slices-1)/slices + unit - 1) &^ (unit - 1)
}

var copies = sync.Pool{New: func() any { return new(rowCopy) }}

// fill copies inputs k0 to k1 of rows.
func (p *rowCopy) fill(x tensor.Rows, k0, k1 int) tensor.Rows {
	stride := k1 - k0 + lineBytes/4
	for i := range x.N {
		copy(p.x[i*stride:], x.Row(i)[k0:k1])
	}
	return tensor.Rows{Data: p.x[:], N: x.N, Dim: stride}
}

// slice is a part of a product: some inputs of some rows, and some outputs.
type slice struct {
	m            *Matrix
	y            tensor.Rows
	x            tensor.Rows // from input k0 on
	k0, k1       int
	lo, hi       int
	whole, edges []tile
	p            *rowCopy
}

// mulVector is MulPart by vector instructions; false means that there are none.
func (m *Matrix) mulVector(y tensor.Rows, a *Activations, lo, hi int) bool {
	if m.format.Integer() {
		return m.mulInteger(y, a, lo, hi)
	}
	whole, edges := m.tiles()
	if whole == nil {
		return false
	}
	for i := range y.N {
		clear(y.Row(i)[lo:hi])
	}
	p := copies.Get().(*rowCopy)
	s := slice{m: m, lo: lo, hi: hi, whole: whole, edges: edges, p: p}
	if y.N <= fewRows {
		s.y = y
		for s.lo = lo; s.lo < hi; s.lo += PartOutputs { // the weights are read in order
			s.hi = min(s.lo+PartOutputs, hi)
			s.product(a.x)
		}
	} else {
		for i := 0; i < y.N; i += copyRows {
			x := a.x.Slice(i, min(i+copyRows, y.N))
			s.y = y.Slice(i, i+x.N)
			s.product(x)
		}
	}
	copies.Put(p)
	m.restFP8(y, a.x, lo, hi)
	return true
}

// product adds all slices of rows x.
func (s *slice) product(x tensor.Rows) {
	m, inputs := s.m, s.m.sliceInputs(s.y.N)
	for k := 0; k < m.K; k += inputs {
		s.k0, s.k1 = k, min(k+inputs, m.K)
		if x.N > fewRows {
			s.x = s.p.fill(x, s.k0, s.k1)
		} else {
			s.x = tensor.Rows{Data: x.Data[k:], N: x.N, Dim: x.Dim}
		}
		s.mul()
	}
	if m.format == WeightsBF16 && m.K%2 == 1 {
		s.odd(x)
	}
}

// steps is the number of whole steps of the slice's weights, line the first line of them.
func (s *slice) steps() (line, steps int) {
	switch s.m.format {
	case WeightsBF16:
		return s.k0 / 2, (s.k1 - s.k0) / 2
	case WeightsFP8:
		return s.k0 / groupInputs * fp8Lines, (s.k1 - s.k0) / groupInputs
	}
	return s.k0, s.k1 - s.k0
}

// mul adds the slice's part. A block's weights are used for all rows before the next,
// so that they are read from memory once.
func (s *slice) mul() {
	line, steps := s.steps()
	if steps == 0 {
		return
	}
	n0 := s.lo
	for ; n0+PartOutputs <= s.hi; n0 += PartOutputs {
		i := 0
		for _, t := range s.whole {
			to := s.y.N - (s.y.N-i)%t.rows
			for n := n0; n < n0+PartOutputs && i < to; n += t.blocks * blockRows {
				for r := i; r < to; r += t.rows {
					s.tile(r, n, line, steps, t)
				}
			}
			i = to
		}
	}
	for ; n0 < s.hi; n0 += blockRows {
		i := 0
		for _, t := range s.edges {
			for ; i+t.rows <= s.y.N; i += t.rows {
				s.edge(i, n0, line, steps, t)
			}
		}
	}
}

// tile is one call of assembly, which cannot be preempted in the middle: it is
// short, and made by a function that is not inlined, whose prologue is the preemption
// point.
//
//go:noinline
func (s *slice) tile(row, n0, line, steps int, t tile) {
	m := s.m
	at := n0/blockRows*m.blockBytes + line*lineBytes
	next := at + t.blocks*m.blockBytes
	if n0+t.blocks*blockRows >= s.hi { // the next slice begins with the first block
		lines := steps
		if m.format == WeightsFP8 {
			lines *= fp8Lines
		}
		next = s.lo/blockRows*m.blockBytes + (line+lines)*lineBytes
	}
	t.mul(&s.y.Data[row*s.y.Dim+n0], s.y.Dim, &m.w[at], m.blockBytes, &s.x.Data[row*s.x.Dim],
		s.x.Dim, steps, &m.w[min(next, len(m.w)-1)])
}

// edge is tile for one block of outputs, of which some may not exist.
//
//go:noinline
func (s *slice) edge(row, n0, line, steps int, t tile) {
	if n0+blockRows <= s.m.N {
		s.tile(row, n0, line, steps, t)
		return
	}
	m, at := s.m, n0/blockRows*s.m.blockBytes+line*lineBytes
	for i := range t.rows {
		copy(s.p.y[i*blockRows:(i+1)*blockRows], s.y.Row(row + i)[n0:])
	}
	t.mul(&s.p.y[0], blockRows, &m.w[at], m.blockBytes, &s.x.Data[row*s.x.Dim], s.x.Dim, steps,
		&m.w[at])
	for i := range t.rows {
		copy(s.y.Row(row + i)[n0:], s.p.y[i*blockRows:(i+1)*blockRows])
	}
}

// odd adds the last input, whose weights are half a line, of rows x.
func (s *slice) odd(x tensor.Rows) {
	m := s.m
	last := m.K / 2 * lineBytes
	whole := s.hi - s.hi%blockRows
	for i := range x.N {
		v := x.Row(i)[m.K-1]
		if s.lo < whole {
			oddBF16AVX2(&s.y.Row(i)[s.lo], &m.block(s.lo)[last], m.blockBytes, v,
				(whole-s.lo)/blockRows)
		}
		if whole < s.hi {
			part := s.y.Row(i)[whole:s.hi]
			sums := s.p.y[:blockRows]
			copy(sums, part)
			oddBF16AVX2(&sums[0], &m.block(whole)[last], m.blockBytes, v, 1)
			copy(part, sums)
		}
	}
}
