package limits

import "golang.org/x/sys/cpu"

// vnniAVX512 does n times 16 independent dot products of 16 groups of 4 codes. n is at least 1.
func vnniAVX512(n uintptr)

// signAVX2 does n times 6 independent products of 32 codes of 8 bits: the sign of the weights goes
// to the rows, so that pairs of products do not overflow 16 bits. n is at least 1.
func signAVX2(n uintptr)

// wideAVX2 does n times 7 independent products of 16 codes widened to 16 bits. n is at least 1.
func wideAVX2(n uintptr)

// wideAVX512 does n times 12 independent products of 32 codes widened to 16 bits. n is at least 1.
func wideAVX512(n uintptr)

// nibbleAVX2 does n times 4 independent sums of 8 products of 32 codes, the weights of 4 bits, so
// that 16 bits hold the sums of 8. n is at least 1.
func nibbleAVX2(n uintptr)

// nibbleAVX512 is nibbleAVX2 with 8 sums of products of 64 codes. n is at least 1.
func nibbleAVX512(n uintptr)

// integers returns the ways to make exact dot products of codes of 8 bits with codes of 8 bits,
// or with such of 4 bits, which are there as bytes.
func integers(narrow bool) []way {
	ways := []way{{"go", "8 chains", plainDot}}
	if hasAVX2() {
		if ways = append(ways, loop("avx2", "sign, maddubs, madd, add", signAVX2, 6*32, rounds),
			loop("avx2", "madd of 16 bits, add", wideAVX2, 7*16, rounds)); narrow {
			ways = append(ways, loop("avx2", "8 maddubs in 16 bits", nibbleAVX2, 4*8*32, rounds/4))
		}
	}
	if cpu.X86.HasAVX512BW {
		if ways = append(ways, loop("avx512", "madd of 16 bits, add", wideAVX512, 12*32,
			rounds)); narrow {
			ways = append(ways, loop("avx512", "8 maddubs in 16 bits", nibbleAVX512, 8*8*64, rounds/8))
		}
	}
	if cpu.X86.HasAVX512VNNI {
		ways = append(ways, loop("avx512vnni", "16 chains of dpbusd", vnniAVX512, 16*64, rounds))
	}
	return ways
}

// loop is a way that makes so many multiply-adds in each of n turns.
func loop(class, name string, do func(n uintptr), products, n int) way {
	return way{class, name, func(*region) float64 {
		do(uintptr(n))
		return float64(2 * products * n)
	}}
}
