package kernel

import (
	"sync"

	"drover/tensor"
)

// tile is a product of some rows and neighbouring blocks of outputs in one call of
// assembly. It adds to y[r][0:16*blocks] for each row r: ldy and ldx are the distances
// of the rows of y and x in elements, w is the first block and stride the bytes of a
// block, steps, not 0, the lines to multiply, or for e4m3 the groups of lines.
type tile struct {
	rows, blocks int
	mul          func(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)
}

// The tiles of a weight type, most rows first. The last has one row, so that any number
// of rows can be made of them. Edges are for what is left of PartOutputs at the end.
var (
	tilesBF16 = []tile{{4, 1, mulBF16r4b1NEON}, {2, 2, mulBF16r2b2NEON}, {1, 4, mulBF16r1b4NEON}}
	edgesBF16 = []tile{{4, 1, mulBF16r4b1NEON}, {1, 1, mulBF16r1b1NEON}}
	tilesF32  = []tile{{4, 1, mulF32r4b1NEON}, {2, 2, mulF32r2b2NEON}, {1, 4, mulF32r1b4NEON}}
	edgesF32  = []tile{{4, 1, mulF32r4b1NEON}, {1, 1, mulF32r1b1NEON}}
	tilesFP8  = []tile{{4, 1, mulFP8r4b1NEON}, {2, 2, mulFP8r2b2NEON}, {1, 4, mulFP8r1b4NEON}}
	edgesFP8  = []tile{{4, 1, mulFP8r4b1NEON}, {1, 1, mulFP8r1b1NEON}}
)

//go:noescape
func mulBF16r4b1NEON(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulBF16r2b2NEON(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulBF16r1b4NEON(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulBF16r1b1NEON(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulF32r4b1NEON(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulF32r2b2NEON(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulF32r1b4NEON(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulF32r1b1NEON(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulFP8r4b1NEON(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulFP8r2b2NEON(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulFP8r1b4NEON(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

//go:noescape
func mulFP8r1b1NEON(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int)

// sliceInputs is the number of inputs that are multiplied at a time: it bounds the time
// of a call, and a block's weights stay in the cache for all rows.
const sliceInputs = 2048

// edgeSums are the outputs of a tile of which some do not exist.
type edgeSums [4 * blockRows]float32

var edges = sync.Pool{New: func() any { return new(edgeSums) }}

// slice is a part of a product: some inputs of all rows.
type slice struct {
	m           *Matrix
	y, x        tensor.Rows
	k0          int // the first input
	line, steps int // the lines of weights
}

// mulVector is MulPart by vector instructions; false means that there are none.
func (m *Matrix) mulVector(y tensor.Rows, a *Activations, lo, hi int) bool {
	if m.format.Integer() {
		return m.mulInteger(y, a, lo, hi)
	}
	if level < neon {
		return false
	}
	for i := range y.N {
		clear(y.Row(i)[lo:hi])
	}
	s := slice{m: m, y: y, x: a.x}
	for ; s.k0 < m.K; s.k0 += sliceInputs {
		s.line, s.steps = s.k0, min(sliceInputs, m.K-s.k0)
		switch m.format {
		case WeightsBF16:
			s.line, s.steps = s.line/2, s.steps/2
		case WeightsFP8:
			s.line, s.steps = s.line/groupInputs*fp8Lines, s.steps/groupInputs
		}
		for n0 := lo; n0 < hi && s.steps > 0; n0 += PartOutputs {
			s.part(n0, min(n0+PartOutputs, hi))
		}
	}
	if m.format == WeightsBF16 && m.K%2 == 1 {
		m.odd(y, a.x, lo, hi)
	}
	m.restFP8(y, a.x, lo, hi)
	return true
}

// part adds the slice's part of PartOutputs outputs, or fewer at the end.
func (s *slice) part(n0, hi int) {
	whole, single := tilesF32, edgesF32
	switch s.m.format {
	case WeightsBF16:
		whole, single = tilesBF16, edgesBF16
	case WeightsFP8:
		whole, single = tilesFP8, edgesFP8
	}
	if hi-n0 == PartOutputs {
		s.outputs(n0, hi, whole)
		return
	}
	for ; n0 < hi; n0 += blockRows {
		s.outputs(n0, min(n0+blockRows, hi), single)
	}
}

// outputs adds the slice's part of outputs by tiles. A block is used for all rows that a
// kind of tile takes before the next, so that it is read from memory once.
func (s *slice) outputs(n0, hi int, tiles []tile) {
	i := 0
	for _, t := range tiles {
		to := s.y.N - (s.y.N-i)%t.rows
		for n := n0; n < hi; n += t.blocks * blockRows {
			for r := i; r < to; r += t.rows {
				s.mul(r, n, min(hi-n, t.blocks*blockRows), t)
			}
		}
		i = to
	}
}

// mul adds a tile, of which only so many outputs may exist.
func (s *slice) mul(row, n, outputs int, t tile) {
	if outputs == t.blocks*blockRows {
		s.tile(s.y.Data[row*s.y.Dim+n:], s.y.Dim, row, n, t)
		return
	}
	sums := edges.Get().(*edgeSums)
	for r := range t.rows {
		copy(sums[r*blockRows:][:outputs], s.y.Row(row + r)[n:])
	}
	s.tile(sums[:], blockRows, row, n, t)
	for r := range t.rows {
		copy(s.y.Row(row + r)[n:], sums[r*blockRows:][:outputs])
	}
	edges.Put(sums)
}

// tile is one call of assembly, which cannot be preempted in the middle: it is
// short, and made by a function that is not inlined, whose prologue is the preemption
// point.
//
//go:noinline
func (s *slice) tile(y []float32, ldy, row, n int, t tile) {
	w := s.m.block(n)[s.line*lineBytes:]
	t.mul(&y[0], ldy, &w[0], s.m.blockBytes, &s.x.Row(row)[s.k0], s.x.Dim, s.steps)
}

// odd adds the last input, whose weights are half a line.
func (m *Matrix) odd(y, x tensor.Rows, lo, hi int) {
	for i := range y.N {
		for n0 := lo; n0 < hi; n0 += blockRows {
			var sums [blockRows]float32
			out := y.Row(i)[n0:min(n0+blockRows, hi)]
			copy(sums[:], out)
			accumulateBF16(&sums, m.block(n0)[m.K/2*lineBytes:], x.Row(i)[m.K-1:])
			copy(out, sums[:])
		}
	}
}
