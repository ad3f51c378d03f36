package kernel

import (
	"math"

	"drover/tensor"
)

// SwiGLU sets y = silu(gate) * up, where silu(x) = x sigmoid(x). h holds gate, then
// up: (rows, 2*width); y is (rows, width).
func SwiGLU(y, h tensor.Rows) {
	for i := range y.N {
		swiGLU(y.Row(i), h.Row(i)[:y.Dim], h.Row(i)[y.Dim:])
	}
}

// RMSNorm sets y = x / sqrt(mean(x²) + eps) * weight, row by row. A nil weight
// counts as ones. y may be x.
func RMSNorm(y, x tensor.Rows, weight []float32, eps float64) {
	for i := range x.N {
		rmsNorm(y.Row(i), x.Row(i), weight, eps)
	}
}

func rmsNorm(y, x, weight []float32, eps float64) {
	factor := float32(1 / math.Sqrt(sumSquares(x)/float64(len(x))+eps))
	if weight == nil {
		scale(y, x, factor)
		return
	}
	scaleWeighted(y, x, weight, factor)
}

// squareLanes is the number of partial sums of squares: element i belongs to sum
// i % squareLanes, and the sums are added in pairs that lie half of them apart.
const squareLanes = 16

func sumSquares(x []float32) float64 {
	var sums [squareLanes]float64
	addSquares(&sums, x)
	for n := squareLanes / 2; n > 0; n /= 2 {
		for i := range n {
			sums[i] += sums[i+n]
		}
	}
	return sums[0]
}

// addSquaresGo adds the squares of x, which are exact in float64, to the sums.
func addSquaresGo(sums *[squareLanes]float64, x []float32) {
	for i, v := range x {
		sums[i%squareLanes] += float64(float64(v) * float64(v))
	}
}

// Add sets y += x.
func Add(y, x []float32) { add(y, x) }

// Scale sets x *= s.
func Scale(x []float32, s float32) { scale(x, x, s) }

// WidenBF16 sets dst to src's little-endian bfloat16 elements, as many as dst has.
func WidenBF16(dst []float32, src []byte) { widen(dst, src) }

// NarrowBF16 sets dst to the elements of src rounded to little-endian bfloat16.
func NarrowBF16(dst []byte, src []float32) { narrow(dst, src) }

func narrowGo(dst []byte, src []float32) {
	for i, v := range src {
		h := tensor.Float32ToBF16(v)
		dst[2*i], dst[2*i+1] = byte(h), byte(h>>8)
	}
}

// RotatePairs rotates neighbouring elements (x0,x1), (x2,x3), … of each head of
// row by the angles whose cosines and sines are given, one for each pair (the
// interleaved form of rotary embedding; Su et al., RoFormer, 2021).
func RotatePairs(row, cos, sin []float32) { rotatePairs(row, cos, sin[:len(cos)]) }

func rotatePairsGo(row, cos, sin []float32) {
	for head := 0; head < len(row); head += 2 * len(cos) {
		h := row[head : head+2*len(cos)]
		for j, c := range cos {
			a, b, s := h[2*j], h[2*j+1], sin[j]
			h[2*j] = float32(a*c) - float32(b*s)
			h[2*j+1] = float32(a*s) + float32(b*c)
		}
	}
}

// RotateHalves is RotatePairs with element j paired with element j + headDim/2.
func RotateHalves(row, cos, sin []float32) { rotateHalves(row, cos, sin[:len(cos)]) }

func rotateHalvesGo(row, cos, sin []float32) {
	half := len(cos)
	for head := 0; head < len(row); head += 2 * half {
		lo, hi := row[head:head+half], row[head+half:head+2*half]
		for j, c := range cos {
			a, b, s := lo[j], hi[j], sin[j]
			lo[j] = float32(a*c) - float32(b*s)
			hi[j] = float32(b*c) + float32(a*s)
		}
	}
}

// Round rounds x in place to elements of type d: BF16, or F32 which changes nothing.
func Round(x []float32, d tensor.DType) {
	if d == tensor.BF16 {
		round(x)
	}
}

func roundGo(x []float32) {
	for i, v := range x {
		x[i] = tensor.BF16ToFloat32(tensor.Float32ToBF16(v))
	}
}

// Finite reports whether x has neither infinities nor NaNs.
func Finite(x []float32) bool { return finite(x) }

func finiteGo(x []float32) bool {
	for _, v := range x {
		if math.Float32bits(v)&0x7f800000 == 0x7f800000 {
			return false
		}
	}
	return true
}

// FirstAbove is the index of the first element of x that is larger than limit, or
// len(x).
func FirstAbove[F float32 | float64](x []F, limit F) int {
	n := notAbove(x, limit)
	for ; n < len(x); n++ {
		if x[n] > limit {
			break
		}
	}
	return n
}
