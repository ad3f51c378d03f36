package kernel

// maxPart bounds the elements that one call of assembly takes: such a call cannot be
// preempted in the middle.
const maxPart = 1 << 13

// vectorLanes is what the elements of a call of assembly are a multiple of.
const vectorLanes = 16

// addNEON is addGo; n is a multiple of vectorLanes and not 0, here and below.
//
//go:noescape
func addNEON(y, x *float32, n int)

// scaleNEON is scaleGo.
//
//go:noescape
func scaleNEON(y, x *float32, s float32, n int)

// scaleWeightedNEON is scaleWeightedGo.
//
//go:noescape
func scaleWeightedNEON(y, x, w *float32, s float32, n int)

// widenNEON is widenGo.
//
//go:noescape
func widenNEON(dst *float32, src *byte, n int)

// whole splits n elements: those of the next call of assembly.
func whole(n int) int {
	if level < neon {
		return 0
	}
	return min(n-n%vectorLanes, maxPart)
}

func add(y, x []float32) {
	y = y[:len(x)]
	for n := whole(len(x)); n > 0; n = whole(len(x)) {
		addNEON(&y[0], &x[0], n)
		y, x = y[n:], x[n:]
	}
	addGo(y, x)
}

func scale(y, x []float32, s float32) {
	y = y[:len(x)]
	for n := whole(len(x)); n > 0; n = whole(len(x)) {
		scaleNEON(&y[0], &x[0], s, n)
		y, x = y[n:], x[n:]
	}
	scaleGo(y, x, s)
}

func scaleWeighted(y, x, weight []float32, s float32) {
	y, weight = y[:len(x)], weight[:len(x)]
	for n := whole(len(x)); n > 0; n = whole(len(x)) {
		scaleWeightedNEON(&y[0], &x[0], &weight[0], s, n)
		y, x, weight = y[n:], x[n:], weight[n:]
	}
	scaleWeightedGo(y, x, weight, s)
}

func widen(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	for n := whole(len(dst)); n > 0; n = whole(len(dst)) {
		widenNEON(&dst[0], &src[0], n)
		dst, src = dst[n:], src[2*n:]
	}
	widenGo(dst, src)
}

func expShifted(y, x []float32, shift float32) { expShiftedGo(y, x, shift) }

func swiGLU(y, gate, up []float32) { swiGLUGo(y, gate, up) }

func sigmoid(y, x []float32) { sigmoidGo(y, x) }
