package kernel

// sumSquaresAVX2 is addSquaresGo; n is a multiple of 16 and not 0.
//
//go:noescape
func sumSquaresAVX2(sums *[squareLanes]float64, x *float32, n int)

// narrowAVX2 is narrowGo; n is a multiple of 16 and not 0.
//
//go:noescape
func narrowAVX2(dst *byte, src *float32, n int)

// rotatePairsAVX2 is rotatePairsGo; pairs is a multiple of 4, neither count is 0.
//
//go:noescape
func rotatePairsAVX2(row, cos, sin *float32, pairs, heads int)

// rotateHalvesAVX2 is rotateHalvesGo; pairs is a multiple of 8, neither count is 0.
//
//go:noescape
func rotateHalvesAVX2(row, cos, sin *float32, pairs, heads int)

// roundAVX2 is roundGo; n is a multiple of 16 and not 0.
//
//go:noescape
func roundAVX2(x *float32, n int)

// finiteAVX2 is finiteGo; n is a multiple of 16 and not 0.
//
//go:noescape
func finiteAVX2(x *float32, n int) bool

// notAboveAVX2 returns a number of leading elements, a multiple of 32, of which none is
// above the limit, and is n or has one that is among the next 32; n is a multiple of 32
// and not 0.
//
//go:noescape
func notAboveAVX2(x *float32, limit float32, n int) int

// notAbove64AVX2 is notAboveAVX2 for float64, with 16 for 32.
//
//go:noescape
func notAbove64AVX2(x *float64, limit float64, n int) int

func addSquares(sums *[squareLanes]float64, x []float32) {
	for n := whole(len(x), squareLanes); n > 0; n = whole(len(x), squareLanes) {
		sumSquaresAVX2(sums, &x[0], n)
		x = x[n:]
	}
	addSquaresGo(sums, x)
}

func narrow(dst []byte, src []float32) {
	dst = dst[:2*len(src)]
	for n := whole(len(src), 16); n > 0; n = whole(len(src), 16) {
		narrowAVX2(&dst[0], &src[0], n)
		dst, src = dst[2*n:], src[n:]
	}
	narrowGo(dst, src)
}

func rotatePairs(row, cos, sin []float32) {
	if pairs := len(cos); level >= avx2 && pairs > 0 && pairs%4 == 0 {
		for n := heads(row, pairs); n > 0; n = heads(row, pairs) {
			rotatePairsAVX2(&row[0], &cos[0], &sin[0], pairs, n)
			row = row[2*n*pairs:]
		}
	}
	rotatePairsGo(row, cos, sin)
}

func rotateHalves(row, cos, sin []float32) {
	if pairs := len(cos); level >= avx2 && pairs > 0 && pairs%8 == 0 {
		for n := heads(row, pairs); n > 0; n = heads(row, pairs) {
			rotateHalvesAVX2(&row[0], &cos[0], &sin[0], pairs, n)
			row = row[2*n*pairs:]
		}
	}
	rotateHalvesGo(row, cos, sin)
}

// heads is the number of heads of row that the next call of assembly takes.
func heads(row []float32, pairs int) int {
	return min(len(row)/(2*pairs), max(maxPart/(2*pairs), 1))
}

func round(x []float32) {
	for n := whole(len(x), 16); n > 0; n = whole(len(x), 16) {
		roundAVX2(&x[0], n)
		x = x[n:]
	}
	roundGo(x)
}

func finite(x []float32) bool {
	for n := whole(len(x), 16); n > 0; n = whole(len(x), 16) {
		if !finiteAVX2(&x[0], n) {
			return false
		}
		x = x[n:]
	}
	return finiteGo(x)
}

// notAbove returns a number of leading elements of x of which none is above the limit.
func notAbove[F float32 | float64](x []F, limit F) int {
	const lanes = 32
	at := 0
	for n := whole(len(x), lanes); n > 0; n = whole(len(x)-at, lanes) {
		done := 0
		switch p := any(&x[at]).(type) {
		case *float32:
			done = notAboveAVX2(p, float32(limit), n)
		case *float64:
			done = notAbove64AVX2(p, float64(limit), n)
		}
		if at += done; done < n {
			break
		}
	}
	return at
}
