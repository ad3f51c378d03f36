package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// withLevels runs f with each instruction set of this machine.
func withLevels(t *testing.T, f func(t *testing.T)) {
	best := level
	defer func() { level = best }()
	for l := plainGo; l <= best; l++ {
		level = l
		t.Run(instructionNames[l], f)
	}
}

// extremes are numbers at which steps branch, round or overflow.
var extremes = []float32{
	0, float32(math.Copysign(0, -1)), 1, -1, float32(math.Inf(1)), float32(math.Inf(-1)),
	float32(math.NaN()), math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32,
	-math.SmallestNonzeroFloat32, 0x1p-126, 0x1p-127, 87.5, 89, -87.5, -103, -104, 699.9, 700,
	700.1, -699.9, -700, -700.1, 709, 745, -745, 0.34657359, -0.34657359, 1e-30,
}

// extremeRow is random, with one element in a few an extreme.
func extremeRow(r *rand.Rand, n, few int) []float32 {
	x := make([]float32, n)
	for i := range x {
		switch {
		case few > 0 && r.IntN(few) == 0:
			x[i] = extremes[r.IntN(len(extremes))]
		case r.IntN(8) == 0:
			x[i] = hard(r)
		default:
			x[i] = float32(r.NormFloat64() * 10)
		}
	}
	return x
}

func bfloats(x []float32) []byte {
	b := make([]byte, 0, 2*len(x))
	for _, v := range x {
		h := math.Float32bits(v) >> 16
		b = append(b, byte(h), byte(h>>8))
	}
	return b
}

// loop is one loop of a kernel, as dispatched and in plain Go, over rows of n
// elements. Each changes y.
type loop struct {
	name          string
	fast, plainGo func(y, a, b []float32, s float32)
}

var loops = []loop{
	{"add", func(y, a, _ []float32, _ float32) { add(y, a) },
		func(y, a, _ []float32, _ float32) { addGo(y, a) }},
	{"scale", func(y, a, _ []float32, s float32) { scale(y, a, s) },
		func(y, a, _ []float32, s float32) { scaleGo(y, a, s) }},
	{"scaleWeighted", func(y, a, b []float32, s float32) { scaleWeighted(y, a, b, s) },
		func(y, a, b []float32, s float32) { scaleWeightedGo(y, a, b, s) }},
	{"expShifted", func(y, a, _ []float32, s float32) { expShifted(y, a, s) },
		func(y, a, _ []float32, s float32) { expShiftedGo(y, a, s) }},
	{"swiGLU", func(y, a, b []float32, _ float32) { swiGLU(y, a, b) },
		func(y, a, b []float32, _ float32) { swiGLUGo(y, a, b) }},
	{"sigmoid", func(y, a, _ []float32, _ float32) { sigmoid(y, a) },
		func(y, a, _ []float32, _ float32) { sigmoidGo(y, a) }},
	{"round", func(y, a, _ []float32, _ float32) { copy(y, a); round(y) },
		func(y, a, _ []float32, _ float32) { copy(y, a); roundGo(y) }},
	{"narrow", func(y, a, _ []float32, _ float32) { narrowed(y, a, narrow) },
		func(y, a, _ []float32, _ float32) { narrowed(y, a, narrowGo) }},
	{"widen", func(y, a, _ []float32, _ float32) { widen(y, bfloats(a)) },
		func(y, a, _ []float32, _ float32) { widenGo(y, bfloats(a)) }},
}

// narrowed narrows a and lays the bytes into y.
func narrowed(y, a []float32, f func(dst []byte, src []float32)) {
	b := make([]byte, 2*len(a)+2)
	f(b, a)
	for i := range y {
		y[i] = float32(b[2*i]) + 256*float32(b[2*i+1]) + float32(b[len(b)-1])
	}
}

// sizes are none, one, tails, whole vectors, and more than one call of assembly.
var sizes = []int{0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 40, 63, 64, 100, 128, 8192, 16411}

// TestLoopsSameBytes compares each loop with its plain Go version, bit by bit, and
// asserts that it writes nothing behind its output.
func TestLoopsSameBytes(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(21, 22))
		for _, l := range loops {
			for _, n := range sizes {
				for _, few := range []int{0, 2, 20} {
					y, a, b := extremeRow(r, n+8, few), extremeRow(r, n, few), extremeRow(r, n, few)
					s := extremeRow(r, 1, few)[0]
					want := append([]float32(nil), y...)
					l.plainGo(want[:n], a, b, s)
					l.fast(y[:n], a, b, s)
					compare(t, fmt.Sprintf("%s of %d", l.name, n), y, want)
				}
			}
		}
	})
}

// compare fails unless got is want bit by bit; one NaN is as good as another, since
// the machine chooses which operand's payload it keeps.
func compare(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i, w := range want {
		if !same(got[i], w) {
			t.Fatalf("%s: element %d is %g (%#x), plain Go gives %g (%#x)", what, i,
				got[i], math.Float32bits(got[i]), w, math.Float32bits(w))
		}
	}
}

