package kernel

import (
	"math"

	"drover/tensor"
)

// integerMul multiplies all rows of a panel with neighbouring blocks of outputs in one
// call of assembly. It adds to y[r][0:16*blocks] for each row r: ldy is the distance of
// the rows of y in elements, w the first block, stride the distance of the blocks in
// bytes, x the panel and groups, not 0, the number of its groups from the first of a span on.
type integerMul func(y *float32, ldy int, w *byte, stride int, x *int32, groups, blocks int)

// The products of an instruction set and format, by rows from one on.
var (
	int8Dot  = []integerMul{mulInt8r1DOT, mulInt8r2DOT, mulInt8r3DOT, mulInt8r4DOT}
	int4Dot  = []integerMul{mulInt4r1DOT, mulInt4r2DOT, mulInt4r3DOT, mulInt4r4DOT}
	int8NEON = []integerMul{mulInt8r1NEON, mulInt8r2NEON}
	int4NEON = []integerMul{mulInt4r1NEON, mulInt4r2NEON}
)

//go:noescape
func mulInt8r1DOT(y *float32, ldy int, w *byte, stride int, x *int32, groups, blocks int)

//go:noescape
func mulInt8r2DOT(y *float32, ldy int, w *byte, stride int, x *int32, groups, blocks int)

//go:noescape
func mulInt8r3DOT(y *float32, ldy int, w *byte, stride int, x *int32, groups, blocks int)

//go:noescape
func mulInt8r4DOT(y *float32, ldy int, w *byte, stride int, x *int32, groups, blocks int)

//go:noescape
func mulInt8r1NEON(y *float32, ldy int, w *byte, stride int, x *int32, groups, blocks int)

//go:noescape
func mulInt8r2NEON(y *float32, ldy int, w *byte, stride int, x *int32, groups, blocks int)

//go:noescape
func mulInt4r1DOT(y *float32, ldy int, w *byte, stride int, x *int32, groups, blocks int)

//go:noescape
func mulInt4r2DOT(y *float32, ldy int, w *byte, stride int, x *int32, groups, blocks int)

//go:noescape
func mulInt4r3DOT(y *float32, ldy int, w *byte, stride int, x *int32, groups, blocks int)

//go:noescape
func mulInt4r4DOT(y *float32, ldy int, w *byte, stride int, x *int32, groups, blocks int)

//go:noescape
func mulInt4r1NEON(y *float32, ldy int, w *byte, stride int, x *int32, groups, blocks int)

//go:noescape
func mulInt4r2NEON(y *float32, ldy int, w *byte, stride int, x *int32, groups, blocks int)

// absMaxNEON is absMax of groupInputs elements.
//
//go:noescape
func absMaxNEON(x *float32) float32

// codesNEON sets the codes of groupInputs elements, all finite and of magnitudes that
// give no more than 127 when multiplied by inverse, and returns the sum of the first
// half's codes and that of the other half's.
//
//go:noescape
func codesNEON(codes *int32, x *float32, inverse float32) (low, high int32)

// integerMuls returns the products of an instruction set; there are none for plain Go.
func integerMuls(l instructions, f Format) []integerMul {
	switch {
	case l < neon:
		return nil
	case l < neonDot && f == WeightsInt8:
		return int8NEON
	case l < neonDot:
		return int4NEON
	case f == WeightsInt8:
		return int8Dot
	}
	return int4Dot
}

// panelRows is the largest number of rows of a panel, if it is alone or one of several.
func panelRows(l instructions, f Format) (alone, several int) {
	most := max(len(integerMuls(l, f)), 1)
	return most, most
}

// wideCodes reports whether codes of activations for weights of 8 bits are wide.
func wideCodes(instructions) bool { return false }

// sliceGroups is the number of groups that are multiplied at a time, as sliceInputs is
// of inputs: whole spans.
const sliceGroups = sliceInputs / groupInputs / spanGroups * spanGroups

