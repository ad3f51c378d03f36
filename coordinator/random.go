package coordinator

import "math/bits"

// uniform is the random number in [0, 1) that belongs to a seed and a position. It depends
// on nothing else, so a request draws the same numbers in whatever batch it runs (P2).
func uniform(seed, position uint64) float64 {
	r := philox([4]uint32{uint32(position), uint32(position >> 32)},
		[2]uint32{uint32(seed), uint32(seed >> 32)})
	return float64((uint64(r[1])<<32|uint64(r[0]))>>11) * 0x1p-53
}

// philox is the counter-based generator Philox4x32-10 of Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3" (2011).
func philox(c [4]uint32, k [2]uint32) [4]uint32 {
	for range 10 {
		hi0, lo0 := bits.Mul32(0xD2511F53, c[0])
		hi1, lo1 := bits.Mul32(0xCD9E8D57, c[2])
		c = [4]uint32{hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0}
		k[0] += 0x9E3779B9
		k[1] += 0xBB67AE85
	}
	return c
}
