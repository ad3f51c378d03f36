//go:build cuda && linux

package cuda

import (
	"fmt"

	"drover/kernel"
)

const (
	// mostPanels is the most that a grid has in its second direction.
	mostPanels = 65535
	// groupInputs is the number of a row's inputs that share a scale.
	groupInputs = 64
)

// weightsOf returns weights that are this device's.
func (d *Device) weightsOf(w kernel.Weights) *weights {
	own, ok := w.(*weights)
	must(ok && own.device == d, "weights of type %T are not this device's", w)
	return own
}

// quantised are rows of int8 codes with scales.
type quantised struct{ codes, scales uint64 }

func inputGroups(inputs int) int { return (inputs + groupInputs - 1) / groupInputs }

// from is q without its first rows of so many inputs.
func (q quantised) from(rows, inputs int) quantised {
	n := uint64(rows * inputGroups(inputs))
	return quantised{q.codes + groupInputs*n, q.scales + 4*n}
}

// quantise queues the quantisation of rows to scratch memory, which the next one takes.
func (d *Device) quantise(x uint64, rows, inputs int) quantised {
	n := rows * inputGroups(inputs)
	q := quantised{d.room(scratchCodes, groupInputs*n), d.room(scratchScales, 4*n)}
	d.elements(quantiseRows, n, q.codes, q.scales, x, uint64(rows), uint64(inputs))
	return q
}

// multiply queues y = x wᵀ. Of x, q are the codes where w needs them.
func (d *Device) multiply(w *weights, y, x uint64, q quantised, rows int) {
	n, k := w.shape.N, w.shape.K
	for rows > 0 {
		now := min(rows, mostPanels*mulRows)
		grid := Grid{uint32((n + mulOutputs - 1) / mulOutputs), uint32((now + mulRows - 1) / mulRows),
			mulOutputs}
		packed, r, outputs, inputs := w.memory.At(0), uint64(now), uint64(n), uint64(k)
		switch w.shape.Format {
		case kernel.WeightsInt8:
			d.launch(mulInt8, grid, y, q.codes, q.scales, packed, r, outputs, inputs)
		case kernel.WeightsInt4:
			d.launch(mulInt4, grid, y, q.codes, q.scales, packed, r, outputs, inputs)
		case kernel.WeightsBF16:
			d.launch(mulBF16, grid, y, x, packed, r, outputs, inputs)
		default:
			d.launch(mulF32, grid, y, x, packed, r, outputs, inputs)
		}
		y, x, q, rows = y+uint64(4*now*n), x+uint64(4*now*k), q.from(now, k), rows-now
	}
}

// Mul quantises the rows once for all products that need it.
func (d *Device) Mul(x kernel.Rows, products []kernel.Product) {
	integer := false
	for i := range products {
		p := &products[i]
		w := d.weightsOf(p.W)
		must(w.shape.K == x.Dim && p.Y.N == x.N && p.Y.Dim == w.shape.N,
			"(%d,%d) × %d×%d matrix into (%d,%d)", x.N, x.Dim, w.shape.N, w.shape.K, p.Y.N, p.Y.Dim)
		integer = integer || w.shape.Format.Integer()
	}
	if x.N == 0 {
		return
	}
	in, q := d.at(x), quantised{}
	if integer {
		q = d.quantise(in, x.N, x.Dim)
	}
	for i := range products {
		d.multiply(d.weightsOf(products[i].W), d.at(products[i].Y), in, q, x.N)
	}
}

// networkRows bounds the rows that go through feed-forward networks together, and so the
// scratch memory, whatever a batch brings.
const networkRows = 1024

// networkPart is one network and some of its rows.
type networkPart struct {
	gateUp, down *weights
	from, n      int // rows of x and y
}

// alike reports whether two networks' rows between their products lie together.
func (p *networkPart) alike(q *networkPart) bool {
	return p.down.shape.K == q.down.shape.K && p.gateUp.shape.Format == q.gateUp.shape.Format &&
		p.down.shape.Format == q.down.shape.Format
}

// FeedForward runs neighbouring networks of one shape together.
func (d *Device) FeedForward(y, x kernel.Rows, parts []kernel.FeedForwardPart) {
	d.parts = d.parts[:0]
	rows := 0
	for i := range parts {
		p := d.part(&parts[i], y, x)
		for left := parts[i].To - parts[i].From; left > 0; {
			if len(d.parts) > 0 && (rows == networkRows || !d.parts[0].alike(&p)) {
				d.forward(y, x, rows)
				d.parts, rows = d.parts[:0], 0
			}
			p.n = min(left, networkRows-rows)
			d.parts = append(d.parts, p)
			p.from, rows, left = p.from+p.n, rows+p.n, left-p.n
		}
	}
	if rows > 0 {
		d.forward(y, x, rows)
	}
	clear(d.parts) // they refer to nothing that is not in use
}

// part checks a network and its rows.
func (d *Device) part(f *kernel.FeedForwardPart, y, x kernel.Rows) networkPart {
	gateUp, down := d.weightsOf(f.GateUp), d.weightsOf(f.Down)
	a, b := gateUp.shape, down.shape
	if a.N != 2*b.K || a.K != x.Dim || b.N != y.Dim || y.N != x.N || f.From < 0 || f.To < f.From ||
		f.To > x.N {
		panic(fmt.Sprintf("cuda: rows %d to %d of (%d,%d) through gate_up %d×%d and down %d×%d "+
			"into (%d,%d)", f.From, f.To, x.N, x.Dim, a.N, a.K, b.N, b.K, y.N, y.Dim))
	}
	return networkPart{gateUp: gateUp, down: down, from: f.From}
}

// forward runs d.parts, whose rows are so many.
func (d *Device) forward(y, x kernel.Rows, rows int) {
	in, out := d.at(x), d.at(y)
	first := &d.parts[0]
	width := first.down.shape.K
	inner := d.room(scratchInner, 8*rows*width)
	act := d.room(scratchActivations, 4*rows*width)
	rowBytes := func(row, dim int) uint64 { return uint64(4 * row * dim) }
	q, lo, hi := quantised{}, x.N, 0
	for i := range d.parts {
		lo, hi = min(lo, d.parts[i].from), max(hi, d.parts[i].from+d.parts[i].n)
	}
	if first.gateUp.shape.Format.Integer() {
		q = d.quantise(in+rowBytes(lo, x.Dim), hi-lo, x.Dim)
	}
	at := 0
	for i := range d.parts {
		p := &d.parts[i]
		d.multiply(p.gateUp, inner+rowBytes(at, 2*width), in+rowBytes(p.from, x.Dim),
			q.from(p.from-lo, x.Dim), p.n)
		at += p.n
	}
	d.elements(swigluRows, rows*width, act, inner, uint64(rows*width), uint64(width))
	if first.down.shape.Format.Integer() {
		q = d.quantise(act, rows, width)
	}
	at = 0
	for i := range d.parts {
		p := &d.parts[i]
		d.multiply(p.down, out+rowBytes(p.from, y.Dim), act+rowBytes(at, width), q.from(at, width),
			p.n)
		at += p.n
	}
}
