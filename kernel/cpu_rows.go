package kernel

import (
	"fmt"
	"math"

	"drover/tensor"
)

// rowTask is an operation on rows, cut by rows, or by columns for scatter.
type rowTask struct {
	kind         rowKind
	y, x, a, b   tensor.Rows
	table        *cpuTable
	eps          float64
	form         RotaryForm
	pick         Picks
	tokens       []int32
	dtype        tensor.DType
	units, piece int // how many rows or columns there are, and how many are a piece
}

type rowKind uint8

const (
	rowEmbed rowKind = iota
	rowNorm
	rowRotate
	rowScale
	rowAdd
	rowGather
	rowScatter
)

// rowNanos estimates the time of an operation for 16 elements, in nanoseconds.
var rowNanos = [...]int{rowEmbed: 2, rowNorm: 4, rowRotate: 4, rowScale: 2, rowAdd: 3,
	rowGather: 8, rowScatter: 4}

// columnUnit is the number of columns that scatter does not cut.
const columnUnit = 64

// runRows runs a task over units rows or columns of some elements together. What needs
// no other thread runs where it is, as most do in decode.
func (c *CPU) runRows(t *rowTask, units, elements int) {
	if elements == 0 {
		return
	}
	pieces := c.cut(elements/16*rowNanos[t.kind], units)
	if pieces == 1 {
		t.do(0, units)
		return
	}
	c.rows = *t
	c.rows.units, c.rows.piece = units, (units+pieces-1)/pieces
	c.run((units+c.rows.piece-1)/c.rows.piece, &c.rows)
	c.rows = rowTask{} // it refers to nothing that is not in use
}

// Do does a piece.
func (t *rowTask) Do(_, i int) { t.do(i*t.piece, min((i+1)*t.piece, t.units)) }

// do does rows, or units of columns, lo to hi.
func (t *rowTask) do(lo, hi int) {
	switch t.kind {
	case rowEmbed:
		t.table.rows(t.y.Slice(lo, hi), t.tokens[lo:hi])
	case rowNorm:
		RMSNorm(t.y.Slice(lo, hi), t.x.Slice(lo, hi), t.a.Data, t.eps)
	case rowRotate:
		t.rotate(lo, hi)
	case rowScale:
		for j := lo; j < hi; j++ {
			Scale(t.y.Row(j), t.a.Data[j])
		}
	case rowAdd:
		Add(t.y.Slice(lo, hi).Data, t.x.Slice(lo, hi).Data)
	case rowGather:
		t.gather(lo, hi)
	default:
		t.scatter(lo*columnUnit, min(hi*columnUnit, t.y.Dim))
	}
}

// rows sets x to the embeddings of tokens.
func (t *cpuTable) rows(x tensor.Rows, tokens []int32) {
	size := t.Dim * t.DType.Size()
	for i, token := range tokens {
		raw, dst := t.Data[int(token)*size:(int(token)+1)*size], x.Row(i)
		switch t.DType {
		case tensor.BF16:
			WidenBF16(dst, raw)
		case tensor.F16:
			for j := range dst {
				dst[j] = tensor.F16ToFloat32(uint16(raw[2*j]) | uint16(raw[2*j+1])<<8)
			}
		default:
			for j := range dst {
				dst[j] = math.Float32frombits(uint32(raw[4*j]) | uint32(raw[4*j+1])<<8 |
					uint32(raw[4*j+2])<<16 | uint32(raw[4*j+3])<<24)
			}
		}
	}
}

func (t *rowTask) rotate(lo, hi int) {
	for j := lo; j < hi; j++ {
		if t.form == RotaryHalves {
			RotateHalves(t.y.Row(j), t.a.Row(j), t.b.Row(j))
		} else {
			RotatePairs(t.y.Row(j), t.a.Row(j), t.b.Row(j))
		}
	}
}

func (t *rowTask) gather(lo, hi int) {
	for j := lo; j < hi; j++ {
		row := t.y.Row(j)
		copy(row, t.x.Row(int(t.pick.Rows[j])))
		if t.pick.Weights != nil {
			Scale(row, t.pick.Weights[j])
		}
		Round(row, t.dtype)
	}
}

