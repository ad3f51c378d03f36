package tensor

import "math"

// BF16ToFloat32 widens a bfloat16, exactly. The bits of a NaN are kept.
func BF16ToFloat32(b uint16) float32 {
	return math.Float32frombits(uint32(b) << 16)
}

// Float32ToBF16 rounds to the nearest bfloat16, ties to even. What is too large
// becomes an infinity. A NaN stays a NaN of the same sign, and quiet.
func Float32ToBF16(f float32) uint16 {
	u := math.Float32bits(f)
	if u&0x7fffffff > 0x7f800000 {
		return uint16(u>>16) | 0x40 // cutting the mantissa alone could leave an infinity
	}
	return uint16((u + 0x7fff + u>>16&1) >> 16)
}

// F16ToFloat32 widens an IEEE half, exactly. A NaN keeps its sign and the bits of
// its mantissa.
func F16ToFloat32(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exponent, mantissa := uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch exponent {
	case 0: // zero or subnormal: mantissa * 2^-24
		f := float32(mantissa) * (1.0 / (1 << 24))
		return math.Float32frombits(sign | math.Float32bits(f))
	case 0x1f: // infinity or NaN
		return math.Float32frombits(sign | 0x7f800000 | mantissa<<13)
	}
	return math.Float32frombits(sign | (exponent+127-15)<<23 | mantissa<<13)
}

// Float32ToF16 rounds to the nearest IEEE half, ties to even. What is too large
// becomes an infinity. A NaN stays a NaN of the same sign, and quiet.
func Float32ToF16(f float32) uint16 {
	u := math.Float32bits(f)
	sign := uint16(u >> 16 & 0x8000)
	switch u &= 0x7fffffff; {
	case u > 0x7f800000:
		return sign | 0x7e00 | uint16(u>>13&0x3ff)
	case u >= 0x477ff000: // halfway between the largest half and the next
		return sign | 0x7c00
	case u < 0x38800000: // subnormal: a multiple of 2^-24
		return sign | uint16(math.RoundToEven(float64(math.Float32frombits(u))*(1<<24)))
	}
	return sign | uint16((u-(127-15)<<23+0xfff+u>>13&1)>>13)
}

// E4M3ToFloat32 widens an e4m3, exactly: a sign, four bits of exponent, three of mantissa;
// no infinities, and a NaN where all other bits are ones.
func E4M3ToFloat32(b byte) float32 {
	sign, magnitude := uint32(b&0x80)<<24, uint32(b&0x7f)
	switch {
	case magnitude < 8: // zero or subnormal: a multiple of 2^-9
		return math.Float32frombits(sign | math.Float32bits(float32(magnitude)*(1.0/(1<<9))))
	case magnitude == 0x7f:
		return math.Float32frombits(sign | 0x7fc00000)
	}
	return math.Float32frombits(sign | magnitude<<20 + (127-7)<<23)
}

// Float32ToE4M3 rounds to the nearest e4m3, ties to even. What is too large becomes the
// largest, 448. A NaN stays a NaN of the same sign.
func Float32ToE4M3(f float32) byte {
	u := math.Float32bits(f)
	sign := byte(u >> 24 & 0x80)
	switch u &= 0x7fffffff; {
	case u > 0x7f800000:
		return sign | 0x7f
	case u >= 0x43e00000: // 448
		return sign | 0x7e
	case u < 0x3c800000: // below 2^-6: a multiple of 2^-9, which is the last bit of 2^14
		const ulp = 1 << 14
		return sign | byte(math.Float32bits(math.Float32frombits(u)+ulp)-math.Float32bits(ulp))
	}
	return sign | byte((u-(127-7)<<23+0x7ffff+u>>20&1)>>20)
}
