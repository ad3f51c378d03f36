package kernel

import (
	"math"
	"unsafe"

	"drover/tensor"
)

// Activations are rows prepared for products: as they are for weights of floats,
// quantised for weights of integers. One Activations serves one product at a time,
// or several products of one format with the same rows.
//
// Quantised rows have int8 codes -127..127 with a float32 scale for each span of 256 inputs,
// which is four groups of 64; a row's last span has what is left. The scale is max|x| / 127 of
// the span, a code x times (127 / max|x|), rounded to even. Where one of a span's inputs is a NaN
// or an infinity, its scale is NaN and its codes are zero; where its largest magnitude is below
// 2^-100, its scale and codes are zero. So an output begins with y = +0 and, for each span in
// ascending order, a sum t = +0. To t comes each group of the span, in ascending order: with
// weights of 8 bits
//
//	t = fma(float32(dot), weight scale, t)
//
// with weights of 4 bits, whose scales are for 32 inputs,
//
//	t = fma(float32(dot of the first 32), weight scale of these, t)
//	t = fma(float32(dot of the others), weight scale of these, t)
//
// and after the span's last group
//
//	y = fma(t, row scale, y)
//
// A dot is an exact sum of products of codes.
type Activations struct {
	x      tensor.Rows // (rows, K)
	format Format
	level  instructions // when it was prepared: it decides the size of panels

	groups int // of 64 inputs
	// packed holds the quantised rows in panels of neighbouring rows, whose numbers of
	// rows differ by one at most, and a panel has its groups one after the other: a
	// product of all its rows reads memory in order. A group of a panel is
	//
	//	codes    [rows][64] int8, or int16, see wide
	//	scales   [rows] float32, the four groups of a span have the same
	//	offsets  [1 or 2][rows] int32
	//
	// An offset is what a dot product with weights' codes as they are stored, +128 or
	// +8, begins with: -128 or -8 times the sum of the codes of 64 or 32 inputs.
	packed []int32
	panels int
	// wide codes are int16 in the order 0, 2, 1, 3 of four inputs: where nothing
	// multiplies 8 bits by 8 bits exactly, pairs of 16 bits are multiplied.
	wide bool
}

// spanGroups is the number of groups that share a row's scale: a span of 256 inputs.
const spanGroups = 4

// smallestGroup is the magnitude below which numbers that share a scale count as zeros.
const smallestGroup = 0x1p-100

// Prepare makes a hold the rows x for products with weights of a format. Integer
// formats need a call of Quantise for every row.
func (a *Activations) Prepare(x tensor.Rows, f Format) {
	a.x, a.format, a.level = x, f, level
	if !f.Integer() {
		return
	}
	a.groups = (x.Dim + groupInputs - 1) / groupInputs
	a.panels = 1
	if alone, several := panelRows(a.level, f); x.N > alone {
		a.panels = (x.N + several - 1) / several
	}
	a.wide = f == WeightsInt8 && wideCodes(a.level)
	a.packed = grow(a.packed, x.N*a.groups*a.rowWords())
}

// codeWords is the number of int32 that the codes of a row's group fill.
func (a *Activations) codeWords() int {
	if a.wide {
		return groupInputs / 2
	}
	return groupInputs / 4
}

// mostRowWords is the most that rowWords can be: with wide codes.
const mostRowWords = groupInputs/2 + 2

// rowWords is the number of int32 for a group of one row.
func (a *Activations) rowWords() int { return a.codeWords() + 1 + a.halves() }

// panel returns the first row of a panel and the number of its rows.
func (a *Activations) panel(p int) (first, rows int) {
	rows, longer := a.x.N/a.panels, a.x.N%a.panels
	if p < longer {
		return p * (rows + 1), rows + 1
	}
	return p*rows + longer, rows
}

// panelOf returns the panel of a row.
func (a *Activations) panelOf(row int) int {
	rows, longer := a.x.N/a.panels, a.x.N%a.panels
	if row < longer*(rows+1) {
		return row / (rows + 1)
	}
	return (row - longer) / rows
}

// place is where a row's group lies in Activations.packed: the first of its codes, its
// scale, and the number of the panel's rows. Its offsets follow the scale by rows, and
// its next group by rows times rowWords.
type place struct{ codes, scale, rows int }

func (a *Activations) place(row, g int) place {
	first, rows := a.panel(a.panelOf(row))
	at := first*a.groups*a.rowWords() + g*rows*a.rowWords()
	return place{at + (row-first)*a.codeWords(), at + rows*a.codeWords() + row - first, rows}
}

// codes returns a group's codes.
func (a *Activations) codes(p place) (codes [groupInputs]int8) {
	words := a.packed[p.codes : p.codes+a.codeWords()]
	if !a.wide {
		return *(*[groupInputs]int8)(unsafe.Pointer(&words[0]))
	}
	for k, c := range (*[groupInputs]int16)(unsafe.Pointer(&words[0])) {
		codes[wideInput(k)] = int8(c)
	}
	return codes
}

func (a *Activations) setCodes(p place, codes *[groupInputs]int8) {
	words := a.packed[p.codes : p.codes+a.codeWords()]
	if !a.wide {
		*(*[groupInputs]int8)(unsafe.Pointer(&words[0])) = *codes
		return
	}
	wide := (*[groupInputs]int16)(unsafe.Pointer(&words[0]))
	for k := range wide {
		wide[k] = int16(codes[wideInput(k)])
	}
}

// wideInput is the input of the wide code k.
func wideInput(k int) int { return k&^3 | k&1<<1 | k>>1&1 }

func (a *Activations) scale(p place) float32 {
	return math.Float32frombits(uint32(a.packed[p.scale]))
}

