package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"drover/tensor"
)

// Weights of WeightsFP8 are e4m3 codes with a float32 scale for each 64 inputs of an
// output. A product multiplies them as if they had been stored in float32:
//
//	weight = code * scale, rounded once to float32
//	y = fma(weight, x, y), over inputs in ascending order
//
// The bits of a code, its sign aside, are those of a float32 from bit 20 on, times 2^120:
// the smallest codes are subnormal in both. So a scale is stored times 2^120, which is
// exact, and one multiplication widens, shifts the exponent and scales. It bounds scales.
const (
	fp8Lines            = 17 // of a group of 64 inputs
	fp8Bytes, fp8Scales = fp8Lines * lineBytes, 16 * lineBytes

	fp8Shift = 0x1p120
	// largestE4M3 is the largest code's value.
	largestE4M3 = 448
	// largestFP8Scale keeps what is stored of a scale finite.
	largestFP8Scale = 128
)

// weightFP8 is the weight that a code is with a scale as it is stored.
func weightFP8(code byte, stored float32) float32 {
	bits := uint32(code&0x80)<<24 | uint32(code&0x7f)<<20
	return float32(math.Float32frombits(bits) * stored)
}

// accumulateFP8 adds a row times 16 outputs to acc.
func accumulateFP8(acc *[blockRows]float32, w []byte, x []float32) {
	for k, v := range x {
		block := w[k/groupInputs*fp8Bytes:]
		line := block[k%groupInputs/4*lineBytes:]
		for r := range acc {
			weight := weightFP8(line[r*4+k%4], storedScale(block, r))
			acc[r] = fma32(weight, v, acc[r])
		}
	}
}

// restFP8 adds the inputs behind the last whole group, if there are any, in plain Go.
func (m *Matrix) restFP8(y, x tensor.Rows, lo, hi int) {
	rest := m.K % groupInputs
	if m.format != WeightsFP8 || rest == 0 {
		return
	}
	for i := range y.N {
		for n0 := lo; n0 < hi; n0 += blockRows {
			var sums [blockRows]float32
			out := y.Row(i)[n0:min(n0+blockRows, hi)]
			copy(sums[:], out)
			accumulateFP8(&sums, m.block(n0)[m.K/groupInputs*fp8Bytes:], x.Row(i)[m.K-rest:])
			copy(out, sums[:])
		}
	}
}

// storedScale is the scale of output r of a superblock as it is stored.
func storedScale(block []byte, r int) float32 {
	return *(*float32)(unsafe.Pointer(&block[fp8Scales+r*4]))
}

func atFP8(w []byte, r, k int) float32 {
	block := w[k/groupInputs*fp8Bytes:]
	k %= groupInputs
	return weightFP8(block[k/4*lineBytes+r*4+k%4], storedScale(block, r))
}

// setFP8 packs the weights of output r of a block: the scale is max|w| / 448.
func setFP8(w []byte, r int, weights []float32) error {
	for g := 0; g*groupInputs < len(weights); g++ {
		part := weights[g*groupInputs : min((g+1)*groupInputs, len(weights))]
		largest := math.Float32frombits(largestBits(part))
		scale, inverse := largest/largestE4M3, float32(0)
		if !(scale <= largestFP8Scale) {
			return fmt.Errorf("weights of inputs %d on: the largest is %g, "+
				"fp8 needs weights that are finite and at most %d", g*groupInputs, largest,
				largestE4M3*largestFP8Scale)
		}
		if largest >= smallestGroup {
			inverse = largestE4M3 / largest
		} else {
			scale = 0
		}
		var codes [groupInputs]byte
		for k, v := range part {
			codes[k] = tensor.Float32ToE4M3(float32(v * inverse))
		}
		putFP8(w[g*fp8Bytes:(g+1)*fp8Bytes], r, &codes, scale)
	}
	return nil
}

// putFP8 stores codes and scale of output r of a superblock.
func putFP8(block []byte, r int, codes *[groupInputs]byte, scale float32) {
	*(*float32)(unsafe.Pointer(&block[fp8Scales+r*4])) = scale * fp8Shift
	for l := range groupInputs / 4 {
		*(*uint32)(unsafe.Pointer(&block[l*lineBytes+r*4])) = binary.LittleEndian.Uint32(codes[4*l:])
	}
}
