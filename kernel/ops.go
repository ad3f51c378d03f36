package kernel

import (
	"math"

	"drover/tensor"
)

// exp returns e^x in float64, to about 2e-13 relative, by the same steps on every
// machine: x = k ln 2 + r with |r| <= ln 2 / 2, a Taylor polynomial for e^r, and k
// added to the exponent. math.Exp has other bits on other architectures.
func exp(x float64) float64 {
	const (
		log2e = 1.44269504088896338700
		ln2Hi = 6.93147180369123816490e-01
		ln2Lo = 1.90821492927058770002e-10
	)
	switch {
	case x != x:
		return x
	case x > 700:
		return math.Inf(1)
	case x < -700:
		return 0
	}
	k := math.Floor(float64(x*log2e) + 0.5)
	r := float64(x-float64(k*ln2Hi)) - float64(k*ln2Lo)
	p := 1.0 / 3628800
	for _, c := range [...]float64{
		1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1, 1,
	} {
		p = float64(p*r) + c
	}
	return p * math.Float64frombits(uint64(int64(k)+1023)<<52)
}

// Sigmoid returns 1 / (1 + e^-x).
func Sigmoid(x float32) float32 {
	return float32(1 / (1 + exp(-float64(x))))
}

// SwiGLU sets y = silu(gate) * up, where silu(x) = x sigmoid(x). h holds gate, then
// up: (rows, 2*width); y is (rows, width).
func SwiGLU(y, h tensor.Rows) {
	for i := range y.N {
		out, gate, up := y.Row(i), h.Row(i)[:y.Dim], h.Row(i)[y.Dim:]
		for j, g := range gate {
			silu := float32(float64(g) / (1 + exp(-float64(g))))
			out[j] = float32(silu * up[j])
		}
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
	var sum float64
	for _, v := range x {
		sum += float64(float64(v) * float64(v))
	}
	scale := float32(1 / math.Sqrt(sum/float64(len(x))+eps))
	if weight == nil {
		for j, v := range x {
			y[j] = float32(v * scale)
		}
		return
	}
	for j, v := range x {
		y[j] = float32(weight[j] * float32(v*scale))
	}
}

// Add sets y += x.
func Add(y, x []float32) {
	for i, v := range x {
		y[i] += v
	}
}

// Scale sets x *= s.
func Scale(x []float32, s float32) {
	for i := range x {
		x[i] *= s
	}
}

// RotatePairs rotates neighbouring elements (x0,x1), (x2,x3), … of each head of
// row by the angles whose cosines and sines are given, one for each pair (the
// interleaved form of rotary embedding; Su et al., RoFormer, 2021).
func RotatePairs(row, cos, sin []float32) {
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
func RotateHalves(row, cos, sin []float32) {
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
	if d != tensor.BF16 {
		return
	}
	for i, v := range x {
		x[i] = tensor.BF16ToFloat32(tensor.Float32ToBF16(v))
	}
}

// Finite reports whether x has neither infinities nor NaNs.
func Finite(x []float32) bool {
	for _, v := range x {
		if math.Float32bits(v)&0x7f800000 == 0x7f800000 {
			return false
		}
	}
	return true
}