// scatter adds columns lo to hi.
func (t *rowTask) scatter(lo, hi int) {
	for j, to := range t.pick.Rows {
		row := t.x.Row(j)[lo:hi]
		if t.pick.Weights != nil {
			Scale(row, t.pick.Weights[j])
		}
		Add(t.y.Row(int(to))[lo:hi], row)
	}
}

// Embed looks tokens up.
func (c *CPU) Embed(x Rows, table Table, tokens []int32) {
	embeddings, ok := table.(*cpuTable)
	if !ok || x.N != len(tokens) || x.Dim != embeddings.Dim {
		panic(fmt.Sprintf("kernel: embeddings of %d tokens from %T into (%d,%d)",
			len(tokens), table, x.N, x.Dim))
	}
	t := rowTask{kind: rowEmbed, y: view(x), table: embeddings, tokens: tokens}
	c.runRows(&t, x.N, x.N*x.Dim)
}

// Norm is RMSNorm.
func (c *CPU) Norm(y, x, weight Rows, eps float64) {
	if y.N != x.N || y.Dim != x.Dim || weight.N > 1 || weight.N == 1 && weight.Dim != x.Dim {
		panic(fmt.Sprintf("kernel: norm of (%d,%d) with weight (%d,%d) into (%d,%d)",
			x.N, x.Dim, weight.N, weight.Dim, y.N, y.Dim))
	}
	t := rowTask{kind: rowNorm, y: view(y), x: view(x), a: view(weight), eps: eps}
	c.runRows(&t, x.N, x.N*x.Dim)
}

// Rotate is RotatePairs or RotateHalves.
func (c *CPU) Rotate(x, cos, sin Rows, form RotaryForm) {
	if cos.N != x.N || sin.N != x.N || sin.Dim != cos.Dim || cos.Dim < 1 || x.Dim%(2*cos.Dim) != 0 {
		panic(fmt.Sprintf("kernel: (%d,%d) rotated by (%d,%d) and (%d,%d)",
			x.N, x.Dim, cos.N, cos.Dim, sin.N, sin.Dim))
	}
	t := rowTask{kind: rowRotate, y: view(x), a: view(cos), b: view(sin), form: form}
	c.runRows(&t, x.N, x.N*x.Dim)
}

// ScaleRows multiplies rows by factors.
func (c *CPU) ScaleRows(x, factors Rows) {
	if factors.N != x.N || factors.Dim != 1 {
		panic(fmt.Sprintf("kernel: %d rows scaled by (%d,%d)", x.N, factors.N, factors.Dim))
	}
	t := rowTask{kind: rowScale, y: view(x), a: view(factors)}
	c.runRows(&t, x.N, x.N*x.Dim)
}

// Add sets y += x.
func (c *CPU) Add(y, x Rows) {
	if y.N != x.N || y.Dim != x.Dim {
		panic(fmt.Sprintf("kernel: (%d,%d) added to (%d,%d)", x.N, x.Dim, y.N, y.Dim))
	}
	t := rowTask{kind: rowAdd, y: view(y), x: view(x)}
	c.runRows(&t, x.N, x.N*x.Dim)
}

// check refuses picks that do not have a number, and a weight, for each of n rows.
func (p *Picks) check(n int) {
	if len(p.Rows) != n || p.Weights != nil && len(p.Weights) != n {
		panic(fmt.Sprintf("kernel: %d rows and %d weights are picked for %d rows",
			len(p.Rows), len(p.Weights), n))
	}
}

// Gather copies rows.
func (c *CPU) Gather(y, x Rows, pick Picks, d tensor.DType) {
	if pick.check(y.N); y.Dim != x.Dim {
		panic(fmt.Sprintf("kernel: rows of %d gathered into rows of %d", x.Dim, y.Dim))
	}
	t := rowTask{kind: rowGather, y: view(y), x: view(x), pick: pick, dtype: d}
	c.runRows(&t, y.N, y.N*y.Dim)
}

// Scatter adds rows.
func (c *CPU) Scatter(y, x Rows, pick Picks) {
	if pick.check(x.N); y.Dim != x.Dim {
		panic(fmt.Sprintf("kernel: rows of %d scattered over rows of %d", x.Dim, y.Dim))
	}
	t := rowTask{kind: rowScatter, y: view(y), x: view(x), pick: pick}
	c.runRows(&t, (y.Dim+columnUnit-1)/columnUnit, x.N*x.Dim)
}