// TestExpExtremes goes over every branch of exp in every lane.
func TestExpExtremes(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		for lane := range 8 {
			for _, v := range extremes {
				for _, shift := range extremes {
					x, got, want := make([]float32, 8), make([]float32, 8), make([]float32, 8)
					x[lane] = v
					expShifted(got, x, shift)
					expShiftedGo(want, x, shift)
					compare(t, fmt.Sprintf("e^(%g - %g)", v, shift), got, want)
				}
			}
		}
	})
}

func TestLoopsRefuseShortRows(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		short := make([]float32, 20)
		for name, f := range map[string]func(){
			"add":         func() { add(make([]float32, 15), short[:16]) },
			"widen":       func() { widen(short[:16], make([]byte, 31)) },
			"narrow":      func() { narrow(make([]byte, 31), short[:16]) },
			"pairs":       func() { RotatePairs(short[:16], short[:8], short[:7:7]) },
			"a part head": func() { RotateHalves(short[:20], short[:8], short[:8]) },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s reads beyond a row", name)
					}
				}()
				f()
			}()
		}
	})
}

// FuzzExp compares the lanes of exp with plain Go on any bits.
func FuzzExp(f *testing.F) {
	for _, v := range extremes {
		f.Add(math.Float32bits(v), uint32(0), uint32(0x3f800000))
	}
	f.Fuzz(func(t *testing.T, x, shift, up uint32) {
		row := make([]float32, 9)
		for i := range row {
			row[i] = math.Float32frombits(x + uint32(i))
		}
		got, want := make([]float32, 9), make([]float32, 9)
		expShifted(got, row, math.Float32frombits(shift))
		expShiftedGo(want, row, math.Float32frombits(shift))
		compare(t, "expShifted", got, want)
		for i := range row {
			got[i] = math.Float32frombits(up)
		}
		swiGLUGo(want, row, got)
		swiGLU(got, row, got)
		compare(t, "swiGLU", got, want)
	})
}

// TestSumSquares compares the sums of squares with plain Go, and with a plain sum.
func TestSumSquares(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(41, 42))
		for _, n := range sizes {
			for _, few := range []int{0, 2, 20} {
				x := extremeRow(r, n, few)
				var got, want [squareLanes]float64
				addSquares(&got, x)
				addSquaresGo(&want, x)
				for i := range got {
					if math.Float64bits(got[i]) != math.Float64bits(want[i]) && want[i] == want[i] {
						t.Fatalf("%d elements: sum %d is %g, plain Go gives %g", n, i, got[i], want[i])
					}
				}
				var sum float64
				for _, v := range x {
					sum += float64(v) * float64(v)
				}
				if s := sumSquares(x); few == 0 && math.Abs(s-sum) > 1e-12*sum {
					t.Errorf("%d elements: %g, want %g", n, s, sum)
				}
			}
		}
	})
}

// TestRotateSameBytes compares rotary embedding with plain Go, bit by bit.
func TestRotateSameBytes(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(43, 44))
		for _, pairs := range []int{1, 3, 4, 8, 12, 20, 64, 5000} {
			for _, heads := range []int{0, 1, 2, 5, 150} {
				for _, few := range []int{0, 5} {
					cos, sin := extremeRow(r, pairs, few), extremeRow(r, pairs, few)
					got := extremeRow(r, min(2*pairs*heads, 40000/(2*pairs)*2*pairs), few)
					for name, f := range map[string][2]func(row, cos, sin []float32){
						"pairs":  {RotatePairs, rotatePairsGo},
						"halves": {RotateHalves, rotateHalvesGo},
					} {
						want := append([]float32(nil), got...)
						f[0](got, cos, sin)
						f[1](want, cos, sin)
						compare(t, fmt.Sprintf("%s: %d heads of %d", name, heads, 2*pairs), got, want)
					}
				}
			}
		}
	})
}

// TestFinite puts what is not finite at each place of rows of many lengths.
func TestFinite(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		for _, n := range []int{0, 1, 15, 16, 17, 40, 8200} {
			x := make([]float32, n)
			for i := range x {
				x[i] = []float32{1, -math.MaxFloat32, math.SmallestNonzeroFloat32}[i%3]
			}
			if !Finite(x) {
				t.Fatalf("%d finite numbers are not", n)
			}
			for i := 0; i < n; i += 1 + n/50 {
				old := x[i]
				for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
					if x[i] = float32(v); Finite(x) {
						t.Fatalf("%v at %d of %d is finite", v, i, n)
					}
				}
				x[i] = old
			}
		}
	})
}

func TestFirstAbove(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(45, 46))
		for _, n := range sizes {
			for range 20 {
				x, limit := extremeRow(r, n, 10), extremeRow(r, 1, 2)[0]
				if r.IntN(2) == 0 { // nothing, or little, is above
					for i := range x {
						x[i] = min(x[i], limit)
					}
					if n > 0 {
						x[r.IntN(n)] = 100
					}
				}
				double := make([]float64, n)
				want := n
				for i, v := range x {
					if double[i] = float64(v); v > limit {
						want = min(want, i)
					}
				}
				got, got64 := FirstAbove(x, limit), FirstAbove(double, float64(limit))
				if got != want || got64 != want {
					t.Fatalf("%d elements above %g: %d and %d, want %d", n, limit, got, got64, want)
				}
			}
		}
	})
}
