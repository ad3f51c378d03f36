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

// quantise queues the quantisation of rows to scratch memory, which the next one takes.
func (d *Device) quantise(x uint64, rows, inputs int) quantised {
	n := rows * inputGroups(inputs)
	q := quantised{d.room(scratchCodes, groupInputs*n), d.room(scratchScales, 4*n)}
	d.elements(quantiseRows, n, q.codes, q.scales, x, uint64(rows), uint64(inputs))
	return q
}

// multiply queues y = x wᵀ. Of x, q are the codes where w needs them.
func (d *Device) multiply(w *weights, y, x uint64, q quantised, rows int) {
	d.hold(w)
	if rows <= fewRows || w.shape.Format.Integer() {
		k := panelKernelOf(w.shape.Format, rows, 1)
		d.panels = k.addPanels(d.panels[:0], w.memory.At(0), 0, rows)
		d.multiplyPanels(k, w.shape, y, x, q)
		return
	}
	plain, n, inputs := mulF32, w.shape.N, w.shape.K
	if w.shape.Format == kernel.WeightsBF16 {
		plain = mulBF16
	}
	for rows > 0 {
		now := min(rows, mostPanels*mulRows)
		grid := Grid{uint32((n + mulOutputs - 1) / mulOutputs), uint32((now + mulRows - 1) / mulRows),
			mulOutputs}
		d.launch(plain, grid, y, x, w.memory.At(0), uint64(now), uint64(n), uint64(inputs))
		y, x, rows = y+uint64(4*now*n), x+uint64(4*now*inputs), rows-now
	}
}

// multiplyPanels queues the products of d.panels.
func (d *Device) multiplyPanels(k *panelKernel, s kernel.Shape, y, x uint64, q quantised) {
	grid, panels := k.grid(len(d.panels), s.N), d.argument(memoryOf(d.panels))
	if s.Format.Integer() {
		d.launch(k.kernel, grid, y, q.codes, q.scales, panels, uint64(s.N), uint64(s.K))
	} else {
		d.launch(k.kernel, grid, y, x, panels, uint64(s.N), uint64(s.K))
	}
}

// Mul quantises the rows once for all products that need it.
func (d *Device) Mul(x kernel.Rows, products []kernel.Product) {
	d.begin()
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
	from, to     int // rows of x and y, without to
}

// alike reports whether two networks' products have one shape and format.
func (p *networkPart) alike(q *networkPart) bool {
	return p.down.shape.K == q.down.shape.K && p.gateUp.shape.Format == q.gateUp.shape.Format &&
		p.down.shape.Format == q.down.shape.Format
}

// networks are parts that go through together, and the rows that they lie in.
type networks struct {
	parts  []networkPart
	lo, hi int // without hi
}

// room is how many rows from a row on may go through with the others.
func (n *networks) room(from int) int {
	if len(n.parts) == 0 {
		return networkRows
	}
	if from < n.lo && n.hi-from <= networkRows {
		return n.lo - from
	} else if from < n.lo {
		return 0
	}
	return networkRows - (from - n.lo)
}

func (n *networks) add(p networkPart) {
	if len(n.parts) == 0 {
		n.lo, n.hi = p.from, p.to
	}
	n.parts, n.lo, n.hi = append(n.parts, p), min(n.lo, p.from), max(n.hi, p.to)
}

// FeedForward runs neighbouring networks of one shape together: a launch for each of their
// products.
func (d *Device) FeedForward(y, x kernel.Rows, parts []kernel.FeedForwardPart) {
	n := &d.networks
	n.parts = n.parts[:0]
	for i := range parts {
		p := d.part(&parts[i], y, x)
		for p.from < parts[i].To {
			if len(n.parts) > 0 && (n.room(p.from) < 1 || !n.parts[0].alike(&p)) {
				d.forward(y, x)
				n.parts = n.parts[:0]
			}
			p.to = min(parts[i].To, p.from+n.room(p.from))
			n.add(p)
			p.from = p.to
		}
	}
	if len(n.parts) > 0 {
		d.forward(y, x)
	}
	d.submit()     // it is worth beginning with
	clear(n.parts) // they refer to nothing that is not in use
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

// forward runs d.networks. Rows between those of its parts go through the element-wise
// kernels, too, and are nobody's.
func (d *Device) forward(y, x kernel.Rows) {
	d.begin()
	n := &d.networks
	first, rows := &n.parts[0], n.hi-n.lo
	width := first.down.shape.K
	in, out := d.at(x)+uint64(4*n.lo*x.Dim), d.at(y)+uint64(4*n.lo*y.Dim)
	inner := d.room(scratchInner, 8*rows*width)
	act := d.room(scratchActivations, 4*rows*width)
	q := quantised{}
	if first.gateUp.shape.Format.Integer() {
		q = d.quantise(in, rows, x.Dim)
	}
	d.multiplyParts(inner, in, q, func(p *networkPart) *weights { return p.gateUp })
	d.elements(swigluRows, rows*width, act, inner, uint64(rows*width), uint64(width))
	if first.down.shape.Format.Integer() {
		q = d.quantise(act, rows, width)
	}
	d.multiplyParts(out, act, q, func(p *networkPart) *weights { return p.down })
}

// multiplyParts queues the products of d.networks with one of each part's matrices.
func (d *Device) multiplyParts(y, x uint64, q quantised, of func(p *networkPart) *weights) {
	n := &d.networks
	shape, rows := of(&n.parts[0]).shape, 0
	for _, p := range n.parts {
		rows += p.to - p.from
	}
	k := panelKernelOf(shape.Format, rows, len(n.parts))
	d.panels = d.panels[:0]
	for i := range n.parts {
		p := &n.parts[i]
		w := of(p)
		d.hold(w)
		d.panels = k.addPanels(d.panels, w.memory.At(0), p.from-n.lo, p.to-n.lo)
	}
	d.multiplyPanels(k, shape, y, x, q)
}
