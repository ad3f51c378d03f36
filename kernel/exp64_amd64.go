package kernel

import "math"

// exp64Table is what exp64's assembly reads; its order is that of the places named there.
//
//lint:ignore U1000 only assembly reads it
var exp64Table = [...]float64{
	math.Log2E, -ln2Hi64, -ln2Lo64, exp64Round, exp64Largest, exp64Smallest,
	exp64Coefficients[0], exp64Coefficients[1], exp64Coefficients[2], exp64Coefficients[3],
	exp64Coefficients[4], exp64Coefficients[5], exp64Coefficients[6], exp64Coefficients[7],
	exp64Coefficients[8], exp64Coefficients[9], exp64Coefficients[10], exp64Coefficients[11], 1,
}

// exponentials64AVX2 is Exponentials; n is a multiple of 4 and not 0.
//
//go:noescape
func exponentials64AVX2(y, x *float64, shift, divisor float64, n int)

// exponentialsVector is Exponentials for the first elements; it returns how many these are.
func exponentialsVector(y, x []float64, shift, divisor float64) int {
	done := 0
	for n := whole(len(x), 4); n > 0; n = whole(len(x)-done, 4) {
		exponentials64AVX2(&y[done], &x[done], shift, divisor, n)
		done += n
	}
	return done
}
