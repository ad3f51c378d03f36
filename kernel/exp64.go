package kernel

import "math"

const (
	ln2Hi64, ln2Lo64 = 0x1.62e42feep-01, 0x1.a39ef35793c76p-33
	// Outside of these exp64 does not go on: there is nothing beyond, or e^x is so near to
	// the smallest numbers that it counts as 0.
	exp64Largest, exp64Smallest = 709, -708
	// exp64Round plus a small number is that number rounded to a whole one, in the last
	// bits of the sum.
	exp64Round = 0x1.8p52
)

// exp64Coefficients are those of x^13 to x^0 in the power series of e^x, the rest of which is
// less than 1e-17 with |x| <= ln 2 / 2.
var exp64Coefficients = [...]float64{
	1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
	1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1, 1,
}

// Exp64 returns e^x to about one unit in the last place by the same steps on every machine,
// which math.Exp does not: those of exp32. It is 0 for x below -708, and ends to grow at 709.
func Exp64(x float64) float64 {
	if x < exp64Smallest {
		return 0
	}
	if x > exp64Largest {
		x = exp64Largest
	}
	shifted := math.FMA(x, math.Log2E, exp64Round)
	k := float64(shifted - exp64Round)
	r := math.FMA(k, -ln2Lo64, math.FMA(k, -ln2Hi64, x))
	p := exp64Coefficients[0]
	for _, c := range exp64Coefficients[1:] {
		p = math.FMA(p, r, c)
	}
	power := math.Float64bits(shifted)<<52 + math.Float64bits(1)
	return float64(p * math.Float64frombits(power))
}

// Exponentials sets y = e^((x - shift) / divisor), as Exp64 does. y may be x.
func Exponentials(y, x []float64, shift, divisor float64) {
	y = y[:len(x)]
	n := exponentialsVector(y, x, shift, divisor)
	for i, v := range x[n:] {
		y[n+i] = Exp64(float64(float64(v-shift) / divisor))
	}
}
