package kernel

import (
	"fmt"

	"drover/tensor"
)

// forwardRows bounds the rows that run through feed-forward networks together, and so
// the scratch memory, whatever a batch brings. Where networks have that many rows each
// they are bound by arithmetic, and reading their weights again costs little.
const forwardRows = 256

// forwardTask is feed-forward networks of one shape with forwardRows rows at most.
type forwardTask struct {
	parts       []forwardPart
	inner, act  []float32     // (rows, 2*width), (rows, width)
	rows        []Activations // of x, and then of act, for each part
	packed      []int32       // their memory
	phase       forwardPhase
	units       int // parts of outputs of a matrix, PartOutputs each but the last
	piece       int // how many of them are a piece
	piecesAPart int
}

// forwardPart is one network and its rows.
type forwardPart struct {
	gateUp, down     *Matrix
	y, x, inner, act tensor.Rows
}

type forwardPhase uint8

const (
	phaseGateUp forwardPhase = iota
	phaseDown
)

// FeedForward forks twice for each forwardRows rows, with all their networks together;
// where rows are quantised and many, four times.
func (c *CPU) FeedForward(y, x Rows, parts []FeedForwardPart) {
	t, out, in := &c.forward, view(y), view(x)
	from := 0 // of the first part that is left
	for len(parts) > 0 {
		t.parts = t.parts[:0]
		rows := 0
		for len(parts) > 0 && rows < forwardRows {
			p := &parts[0]
			gateUp, down := checkPart(p, y, x)
			left := p.To - p.From - from
			first := len(t.parts) == 0
			if !first && (left > forwardRows-rows || !t.parts[0].alike(gateUp, down)) {
				break
			}
			n := min(left, forwardRows)
			if n > 0 {
				lo := p.From + from
				t.parts = append(t.parts, forwardPart{gateUp: gateUp, down: down,
					y: out.Slice(lo, lo+n), x: in.Slice(lo, lo+n)})
			}
			rows += n
			if from += n; n == left {
				parts, from = parts[1:], 0
			}
		}
		if rows > 0 {
			c.forwardPass(rows)
		}
	}
	clear(t.parts) // they refer to nothing that is not in use
}

// checkPart returns a part's matrices.
func checkPart(p *FeedForwardPart, y, x Rows) (gateUp, down *Matrix) {
	gateUp, down = matrixOf(p.GateUp), matrixOf(p.Down)
	if gateUp.N != 2*down.K || gateUp.K != x.Dim || down.N != y.Dim || y.N != x.N ||
		p.From < 0 || p.To < p.From || p.To > x.N {
		panic(fmt.Sprintf("kernel: rows %d to %d of (%d,%d) through gate_up %d×%d and down %d×%d "+
			"into (%d,%d)", p.From, p.To, x.N, x.Dim, gateUp.N, gateUp.K, down.N, down.K, y.N, y.Dim))
	}
	return gateUp, down
}

// alike reports whether a network can be computed together with p's.
func (p *forwardPart) alike(gateUp, down *Matrix) bool {
	return p.gateUp.N == gateUp.N && p.gateUp.format == gateUp.format &&
		p.down.format == down.format
}

// forwardPass runs t.parts.
func (c *CPU) forwardPass(rows int) {
	t := &c.forward
	width := t.parts[0].down.K
	t.inner = grow(t.inner, rows*2*width)
	t.act = grow(t.act, rows*width)
	t.reserve(rows, max(width, t.parts[0].gateUp.K))
	at := 0
	var gateUp, down load
	for i := range t.parts {
		p := &t.parts[i]
		n := p.x.N
		p.inner = tensor.Rows{Data: t.inner[at*2*width : (at+n)*2*width], N: n, Dim: 2 * width}
		p.act = tensor.Rows{Data: t.act[at*width : (at+n)*width], N: n, Dim: width}
		at += n
		gateUp.add(mulNanos(p.gateUp, n))
		down.add(mulNanos(p.down, n))
		t.rows[i].Prepare(p.x, p.gateUp.format)
	}
	c.quantise(t.rows[:len(t.parts)])
	outputs := width
	if width%PartOutputs != 0 {
		outputs = 1 // gate's and up's outputs cannot be cut alike
	}
	c.forwardPhase(phaseGateUp, gateUp, outputs)
	for i := range t.parts {
		t.rows[i].Prepare(t.parts[i].act, t.parts[i].down.format)
	}
	c.quantise(t.rows[:len(t.parts)])
	c.forwardPhase(phaseDown, down, t.parts[0].down.N)
}

// reserve gives each part's prepared rows their piece of memory, so that the memory of
// all is bounded and not that of each. Rows of a part have k inputs at most.
func (t *forwardTask) reserve(rows, k int) {
	rowWords := (k + groupInputs - 1) / groupInputs * mostRowWords
	t.packed = grow(t.packed, rows*rowWords)
	for len(t.rows) < len(t.parts) {
		t.rows = append(t.rows, Activations{})
	}
	at := 0
	for i := range t.parts {
		n := t.parts[i].x.N * rowWords
		t.rows[i].packed = t.packed[at : at : at+n]
		at += n
	}
}

// load is an estimate of the time of all parts' products, and of the longest.
type load struct{ nanos, longest int }

func (l *load) add(nanos int) {
	l.nanos += nanos
	l.longest = max(l.longest, nanos)
}

// forwardPhase multiplies all parts with one of their matrices, each cut alike: so that
// the pieces of the longest are as long as they are to be.
func (c *CPU) forwardPhase(phase forwardPhase, l load, outputs int) {
	t := &c.forward
	t.phase, t.units = phase, units(outputs)
	pieces := c.cut(l.nanos, len(t.parts)*t.units)
	if pieces == 1 {
		for i := range t.parts {
			t.multiply(i, 0, t.units)
		}
		return
	}
	t.piece = max(t.units*l.nanos/(l.longest*pieces), 1)
	t.piecesAPart = (t.units + t.piece - 1) / t.piece
	c.run(t.piecesAPart*len(t.parts), t)
}

// Do does a piece.
func (t *forwardTask) Do(_, i int) {
	lo := i % t.piecesAPart * t.piece
	t.multiply(i/t.piecesAPart, lo, min(lo+t.piece, t.units))
}

// multiply computes units lo to hi of a part's outputs.
func (t *forwardTask) multiply(part, lo, hi int) {
	p, rows := &t.parts[part], &t.rows[part]
	lo, hi = lo*PartOutputs, hi*PartOutputs
	if t.phase == phaseDown {
		p.down.MulPart(p.y, rows, lo, min(hi, p.down.N))
		return
	}
	width := p.down.K
	if width%PartOutputs != 0 {
		hi = width
		p.gateUp.MulPart(p.inner, rows, 0, 2*width)
	} else {
		p.gateUp.MulPart(p.inner, rows, lo, hi)
		p.gateUp.MulPart(p.inner, rows, width+lo, width+hi)
	}
	for i := range p.x.N {
		inner := p.inner.Row(i)
		swiGLU(p.act.Row(i)[lo:hi], inner[lo:hi], inner[width+lo:width+hi])
	}
}
