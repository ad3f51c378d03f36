package kernel

import (
	"fmt"
)

// units is the number of parts of outputs that a product can be cut into.
func units(outputs int) int { return (outputs + PartOutputs - 1) / PartOutputs }

// arithmeticOf numbers the kinds of prepared rows: rows prepared for one format serve
// all formats of its kind.
func arithmeticOf(f Format) int {
	switch f {
	case WeightsInt8:
		return 1
	case WeightsInt4:
		return 2
	}
	return 0
}

// mulTask is the products of Mul.
type mulTask struct {
	products []Product
	rows     [3]Activations // the same rows, by arithmeticOf
	piece    int            // parts of outputs in a piece
}

// Mul prepares the rows once for all products and cuts all of them together.
func (c *CPU) Mul(x Rows, products []Product) {
	t, in := &c.mul, view(x)
	if x.N == 0 {
		return
	}
	nanos, parts := 0, 0
	prepared := [len(t.rows)]bool{}
	for i := range products {
		p := &products[i]
		m := matrixOf(p.W)
		if m.K != x.Dim || p.Y.N != x.N || p.Y.Dim != m.N {
			panic(fmt.Sprintf("kernel: (%d,%d) × %d×%d matrix into (%d,%d)", x.N, x.Dim, m.N, m.K,
				p.Y.N, p.Y.Dim))
		}
		nanos += mulNanos(m, x.N)
		parts += units(m.N)
		if kind := arithmeticOf(m.format); !prepared[kind] {
			prepared[kind] = true
			t.rows[kind].Prepare(in, m.format)
			c.quantise(t.rows[kind : kind+1])
		}
	}
	if parts == 0 {
		return
	}
	t.products = products
	pieces := c.cut(nanos, parts)
	t.piece = (parts + pieces - 1) / pieces
	c.run(t.count(), t)
	t.products = nil
}

// count returns the number of pieces, none of which has outputs of two products.
func (t *mulTask) count() int {
	n := 0
	for i := range t.products {
		n += (units(t.products[i].Y.Dim) + t.piece - 1) / t.piece
	}
	return n
}

// Do does a piece.
func (t *mulTask) Do(_, i int) {
	for j := range t.products {
		p := &t.products[j]
		n := (units(p.Y.Dim) + t.piece - 1) / t.piece
		if i < n {
			m, outputs := matrixOf(p.W), t.piece*PartOutputs
			m.MulPart(view(p.Y), &t.rows[arithmeticOf(m.format)], i*outputs,
				min((i+1)*outputs, m.N))
			return
		}
		i -= n
	}
}

// quantiseTask quantises prepared rows.
type quantiseTask struct {
	rows  []Activations
	piece int // rows in a piece
}

// quantise quantises rows that are prepared for one format.
func (c *CPU) quantise(rows []Activations) {
	if !rows[0].format.Integer() {
		return
	}
	const elementsPerNano = 2
	n, elements := 0, 0
	for i := range rows {
		n += rows[i].x.N
		elements += rows[i].x.N * rows[i].x.Dim
	}
	t := &c.quantising
	t.rows = rows
	pieces := c.cut(elements/elementsPerNano, n)
	t.piece = (n + pieces - 1) / pieces
	pieces = 0
	for i := range rows {
		pieces += (rows[i].x.N + t.piece - 1) / t.piece
	}
	c.run(pieces, t)
	t.rows = nil
}

// Do does a piece.
func (t *quantiseTask) Do(_, i int) {
	for j := range t.rows {
		a := &t.rows[j]
		n := (a.x.N + t.piece - 1) / t.piece
		if i < n {
			a.Quantise(i*t.piece, min((i+1)*t.piece, a.x.N))
			return
		}
		i -= n
	}
}
