package kernel

// The tiles of weights of e4m3, whose steps are 64 inputs. They widen weights as they use them,
// which costs an eighth of the multiply-adds of eight rows: to widen them once for more rows,
// as lines of float32, gained nothing.
var (
	tilesFP8AVX512 = []tile{
		{8, 2, mulFP8r8b2AVX512}, {4, 4, mulFP8r4b4AVX512}, {3, 4, mulFP8r3b4AVX512},
		{2, 4, mulFP8r2b4AVX512}, {1, 4, mulFP8r1b4AVX512},
	}
	tilesFP8AVX2 = []tile{
		{4, 1, mulFP8r4b1AVX2}, {2, 2, mulFP8r2b2AVX2}, {1, 4, mulFP8r1b4AVX2},
	}
	edgesFP8AVX2 = []tile{{4, 1, mulFP8r4b1AVX2}, {1, 1, mulFP8r1b1AVX2}}
)

//go:noescape
func mulFP8r8b2AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulFP8r4b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulFP8r3b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulFP8r2b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulFP8r1b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulFP8r4b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulFP8r2b2AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulFP8r1b4AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)

//go:noescape
func mulFP8r1b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
	next *byte)
