package kernel

import "drover/tensor"

//go:generate go run ../scripts/kernelgen

// integerTile multiplies all rows of a panel with neighbouring blocks of outputs in one
// call of assembly. It sets y[r][0:outputs] for each row r: ldy is the distance of the
// rows of y in elements, w the first block, stride the distance of the blocks in bytes,
// x the panel and groups, not 0, the number of its groups.
type integerTile struct {
	blocks int
	mul    func(y *float32, ldy, outputs int, w *byte, stride int, x *int32, groups int)
}

// integerTiles returns the tiles of an instruction set, by rows from one on; there are
// none for plain Go.
func integerTiles(l instructions, f Format) []integerTile {
	switch {
	case l < avx2:
		return nil
	case l < avx512VNNI && f == WeightsInt8:
		return tilesInt8AVX2
	case l < avx512VNNI:
		return tilesInt4AVX2
	case f == WeightsInt8:
		return tilesInt8VNNI
	}
	return tilesInt4VNNI
}

// panelRows is the largest number of rows of a panel.
func panelRows(l instructions) int {
	return max(len(integerTiles(l, WeightsInt8)), 1)
}

// wideCodes reports whether codes of activations for weights of 8 bits are wide.
func wideCodes(l instructions) bool { return l == avx2 || l == avx512 }

// mulInteger is mulVector for formats of integers. A few blocks of weights, which the
// second cache holds, are used for all panels before the next, so that they are read from
// memory once, and panels, of which there may be more than it holds, not for every block.
func (m *Matrix) mulInteger(y tensor.Rows, a *Activations, lo, hi int) bool {
	if integerTiles(a.level, m.format) == nil {
		return false
	}
	for n0 := lo; n0 < hi && y.N > 0; n0 += PartOutputs {
		for p := range a.panels {
			m.mulPanel(y, a, p, n0, min(n0+PartOutputs, hi))
		}
	}
	return true
}

// mulPanel sets outputs n0 to hi of the rows of a panel. Blocks that are too few for a
// tile are multiplied one by one, by tiles that find each of their blocks in the same
// place.
func (m *Matrix) mulPanel(y tensor.Rows, a *Activations, panel, n0, hi int) {
	first, rows := a.panel(panel)
	t := integerTiles(a.level, m.format)[rows-1]
	x := a.packed[first*a.groups*a.rowWords():]
	for width := t.blocks * blockRows; n0 < hi; n0 += width {
		stride := m.blockBytes
		if blocks := (hi - n0 + blockRows - 1) / blockRows; blocks < t.blocks {
			width, stride = blockRows, 0
		}
		m.mulIntegerTile(y.Data[first*y.Dim+n0:], x, n0, min(width, hi-n0), stride, t)
	}
}

// mulIntegerTile is mulTile for formats of integers.
//
//go:noinline
func (m *Matrix) mulIntegerTile(y []float32, x []int32, n0, outputs, stride int, t integerTile) {
	groups := (m.K + groupInputs - 1) / groupInputs
	t.mul(&y[0], m.N, outputs, &m.block(n0)[0], stride, &x[0], groups)
}

// quantiseVector is quantiseRow by vector instructions; false means that there are none.
func (a *Activations) quantiseVector(row int) bool {
	if a.level < avx2 {
		return false
	}
	x := a.x.Row(row)
	const most = maxPart / groupInputs
	for g := 0; g < a.groups; g += most {
		part := x[g*groupInputs : min((g+most)*groupInputs, len(x))]
		if whole := len(part) / groupInputs; whole > 0 {
			a.quantisePart(a.place(row, g), &part[0], whole)
		}
		if rest := len(part) % groupInputs; rest > 0 {
			var padded [groupInputs]float32
			copy(padded[:], part[len(part)-rest:])
			a.quantisePart(a.place(row, g+len(part)/groupInputs), &padded[0], 1)
		}
	}
	return true
}

// quantisePart is one call of assembly: see mulTile. It sets the codes, scales and
// offsets of so many groups from a place on.
//
//go:noinline
func (a *Activations) quantisePart(at place, x *float32, groups int) {
	codes, scale, unit := &a.packed[at.codes], &a.packed[at.scale], at.rows*a.rowWords()
	switch {
	case a.wide:
		quantiseInt8AVX2(codes, scale, x, groups, unit, at.rows)
	case a.level < avx512VNNI:
		quantiseInt4AVX2(codes, scale, x, groups, unit, at.rows)
	case a.format == WeightsInt8:
		quantiseInt8AVX512(codes, scale, x, groups, unit, at.rows)
	default:
		quantiseInt4AVX512(codes, scale, x, groups, unit, at.rows)
	}
}
