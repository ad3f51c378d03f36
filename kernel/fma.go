package kernel

import "math"

// fma32 returns a*b + c rounded once to float32, on any machine.
//
// The product of two float32 values is exact in float64. The sum is rounded to odd
// (its last bit is set when anything was lost), so that the final rounding to
// float32 sees on which side of a tie it lies: Boldo and Melquiond, "Emulation of
// FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008.
func fma32(a, b, c float32) float32 {
	p := float64(a) * float64(b)
	z := float64(c)
	s := float64(p + z)
	// Knuth's two-sum: t is the part of p + z that s lost. The conversions keep the
	// compiler from fusing.
	v := float64(s - p)
	t := float64(p-float64(s-v)) + float64(z-v)
	if t != 0 && !math.IsInf(s, 0) && s == s {
		if u := math.Float64bits(s); u&1 == 0 {
			if (t > 0) == (s > 0) {
				u++
			} else {
				u--
			}
			s = math.Float64frombits(u)
		}
	}
	return float32(s)
}
