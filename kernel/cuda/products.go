//go:build cuda && linux

package cuda

import (
	"fmt"

	"drover/kernel"
)

const (
	// mostPanels is the most that a grid has in its second direction.
	mostPanels = 65535
	// groupInputs is the number of inputs of a group: weights of 8 bits share a scale.
	groupInputs = 64
	// spanGroups is the number of groups of a row that share a scale, a span, and spanThreads that
	// of threads that quantise one.
	spanGroups, spanThreads = 4, 32
	// halvesInputs is the number of inputs that a row in halves has a multiple of.
	halvesInputs = 32
)

// weightsOf returns weights that are this device's.
func (d *Device) weightsOf(w kernel.Weights) *weights {
	own, ok := w.(*weights)
	must(ok && own.device == d, "weights of type %T are not this device's", w)
	return own
}

// operand is rows as products of a format take them.
type operand struct {
	rows          uint64 // of float32; halves for products that take those
	codes, scales uint64 // int8 and their scales, where the format has integers
	words         wordOrder
}

func inputGroups(inputs int) int { return (inputs + groupInputs - 1) / groupInputs }

// quantiseThreads is the number of threads that quantise rows.
func quantiseThreads(rows, inputs int) int {
	return rows * ((inputGroups(inputs) + spanGroups - 1) / spanGroups) * spanThreads
}

// splits reports whether rows are split into halves, two bfloat16 for each number, for products
// with weights of a format.
func (d *Device) splits(f kernel.Format) bool {
	return d.kind == TensorKind && len(tensorKernels[f]) > 0
}

// splitWords is how many words of two numbers rows in halves have, of each half.
func splitWords(rows, inputs int) int {
	return rows * ((inputs + halvesInputs - 1) / halvesInputs) * (halvesInputs / 2)
}

// operand queues what makes rows ready for products with weights of a format by a kernel that
// takes words in an order, in scratch memory, which the next rows take.
func (d *Device) operand(f kernel.Format, words wordOrder, x uint64, rows, inputs int) operand {
	switch n := rows * inputGroups(inputs); {
	case f.Integer():
		o := operand{codes: d.room(scratchCodes, groupInputs*n), scales: d.room(scratchScales, 4*n),
			words: words}
		d.elements(quantiseRows, quantiseThreads(rows, inputs), o.codes, o.scales, x, uint64(rows),
			uint64(inputs), uint64(words))
		return o
	case d.splits(f):
		n := splitWords(rows, inputs)
		o := operand{rows: d.room(scratchHalves, 2*4*n), words: words}
		d.elements(splitRows, n, o.rows, x, uint64(rows), uint64(inputs), uint64(words))
		return o
	}
	return operand{rows: x}
}

// multiply queues y = x wᵀ.
func (d *Device) multiply(w *weights, y uint64, o operand, rows int) {
	d.hold(w)
	f := w.shape.Format
	if rows <= fewRows || d.panelsOnly(f) {
		k := d.panelKernelOf(f, rows, 1)
		d.panels = k.addPanels(d.panels[:0], w.memory.At(0), 0, rows)
		d.multiplyPanels(k, w.shape, y, o)
		return
	}
	x, n, inputs := o.rows, w.shape.N, w.shape.K
	for rows > 0 {
		now := min(rows, mostPanels*mulRows)
		d.launch(plainKernels[f], plainGrid(now, n), y, x, w.memory.At(0), uint64(now), uint64(n),
			uint64(inputs))
		y, x, rows = y+uint64(4*now*n), x+uint64(4*now*inputs), rows-now
	}
}

// multiplyPanels queues the products of d.panels.
func (d *Device) multiplyPanels(k *panelKernel, s kernel.Shape, y uint64, o operand) {
	grid, panels := k.grid(len(d.panels), s.N), d.argument(memoryOf(d.panels))
	if s.Format.Integer() {
		d.launch(k.kernel, grid, y, o.codes, o.scales, panels, uint64(s.N), uint64(s.K))
	} else {
		d.launch(k.kernel, grid, y, o.rows, panels, uint64(s.N), uint64(s.K))
	}
}

// Mul makes the rows ready once for all products that need them in the same way.
func (d *Device) Mul(x kernel.Rows, products []kernel.Product) {
	d.begin()
	for i := range products {
		p := &products[i]
		w := d.weightsOf(p.W)
		must(w.shape.K == x.Dim && p.Y.N == x.N && p.Y.Dim == w.shape.N,
			"(%d,%d) × %d×%d matrix into (%d,%d)", x.N, x.Dim, w.shape.N, w.shape.K, p.Y.N, p.Y.Dim)
	}
	if x.N == 0 {
		return
	}
	in := d.at(x)
	codes, rows := operand{}, operand{} // of integers, and of floats on tensor cores
	for i := range products {
		w := d.weightsOf(products[i].W)
		o, f := &rows, w.shape.Format
		switch {
		case f.Integer():
			o = &codes
		case !d.splits(f):
			o = &operand{rows: in}
		}
		if words := d.panelKernelOf(f, x.N, 1).words; *o == (operand{}) || o.words != words {
			*o = d.operand(f, words, in, x.N, x.Dim)
		}
		d.multiply(w, d.at(products[i].Y), *o, x.N)
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
	d.multiplyParts(inner, in, func(p *networkPart) *weights { return p.gateUp })
	d.elements(swigluRows, rows*width, act, inner, uint64(rows*width), uint64(width))
	d.multiplyParts(out, act, func(p *networkPart) *weights { return p.down })
}

// multiplyParts queues the products of d.networks with one of each part's matrices, of x from
// their first row on.
func (d *Device) multiplyParts(y, x uint64, of func(p *networkPart) *weights) {
	n := &d.networks
	shape, rows := of(&n.parts[0]).shape, 0
	for _, p := range n.parts {
		rows += p.to - p.from
	}
	k := d.panelKernelOf(shape.Format, rows, len(n.parts))
	o := d.operand(shape.Format, k.words, x, n.hi-n.lo, shape.K)
	d.panels = d.panels[:0]
	for i := range n.parts {
		p := &n.parts[i]
		w := of(p)
		d.hold(w)
		d.panels = k.addPanels(d.panels, w.memory.At(0), p.from-n.lo, p.to-n.lo)
	}
	d.multiplyPanels(k, shape, y, o)
}
