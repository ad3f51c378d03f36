package kernel

import "math"

const (
	log2e = 1.44269504088896338700
	ln2Hi = 6.93147180369123816490e-01
	ln2Lo = 1.90821492927058770002e-10
	// Beyond these exp is infinite, or zero.
	expLargest, expSmallest = 700, -700
)

// expCoefficients are those of the Taylor polynomial, 1/10! first.
var expCoefficients = [11]float64{
	1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24,
	1.0 / 6, 0.5, 1, 1,
}

// exp returns e^x in float64, to about 2e-13 relative, by the same steps on every
// machine: x = k ln 2 + r with |r| <= ln 2 / 2, a Taylor polynomial for e^r, and k
// added to the exponent. math.Exp has other bits on other architectures.
func exp(x float64) float64 {
	switch {
	case x != x:
		return x
	case x > expLargest:
		return math.Inf(1)
	case x < expSmallest:
		return 0
	}
	k := math.Floor(float64(x*log2e) + 0.5)
	r := float64(x-float64(k*ln2Hi)) - float64(k*ln2Lo)
	p := expCoefficients[0]
	for _, c := range expCoefficients[1:] {
		p = float64(p*r) + c
	}
	return p * math.Float64frombits(uint64(int64(k)+1023)<<52)
}

// expShiftedGo sets y = e^(x - shift), computed in float64.
func expShiftedGo(y, x []float32, shift float32) {
	for i, v := range x {
		y[i] = float32(exp(float64(v) - float64(shift)))
	}
}

// Sigmoid returns 1 / (1 + e^-x).
func Sigmoid(x float32) float32 {
	return float32(1 / (1 + exp(-float64(x))))
}

// swiGLUGo sets y = silu(gate) * up for one row.
func swiGLUGo(y, gate, up []float32) {
	for j, g := range gate {
		silu := float32(float64(g) / (1 + exp(-float64(g))))
		y[j] = float32(silu * up[j])
	}
}
