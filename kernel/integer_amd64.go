package kernel

import "drover/tensor"

//go:generate go run ../scripts/kernelgen

// integerTile multiplies all rows of a panel with neighbouring blocks of outputs in one
// call of assembly. It sets y[r][0:outputs] for each row r: ldy is the distance of the
// rows of y in elements, w the first block, stride the distance of the blocks in bytes,
// x the panel, where a span begins, and groups, not 0, the number of its groups. Tiles of one
// of several panels add to y if add is not 0, and fetch weights for later calls: 16 times in a
// group, of each block by turns, from next in the first block on, with the distance step; in
// each group they fetch that of x which lies so many bytes ahead. Others ignore these four.
type integerTile struct {
	rows, blocks int
	mul          integerMul
}

type integerMul func(y *float32, ldy, outputs int, w *byte, stride int, x *int32,
	groups, add int, next *byte, step, ahead int)

// integerTiles are the tiles of an instruction set.
type integerTiles struct {
	alone   []integerTile // of the only panel, by rows from one on
	several []integerTile // of one of several panels, by rows from fewest on, or nil: alone
}

// fewest is the least number of rows of one of several panels that have tiles of their own:
// 13 rows or more, of 4 bits 9 or more, are cut into panels of 6 at most.
const fewest = 4

// tilesOf returns the tiles of an instruction set; there are none for plain Go.
func tilesOf(l instructions, f Format) integerTiles {
	switch {
	case l < avx2:
		return integerTiles{}
	case l < avx512VNNI && f == WeightsInt8:
		return integerTiles{alone: tilesInt8AVX2}
	case l < avx512VNNI:
		return integerTiles{alone: tilesInt4AVX2}
	case f == WeightsInt8:
		return integerTiles{tilesInt8VNNI, severalInt8VNNI}
	}
	return integerTiles{tilesInt4VNNI, severalInt4VNNI}
}

// panelRows is the largest number of rows of a panel, if it is alone or one of several.
func panelRows(l instructions, f Format) (alone, several int) {
	t := tilesOf(l, f)
	alone = max(len(t.alone), 1)
	if t.several == nil {
		return alone, alone
	}
	return alone, fewest + len(t.several) - 1
}

// wideCodes reports whether codes of activations for weights of 8 bits are wide.
func wideCodes(l instructions) bool { return l == avx2 || l == avx512 }

// mulInteger is mulVector for formats of integers. A few blocks of weights, which the
// second cache holds, are used for all panels before the next, so that they are read from
// memory once; a panel that is alone uses all of them in one go.
func (m *Matrix) mulInteger(y tensor.Rows, a *Activations, lo, hi int) bool {
	t := tilesOf(a.level, m.format)
	if t.alone == nil {
		return false
	}
	if a.panels > 1 && t.several != nil {
		s := severalPanels{m: m, y: y, a: a, tiles: t, lo: lo, hi: hi}
		s.mul()
		return true
	}
	part := PartOutputs
	if a.panels == 1 {
		part = hi - lo
	}
	for n0 := lo; n0 < hi && y.N > 0; n0 += part {
		for p := range a.panels {
			m.mulPanel(y, a, p, n0, min(n0+part, hi))
		}
	}
	return true
}

// mulPanel sets outputs n0 to hi of the rows of a panel. Blocks that are too few for a
// tile are multiplied one by one, by tiles that find each of their blocks in the same
// place.
func (m *Matrix) mulPanel(y tensor.Rows, a *Activations, panel, n0, hi int) {
	first, rows := a.panel(panel)
	t := tilesOf(a.level, m.format).alone[rows-1]
	c := integerCall{x: a.packed[first*a.groups*a.rowWords():], groups: a.groups}
	for width := t.blocks * blockRows; n0 < hi; n0 += width {
		c.stride = m.blockBytes
		if hi-n0 <= (t.blocks-1)*blockRows {
			width, c.stride = blockRows, 0
		}
		c.outputs, c.w = min(width, hi-n0), m.block(n0)
		c.next = c.w
		m.mulIntegerTile(y.Data[first*y.Dim+n0:], &c, t)
	}
}

// integerCall is most of the arguments of a tile.
type integerCall struct {
	outputs, stride          int
	w                        []byte
	x                        []int32
	groups, add, step, ahead int
	next                     []byte
}

// mulIntegerTile is mulTile for formats of integers.
//
//go:noinline
func (m *Matrix) mulIntegerTile(y []float32, c *integerCall, t integerTile) {
	t.mul(&y[0], m.N, c.outputs, &c.w[0], c.stride, &c.x[0], c.groups, c.add, &c.next[0], c.step,
		c.ahead)
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
		whole := len(part) / groupInputs
		if len(part)%groupInputs > 0 { // so is the last span
			whole -= whole % spanGroups
		}
		if whole > 0 {
			a.quantisePart(a.place(row, g), &part[0], whole)
		}
		if rest := part[whole*groupInputs:]; len(rest) > 0 {
			var padded [spanGroups * groupInputs]float32
			copy(padded[:], rest)
			a.quantisePart(a.place(row, g+whole), &padded[0], min(a.groups-g, most)-whole)
		}
	}
	return true
}

// quantisePart is one call of assembly: see mulTile. It sets the codes, scales and
// offsets of so many groups from a place on, where a span begins.
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
