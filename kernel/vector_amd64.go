package kernel

import (
	"math"

	"golang.org/x/sys/cpu"
)

func detect() instructions {
	x := &cpu.X86
	switch {
	case !x.HasAVX2 || !x.HasFMA || !x.HasF16C:
		return plainGo
	case !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512DQ || !x.HasAVX512VL:
		return avx2
	case !x.HasAVX512VNNI:
		return avx512
	}
	return avx512VNNI
}

// expTable is what exp's assembly reads; its order is that of the places named there.
//
//lint:ignore U1000 only assembly reads it
var expTable = [...]float32{
	log2e, -ln2Hi, -ln2Lo, expRound, expLargest, expSmallest, 1,
	math.Float32frombits(1 << 31),
	expCoefficients[0], expCoefficients[1], expCoefficients[2], expCoefficients[3],
	expCoefficients[4],
}

// maxPart bounds the elements that one call of assembly takes: such a call cannot be
// preempted in the middle.
const maxPart = 1 << 13

// expShiftedAVX2 is expShiftedGo; n is a multiple of 8 and not 0.
//
//go:noescape
func expShiftedAVX2(y, x *float32, shift float32, n int)

// swiGLUAVX2 is swiGLUGo; n is a multiple of 8 and not 0.
//
//go:noescape
func swiGLUAVX2(y, gate, up *float32, n int)

// expShiftedAVX512 is expShiftedGo; n is a multiple of 16 and not 0.
//
//go:noescape
func expShiftedAVX512(y, x *float32, shift float32, n int)

// swiGLUAVX512 is swiGLUGo; n is a multiple of 16 and not 0.
//
//go:noescape
func swiGLUAVX512(y, gate, up *float32, n int)

// sigmoidAVX2 is sigmoidGo; n is a multiple of 8 and not 0.
//
//go:noescape
func sigmoidAVX2(y, x *float32, n int)

// sigmoidAVX512 is sigmoidGo; n is a multiple of 16 and not 0.
//
//go:noescape
func sigmoidAVX512(y, x *float32, n int)

// addAVX2 is addGo; n is a multiple of 8 and not 0.
//
//go:noescape
func addAVX2(y, x *float32, n int)

// scaleAVX2 is scaleGo; n is a multiple of 8 and not 0.
//
//go:noescape
func scaleAVX2(y, x *float32, s float32, n int)

// scaleWeightedAVX2 is scaleWeightedGo; n is a multiple of 8 and not 0.
//
//go:noescape
func scaleWeightedAVX2(y, x, w *float32, s float32, n int)

// widenAVX2 is widenGo; n is a multiple of 16 and not 0.
//
//go:noescape
func widenAVX2(dst *float32, src *byte, n int)

// whole splits n elements: those of the next call of assembly, which takes multiples
// of lanes.
func whole(n, lanes int) int {
	if level < avx2 {
		return 0
	}
	return min(n-n%lanes, maxPart)
}

func expShifted(y, x []float32, shift float32) {
	y = y[:len(x)]
	if level >= avx512 {
		for n := whole(len(x), 16); n > 0; n = whole(len(x), 16) {
			expShiftedAVX512(&y[0], &x[0], shift, n)
			y, x = y[n:], x[n:]
		}
	}
	for n := whole(len(x), 8); n > 0; n = whole(len(x), 8) {
		expShiftedAVX2(&y[0], &x[0], shift, n)
		y, x = y[n:], x[n:]
	}
	if level < avx2 || len(x) == 0 {
		expShiftedGo(y, x, shift)
		return
	}
	var part [8]float32
	copy(part[:], x)
	expShiftedAVX2(&part[0], &part[0], shift, len(part))
	copy(y, part[:])
}

func swiGLU(y, gate, up []float32) {
	y, up = y[:len(gate)], up[:len(gate)]
	if level >= avx512 {
		for n := whole(len(gate), 16); n > 0; n = whole(len(gate), 16) {
			swiGLUAVX512(&y[0], &gate[0], &up[0], n)
			y, gate, up = y[n:], gate[n:], up[n:]
		}
	}
	for n := whole(len(gate), 8); n > 0; n = whole(len(gate), 8) {
		swiGLUAVX2(&y[0], &gate[0], &up[0], n)
		y, gate, up = y[n:], gate[n:], up[n:]
	}
	if level < avx2 || len(gate) == 0 {
		swiGLUGo(y, gate, up)
		return
	}
	var part, with [8]float32
	copy(part[:], gate)
	copy(with[:], up)
	swiGLUAVX2(&part[0], &part[0], &with[0], len(part))
	copy(y, part[:])
}

func sigmoid(y, x []float32) {
	y = y[:len(x)]
	if level >= avx512 {
		for n := whole(len(x), 16); n > 0; n = whole(len(x), 16) {
			sigmoidAVX512(&y[0], &x[0], n)
			y, x = y[n:], x[n:]
		}
	}
	for n := whole(len(x), 8); n > 0; n = whole(len(x), 8) {
		sigmoidAVX2(&y[0], &x[0], n)
		y, x = y[n:], x[n:]
	}
	if level < avx2 || len(x) == 0 {
		sigmoidGo(y, x)
		return
	}
	var part [8]float32
	copy(part[:], x)
	sigmoidAVX2(&part[0], &part[0], len(part))
	copy(y, part[:])
}

func add(y, x []float32) {
	y = y[:len(x)]
	for n := whole(len(x), 8); n > 0; n = whole(len(x), 8) {
		addAVX2(&y[0], &x[0], n)
		y, x = y[n:], x[n:]
	}
	addGo(y, x)
}

func scale(y, x []float32, s float32) {
	y = y[:len(x)]
	for n := whole(len(x), 8); n > 0; n = whole(len(x), 8) {
		scaleAVX2(&y[0], &x[0], s, n)
		y, x = y[n:], x[n:]
	}
	scaleGo(y, x, s)
}

func scaleWeighted(y, x, weight []float32, s float32) {
	y, weight = y[:len(x)], weight[:len(x)]
	for n := whole(len(x), 8); n > 0; n = whole(len(x), 8) {
		scaleWeightedAVX2(&y[0], &x[0], &weight[0], s, n)
		y, x, weight = y[n:], x[n:], weight[n:]
	}
	scaleWeightedGo(y, x, weight, s)
}

func widen(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	for n := whole(len(dst), 16); n > 0; n = whole(len(dst), 16) {
		widenAVX2(&dst[0], &src[0], n)
		dst, src = dst[n:], src[2*n:]
	}
	widenGo(dst, src)
}
