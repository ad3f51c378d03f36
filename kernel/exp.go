package kernel

import "math"

const (
	log2e = 1.44269504088896338700
	// ln2Hi has 16 bits, so that its products with whole numbers up to 255 are exact.
	ln2Hi, ln2Lo = 0x1.62e4p-1, 0x1.7f7d1cp-20
	// Beyond these e^x is infinite, or zero, in float32.
	expLargest, expSmallest = 90, -110
	// expRound plus a small number is that number rounded to a whole one, in the last
	// bits of the sum.
	expRound = 0x1.8p23
)

// expCoefficients are those of x^6 to x^2 in a polynomial for e^x with |x| <= ln 2 / 2,
// of which 1 + x is the rest: the one of the smallest relative error, 3e-9, rounded.
var expCoefficients = [5]float32{
	0x1.6a234ep-10, 0x1.123a6cp-7, 0x1.5558f4p-5, 0x1.555490p-3, 0x1.fffffcp-2,
}

// exp32 returns e^x to about one unit in the last place, by the same steps on every
// machine: x = k ln 2 + r with |r| <= ln 2 / 2, a polynomial for e^r, and a
// multiplication by 2^k, in two parts since 2^k alone may be no float32.
func exp32(x float32) float32 {
	if x > expLargest {
		x = expLargest
	}
	if x < expSmallest {
		x = expSmallest
	}
	shifted := fma32(x, log2e, expRound)
	k := float32(shifted - expRound)
	r := fma32(k, -ln2Lo, fma32(k, -ln2Hi, x))
	p := expCoefficients[0]
	for _, c := range expCoefficients[1:] {
		p = fma32(p, r, c)
	}
	p = fma32(fma32(p, r, 1), r, 1)
	n := int32(math.Float32bits(shifted) - math.Float32bits(expRound))
	half := n >> 1
	return float32(float32(p*power2(half)) * power2(n-half))
}

// power2 returns 2^n for n from -126 to 127.
func power2(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }

// expShiftedGo sets y = e^(x - shift).
func expShiftedGo(y, x []float32, shift float32) {
	for i, v := range x {
		y[i] = exp32(float32(v - shift))
	}
}

// Sigmoid sets y = 1 / (1 + e^-x). y may be x.
func Sigmoid(y, x []float32) { sigmoid(y, x) }

func sigmoidGo(y, x []float32) {
	for i, v := range x {
		y[i] = float32(1 / float32(1+exp32(-v)))
	}
}

// swiGLUGo sets y = silu(gate) * up for one row.
func swiGLUGo(y, gate, up []float32) {
	for j, g := range gate {
		y[j] = float32(float32(g/float32(1+exp32(-g))) * up[j])
	}
}
