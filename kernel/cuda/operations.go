//go:build cuda && linux

package cuda

import (
	"fmt"
	"math"

	"drover/kernel"
	"drover/tensor"
)

// must panics unless shapes fit: a bug of the caller.
func must(fit bool, what string, args ...any) {
	if !fit {
		panic("cuda: " + fmt.Sprintf(what, args...))
	}
}

// Embed looks tokens up.
func (d *Device) Embed(x kernel.Rows, t kernel.Table, tokens []int32) {
	d.begin()
	e, ok := t.(*table)
	must(ok && e.device == d && x.N == len(tokens) && x.Dim == e.Dim,
		"embeddings of %d tokens from %T into (%d,%d)", len(tokens), t, x.N, x.Dim)
	within(tokens, e.Rows, "token")
	if x.N == 0 {
		return
	}
	d.hold(e)
	types := map[tensor.DType]uint64{tensor.F32: 0, tensor.BF16: 1, tensor.F16: 2}
	d.elements(embedRows, x.N*x.Dim, d.at(x), e.memory.At(0), d.argument(memoryOf(tokens)),
		uint64(x.N*x.Dim), uint64(x.Dim), types[e.DType])
}

// within panics unless all numbers are from 0 to n, without n: a kernel that reads beyond
// takes the device with it.
func within(numbers []int32, n int, what string) {
	for _, i := range numbers {
		must(i >= 0 && int(i) < n, "%s %d of %d", what, i, n)
	}
}

// normLanes is the number of sums of a row.
const normLanes = 16

// Norm is RMSNorm.
func (d *Device) Norm(y, x, weight kernel.Rows, eps float64) {
	d.begin()
	must(y.N == x.N && y.Dim == x.Dim && weight.N <= 1 && (weight.N == 0 || weight.Dim == x.Dim),
		"norm of (%d,%d) with weight (%d,%d) into (%d,%d)", x.N, x.Dim, weight.N, weight.Dim, y.N,
		y.Dim)
	if x.N*x.Dim == 0 {
		return
	}
	in, rows, dim := d.at(x), uint64(x.N), uint64(x.Dim)
	sums := d.room(scratchSums, 8*normLanes*x.N)
	factors := d.room(scratchFactors, 4*x.N)
	d.elements(normSums, normLanes*x.N, sums, in, rows, dim)
	d.elements(normFactors, x.N, factors, sums, rows, dim, math.Float64bits(eps))
	d.elements(normApply, x.N*x.Dim, d.at(y), in, factors, d.at(weight), rows*dim, dim,
		flag(weight.N == 1))
}

// Rotate is kernel.RotatePairs or kernel.RotateHalves.
func (d *Device) Rotate(x, cos, sin kernel.Rows, form kernel.RotaryForm) {
	d.begin()
	must(cos.N == x.N && sin.N == x.N && sin.Dim == cos.Dim && cos.Dim >= 1 &&
		x.Dim%(2*cos.Dim) == 0, "(%d,%d) rotated by (%d,%d) and (%d,%d)", x.N, x.Dim, cos.N, cos.Dim,
		sin.N, sin.Dim)
	if x.N*x.Dim == 0 {
		return
	}
	pairs := x.N * x.Dim / 2
	d.elements(rotateRows, pairs, d.at(x), d.at(cos), d.at(sin), uint64(pairs), uint64(x.Dim),
		uint64(cos.Dim), flag(form == kernel.RotaryHalves))
}

// ScaleRows multiplies rows by factors.
func (d *Device) ScaleRows(x, factors kernel.Rows) {
	d.begin()
	must(factors.N == x.N && factors.Dim == 1, "%d rows scaled by (%d,%d)", x.N, factors.N,
		factors.Dim)
	if n := x.N * x.Dim; n > 0 {
		d.elements(scaleRows, n, d.at(x), d.at(factors), uint64(n), uint64(x.Dim))
	}
}

// Add sets y += x.
func (d *Device) Add(y, x kernel.Rows) {
	d.begin()
	must(y.N == x.N && y.Dim == x.Dim, "(%d,%d) added to (%d,%d)", x.N, x.Dim, y.N, y.Dim)
	if n := x.N * x.Dim; n > 0 {
		d.elements(addRows, n, d.at(y), d.at(x), uint64(n))
	}
}

// checkPicks refuses picks that do not have a number of one of rows, and a weight, for each
// of n rows.
func checkPicks(p *kernel.Picks, n, rows int) {
	must(len(p.Rows) == n && (p.Weights == nil || len(p.Weights) == n),
		"%d rows and %d weights are picked for %d rows", len(p.Rows), len(p.Weights), n)
	within(p.Rows, rows, "row")
}

// Gather copies rows.
func (d *Device) Gather(y, x kernel.Rows, pick kernel.Picks, t tensor.DType) {
	d.begin()
	checkPicks(&pick, y.N, x.N)
	must(y.Dim == x.Dim && (t == tensor.F32 || t == tensor.BF16),
		"rows of %d gathered into rows of %d as %v", x.Dim, y.Dim, t)
	n := y.N * y.Dim
	if n == 0 {
		return
	}
	d.elements(gatherRows, n, d.at(y), d.at(x), d.argument(memoryOf(pick.Rows)),
		d.argument(memoryOf(pick.Weights)), uint64(n), uint64(y.Dim), flag(pick.Weights != nil),
		flag(t == tensor.BF16))
}

// Scatter adds rows.
func (d *Device) Scatter(y, x kernel.Rows, pick kernel.Picks) {
	d.begin()
	checkPicks(&pick, x.N, y.N)
	must(y.Dim == x.Dim, "rows of %d scattered over rows of %d", x.Dim, y.Dim)
	if x.N*x.Dim == 0 {
		return
	}
	d.elements(scatterRows, y.Dim, d.at(y), d.at(x), d.argument(memoryOf(pick.Rows)),
		d.argument(memoryOf(pick.Weights)), uint64(x.N), uint64(x.Dim), flag(pick.Weights != nil))
}
