package kernel

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestExponentials compares every instruction set with Exp64 bit by bit, and Exp64 with
// math.Exp, which is off by a unit in the last place, too.
func TestExponentials(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(47, 48))
		for _, n := range []int{0, 1, 3, 4, 5, 63, 20_003} {
			x := make([]float64, n)
			for i := range x {
				x[i] = 800 * (r.Float64() - 0.9)
				if r.IntN(10) == 0 {
					x[i] = float64(extremes[r.IntN(len(extremes))])
				}
			}
			shift, divisor := r.NormFloat64(), 2*r.Float64()+0.01
			y := make([]float64, n)
			Exponentials(y, x, shift, divisor)
			for i, v := range x {
				at := (v - shift) / divisor
				if want := Exp64(at); math.Float64bits(y[i]) != math.Float64bits(want) && want == want ||
					(want != want) != (y[i] != y[i]) {
					t.Fatalf("e^((%g - %g) / %g) is %g, want %g", v, shift, divisor, y[i], want)
				}
			}
		}
	})
}

func TestExp64(t *testing.T) {
	r := rand.New(rand.NewPCG(49, 50))
	for i := range 100_000 {
		x := 1417*r.Float64() - 708
		if i%2 == 0 {
			x = 4 * (r.Float64() - 0.5)
		}
		if got, want := Exp64(x), math.Exp(x); !(math.Abs(got-want) <= 0x1p-51*want) {
			t.Fatalf("e^%g is %g, want %g", x, got, want)
		}
	}
	for x, want := range map[float64]float64{0: 1, -708.001: 0, math.Inf(-1): 0,
		-math.MaxFloat64: 0, math.Inf(1): Exp64(709), 1e300: Exp64(709)} {
		if got := Exp64(x); got != want {
			t.Errorf("e^%g is %g, want %g", x, got, want)
		}
	}
	if got := Exp64(math.NaN()); got == got {
		t.Errorf("e^NaN is %g", got)
	}
}