func (a *Activations) offset(p place, half int) int32 {
	return a.packed[p.scale+p.rows*(1+half)]
}

// fits reports whether a is prepared for weights of a format.
func (a *Activations) fits(f Format) bool {
	return a.format == f || !a.format.Integer() && !f.Integer()
}

// halves is the number of parts of a group that have an offset of their own.
func (a *Activations) halves() int {
	if a.format == WeightsInt4 {
		return 2
	}
	return 1
}

// Quantise prepares rows lo to hi, without hi. Rows may be prepared in any order and
// by several goroutines; it does nothing for formats of floats.
func (a *Activations) Quantise(lo, hi int) {
	if !a.format.Integer() {
		return
	}
	for i := lo; i < hi; i++ {
		if !a.quantiseVector(i) {
			a.quantiseRow(i)
		}
	}
}

// quantiseRow is Quantise for one row in plain Go.
func (a *Activations) quantiseRow(row int) {
	x := a.x.Row(row)
	for g := 0; g < a.groups; g += spanGroups {
		span := x[g*groupInputs : min((g+spanGroups)*groupInputs, len(x))]
		largest := absMax(span)
		for i := range (len(span) + groupInputs - 1) / groupInputs {
			group := span[i*groupInputs : min((i+1)*groupInputs, len(span))]
			a.quantiseGroup(a.place(row, g+i), group, largest)
		}
	}
}

// quantiseGroup sets the codes, scale and offsets of a group, given the largest magnitude
// of its span.
func (a *Activations) quantiseGroup(at place, x []float32, largest float32) {
	var codes [groupInputs]int8
	scale := largest / 127
	switch {
	case !(largest <= math.MaxFloat32):
		scale = float32(math.NaN())
	case largest < smallestGroup:
		scale = 0
	default:
		inverse := 127 / largest
		for j, v := range x {
			c := math.RoundToEven(float64(float32(v * inverse)))
			codes[j] = int8(min(max(c, -127), 127))
		}
	}
	a.setCodes(at, &codes)
	a.packed[at.scale] = int32(math.Float32bits(scale))
	n, weight := a.halves(), int32(-128)
	if n == 2 {
		weight = -8
	}
	for h := range n {
		sum := int32(0)
		for _, c := range codes[h*groupInputs/n : (h+1)*groupInputs/n] {
			sum += int32(c)
		}
		a.packed[at.scale+at.rows*(1+h)] = weight * sum
	}
}

// accumulateInt8 adds row i times 16 outputs to acc.
func accumulateInt8(acc *[blockRows]float32, w []byte, a *Activations, i int) {
	var t [blockRows]float32
	for g := range a.groups {
		block, at := w[g*int8Bytes:(g+1)*int8Bytes], a.place(i, g)
		codes := a.codes(at)
		for r := range acc {
			dot := a.offset(at, 0)
			for k, c := range codes {
				dot += int32(c) * int32(block[k/4*lineBytes+r*4+k%4])
			}
			t[r] = fma32(float32(dot), scaleInt8(block, r), t[r])
		}
		a.endSpan(acc, &t, g, at)
	}
}

// accumulateInt4 is accumulateInt8 for 4 bits.
func accumulateInt4(acc *[blockRows]float32, w []byte, a *Activations, i int) {
	var t [blockRows]float32
	for g := range a.groups {
		block, at := w[g*int4Bytes:(g+1)*int4Bytes], a.place(i, g)
		codes := a.codes(at)
		for r := range acc {
			dots := [2]int32{a.offset(at, 0), a.offset(at, 1)}
			for k, c := range codes {
				dots[k/32] += int32(c) * int32(nibble(block, r, k))
			}
			t[r] = fma32(float32(dots[0]), scaleInt4(block, r, 0), t[r])
			t[r] = fma32(float32(dots[1]), scaleInt4(block, r, 1), t[r])
		}
		a.endSpan(acc, &t, g, at)
	}
}

// endSpan adds the sums t of a span to acc if g is its last group.
func (a *Activations) endSpan(acc, t *[blockRows]float32, g int, at place) {
	if (g+1)%spanGroups != 0 && g+1 < a.groups {
		return
	}
	for r := range acc {
		acc[r] = fma32(t[r], a.scale(at), acc[r])
	}
	*t = [blockRows]float32{}
}

// nibble returns the stored code of input k of a superblock of 4 bits.
func nibble(block []byte, r, k int) byte {
	b := block[k/8*lineBytes+r*4+k%4]
	return b >> (k % 8 / 4 * 4) & 15
}

func scaleInt8(block []byte, r int) float32 {
	return *(*float32)(unsafe.Pointer(&block[int8Scales+r*4]))
}

func scaleInt4(block []byte, r, half int) float32 {
	at := int4Scales + half*32 + r*2
	return tensor.F16ToFloat32(uint16(block[at]) | uint16(block[at+1])<<8)
}

func atInt8(w []byte, r, k int) float32 {
	block := w[k/groupInputs*int8Bytes:]
	k %= groupInputs
	return float32(int32(block[k/4*lineBytes+r*4+k%4])-128) * scaleInt8(block, r)
}

func atInt4(w []byte, r, k int) float32 {
	block := w[k/groupInputs*int4Bytes:]
	k %= groupInputs
	return float32(int32(nibble(block, r, k))-8) * scaleInt4(block, r, k/32)
}

// absMax is the largest magnitude, or NaN if there is one.
func absMax(x []float32) float32 {
	largest := float32(0)
	for _, v := range x {
		if v = float32(math.Abs(float64(v))); !(v <= largest) {
			largest = v
		}
		if largest != largest {
			break
		}
	}
	return largest
}
