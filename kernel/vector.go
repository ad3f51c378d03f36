package kernel

import "drover/tensor"

// The plain Go versions of the loops that have versions in assembly: their reference
// (K2), and what runs on machines that have no other.

// instructions is a set of vector instructions, each including the ones before. The sets
// above plainGo differ by architecture.
type instructions uint8

const plainGo instructions = 0

// level is the set in use. SetInstructions and tests change it.
var level = detect()

func addGo(y, x []float32) {
	for i, v := range x {
		y[i] += v
	}
}

// scaleGo sets y = x * s.
func scaleGo(y, x []float32, s float32) {
	for i, v := range x {
		y[i] = float32(v * s)
	}
}

// scaleWeightedGo sets y = weight * (x * s).
func scaleWeightedGo(y, x, weight []float32, s float32) {
	for i, v := range x {
		y[i] = float32(weight[i] * float32(v*s))
	}
}

func widenGo(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = tensor.BF16ToFloat32(uint16(src[2*i]) | uint16(src[2*i+1])<<8)
	}
}
