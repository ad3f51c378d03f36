package kernel

import "drover/tensor"

// The plain Go versions of the loops that have versions in assembly: their reference
// (K2), and what runs on machines that have no other.

// instructions is a set of vector instructions, each including the ones before.
type instructions uint8

const (
	plainGo instructions = iota
	avx2
	avx512
	avx512VNNI
)

// level is the set in use. SetInstructions and tests change it.
var level = detect()

// dot sums a*b in eight interleaved chains, added in a fixed order.
func dot(a, b []float32) float32 {
	var s [8]float32
	b = b[:len(a)]
	i := 0
	for ; i+8 <= len(a); i += 8 {
		x, y := a[i:i+8:i+8], b[i:i+8:i+8]
		s[0] += float32(x[0] * y[0])
		s[1] += float32(x[1] * y[1])
		s[2] += float32(x[2] * y[2])
		s[3] += float32(x[3] * y[3])
		s[4] += float32(x[4] * y[4])
		s[5] += float32(x[5] * y[5])
		s[6] += float32(x[6] * y[6])
		s[7] += float32(x[7] * y[7])
	}
	for ; i < len(a); i++ {
		s[0] += float32(a[i] * b[i])
	}
	return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
}

// dotsGo sets scores[t] = q·k[t*stride:] * scale.
func dotsGo(scores, q, k []float32, stride int, scale float32) {
	for t := range scores {
		scores[t] = float32(dot(q, k[t*stride:]) * scale)
	}
}

// addWeightedGo adds x[t*stride:] * p[t] to y, ascending in t.
func addWeightedGo(y, x []float32, stride int, p []float32) {
	for t, v := range p {
		row := x[t*stride:][:len(y)]
		for i := range y {
			y[i] += float32(row[i] * v)
		}
	}
}

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
