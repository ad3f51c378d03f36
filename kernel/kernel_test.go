package kernel

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"drover/tensor"
)

// exactFMA computes a*b + c with big numbers and one rounding to float32.
func exactFMA(a, b, c float32) float32 {
	x := new(big.Float).SetPrec(600).Mul(big.NewFloat(float64(a)), big.NewFloat(float64(b)))
	x.Add(x, big.NewFloat(float64(c)))
	f, _ := x.Float32()
	return f
}

func TestFMA32(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		a, b, c := hard(r), hard(r), hard(r)
		got, want := fma32(a, b, c), exactFMA(a, b, c)
		if got != want {
			t.Fatalf("fma32(%b, %b, %b) = %b, want %b", a, b, c, got, want)
		}
	}
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, v := range [][3]float32{{inf, 0, 1}, {nan, 1, 1}, {1, nan, 1}, {1, 1, nan}, {inf, 1, -inf}} {
		if got := fma32(v[0], v[1], v[2]); got == got {
			t.Errorf("fma32(%v) = %v, want NaN", v, got)
		}
	}
	if got := fma32(inf, 2, 1); got != inf {
		t.Errorf("fma32(inf, 2, 1) = %v", got)
	}
}

// hard makes numbers whose sums come close to ties: few bits, near exponents, and
// now and then a denormal.
func hard(r *rand.Rand) float32 {
	m := r.Uint32() & 0x7fffff
	if r.IntN(2) == 0 {
		m &= 0x700007
	}
	e := uint32(100 + r.IntN(54))
	if r.IntN(50) == 0 {
		e = 0
	}
	return math.Float32frombits(r.Uint32()&(1<<31) | e<<23 | m)
}

func randomMatrix(t testing.TB, r *rand.Rand, n, k int, d Format) *Matrix {
	m, err := NewMatrix(n, k, d)
	if err != nil {
		t.Fatal(err)
	}
	row := make([]float32, k)
	for i := range n {
		for j := range row {
			row[j] = float32(r.NormFloat64())
		}
		if err := m.SetRow(i, row); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func randomRows(r *rand.Rand, n, dim int) tensor.Rows {
	x := tensor.MakeRows(n, dim)
	for i := range x.Data {
		x.Data[i] = float32(r.NormFloat64())
	}
	return x
}

func same(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || (a != a && b != b)
}

// TestMatrixValues compares Mul with float64 sums over the weights that At returns.
func TestMatrixValues(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	m, x := randomMatrix(t, r, 50, 70, WeightsBF16), randomRows(r, 6, 70)
	y := tensor.MakeRows(6, 50)
	m.Mul(y, x)
	for i := range 6 {
		for n := range 50 {
			var want, size float64
			for k, v := range x.Row(i) {
				want += float64(v) * float64(m.At(n, k))
				size += math.Abs(float64(v) * float64(m.At(n, k)))
			}
			if got := float64(y.Row(i)[n]); math.Abs(got-want) > size*1e-6 {
				t.Fatalf("row %d output %d: %g, want %g", i, n, got, want)
			}
		}
	}
}

func TestNaNAndInfinityPropagate(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	m, x := randomMatrix(t, r, 64, 8, WeightsBF16), randomRows(r, 1, 8)
	y := tensor.MakeRows(1, 64)
	for _, v := range []float32{float32(math.NaN()), float32(math.Inf(1))} {
		x.Data[3] = v
		m.Mul(y, x)
		if Finite(y.Data[:1]) {
			t.Errorf("with an input of %v the output is %v", v, y.Data[0])
		}
	}
}

func TestNewMatrixRefuses(t *testing.T) {
	for _, s := range [][2]int{{0, 1}, {1, 0}, {-1, 4}, {math.MaxInt32 + 1, 1}} {
		if _, err := NewMatrix(s[0], s[1], WeightsBF16); err == nil {
			t.Errorf("NewMatrix(%d, %d) gives no error", s[0], s[1])
		}
	}
	if _, err := NewMatrix(1, 1, 0); err == nil {
		t.Error("a matrix of no format gives no error")
	}
	if _, err := NewBuffer(-1); err == nil {
		t.Error("a buffer of -1 bytes gives no error")
	}
}

// TestExp compares exp with float64 on every 997th float32, which are all signs and
// exponents, in units in the last place of the result.
func TestExp(t *testing.T) {
	const many = 8192
	x, y := make([]float32, 0, many), make([]float32, many)
	check := func() {
		expShifted(y, x, 0)
		for i, v := range x {
			want := math.Exp(float64(v))
			ulp := math.Ldexp(1, max(math.Ilogb(want), -126)-23)
			if want > math.MaxFloat32 && y[i] == float32(math.Inf(1)) || v != v && y[i] != y[i] {
				continue
			}
			if !(math.Abs(float64(y[i])-want) <= 1.5*ulp) {
				t.Fatalf("e^%g = %g, want %g", v, y[i], want)
			}
		}
		x = x[:0]
	}
	for bits := uint64(0); bits < 1<<32; bits += 997 {
		if x = append(x, math.Float32frombits(uint32(bits))); len(x) == many {
			check()
		}
	}
	check()
	inf := float32(math.Inf(1))
	if exp32(-inf) != 0 || exp32(inf) != inf || exp32(0) != 1 || exp32(-1e30) != 0 {
		t.Error("e^x of an extreme value is wrong")
	}
}

func TestRMSNorm(t *testing.T) {
	x := tensor.Rows{Data: []float32{3, 4, 0, 0}, N: 1, Dim: 4}
	y := tensor.MakeRows(1, 4)
	RMSNorm(y, x, []float32{1, 2, 3, 4}, 0)
	for i, want := range []float32{1.2, 3.2, 0, 0} {
		if math.Abs(float64(y.Data[i]-want)) > 1e-6 {
			t.Errorf("element %d is %g, want %g", i, y.Data[i], want)
		}
	}
}

func TestRotate(t *testing.T) {
	cos, sin := []float32{0, 1}, []float32{1, 0} // a quarter turn, and none
	pairs, halves := []float32{1, 2, 3, 4}, []float32{1, 2, 3, 4}
	RotatePairs(pairs, cos, sin)
	RotateHalves(halves, cos, sin)
	for i, want := range []float32{-2, 1, 3, 4} {
		if pairs[i] != want {
			t.Errorf("RotatePairs: element %d is %g, want %g", i, pairs[i], want)
		}
	}
	for i, want := range []float32{-3, 2, 1, 4} {
		if halves[i] != want {
			t.Errorf("RotateHalves: element %d is %g, want %g", i, halves[i], want)
		}
	}
}

// leastAllocations is testing.AllocsPerRun, the least of some attempts: it counts those of the
// whole process, and what the runtime does for the tests before may come in between.
func leastAllocations(runs int, f func()) float64 {
	least := testing.AllocsPerRun(runs, f)
	for attempt := 1; attempt < 5 && least > 0; attempt++ {
		least = min(least, testing.AllocsPerRun(runs, f))
	}
	return least
}