// mulInteger is mulVector for formats of integers. Some outputs' weights are used for all
// panels before the next, so that they are read from memory once.
func (m *Matrix) mulInteger(y tensor.Rows, a *Activations, lo, hi int) bool {
	if integerMuls(a.level, m.format) == nil {
		return false
	}
	for i := range y.N {
		clear(y.Row(i)[lo:hi])
	}
	for n0 := lo; n0 < hi; n0 += PartOutputs {
		for g := 0; g < a.groups; g += sliceGroups {
			for p := range a.panels {
				m.mulPanel(y, a, [2]int{p, g}, n0, min(n0+PartOutputs, hi))
			}
		}
	}
	return true
}

// mulPanel adds a slice of a panel, which the slice's first group names, to outputs n0 to
// hi. A block of which some outputs do not exist is multiplied by itself.
func (m *Matrix) mulPanel(y tensor.Rows, a *Activations, from [2]int, n0, hi int) {
	first, rows := a.panel(from[0])
	whole := n0 + (hi-n0)/blockRows*blockRows
	if whole > n0 {
		m.mulIntegerTile(y.Data[first*y.Dim+n0:], y.Dim, a, from, n0, (whole-n0)/blockRows)
	}
	if whole == hi {
		return
	}
	sums := edges.Get().(*edgeSums)
	for r := range rows {
		copy(sums[r*blockRows:][:hi-whole], y.Row(first + r)[whole:])
	}
	m.mulIntegerTile(sums[:], blockRows, a, from, whole, 1)
	for r := range rows {
		copy(y.Row(first + r)[whole:], sums[r*blockRows:][:hi-whole])
	}
	edges.Put(sums)
}

// mulIntegerTile is slice.tile for formats of integers.
//
//go:noinline
func (m *Matrix) mulIntegerTile(y []float32, ldy int, a *Activations, from [2]int,
	n0, blocks int) {
	p, g := from[0], from[1]
	first, rows := a.panel(p)
	x := a.packed[(first*a.groups+rows*g)*a.rowWords():]
	w := m.block(n0)[g*m.format.blockBytes(groupInputs):]
	integerMuls(a.level, m.format)[rows-1](&y[0], ldy, &w[0], m.blockBytes, &x[0],
		min(sliceGroups, a.groups-g), blocks)
}

// quantiseVector is quantiseRow by vector instructions; false means that there are none.
func (a *Activations) quantiseVector(row int) bool {
	if a.level < neon {
		return false
	}
	x, at := a.x.Row(row), a.place(row, 0)
	unit := at.rows * a.rowWords()
	for g := 0; g < a.groups; g += spanGroups {
		part := x[g*groupInputs : min((g+spanGroups)*groupInputs, len(x))]
		if len(part) == spanInputs {
			a.quantiseNEON(at, (*[spanInputs]float32)(part), spanGroups)
		} else {
			var padded [spanInputs]float32
			copy(padded[:], part)
			a.quantiseNEON(at, &padded, a.groups-g)
		}
		at.codes += spanGroups * unit
		at.scale += spanGroups * unit
	}
	return true
}

const spanInputs = spanGroups * groupInputs

// quantiseNEON sets the codes, scales and offsets of a span of so many groups from a place on.
//
//go:noinline
func (a *Activations) quantiseNEON(at place, x *[spanInputs]float32, groups int) {
	largest := float32(0)
	for g := range groups {
		largest = max(largest, absMaxNEON(&x[g*groupInputs])) // NaN, if one of them is
	}
	scale, zeros := largest/127, true
	switch {
	case !(largest <= math.MaxFloat32):
		scale = float32(math.NaN())
	case largest < smallestGroup:
		scale = 0
	default:
		zeros = false
	}
	inverse, unit := 127/largest, at.rows*a.rowWords()
	for g := range groups {
		low, high := int32(0), int32(0)
		if codes := a.packed[at.codes : at.codes+a.codeWords()]; zeros {
			clear(codes)
		} else {
			low, high = codesNEON(&codes[0], &x[g*groupInputs], inverse)
		}
		a.packed[at.scale] = int32(math.Float32bits(scale))
		if a.format == WeightsInt8 {
			a.packed[at.scale+at.rows] = -128 * (low + high)
		} else {
			a.packed[at.scale+at.rows], a.packed[at.scale+2*at.rows] = -8*low, -8*high
		}
		at.codes += unit
		at.scale += unit
	}
}
