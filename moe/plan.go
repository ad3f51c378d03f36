package moe

import (
	"slices"

	"drover/kernel"
	"drover/tensor"
)

// Scaling says where a gate's weight enters.
type Scaling uint8

const (
	// ScaleInput multiplies the row that goes to the expert (Llama 4).
	ScaleInput Scaling = iota
	// ScaleOutput multiplies the row that comes back.
	ScaleOutput
)

// Plan groups one layer's rows by expert and puts the results back. It keeps its
// memory from layer to layer. One Plan serves one goroutine.
type Plan struct {
	// Batch is what Gather made, ready for Experts.Forward.
	Batch Batch

	rows    []int32   // for each row of the batch, the row of x that it came from
	weights []float32 // and the gate's weight
	starts  []int32   // scratch: for each expert, the next free row of the batch
	x, y    []float32
}

// Gather fills p.Batch with the rows of x, (rows, hidden), for the experts that r
// chose, expert by expert in ascending order and within an expert in order of row,
// and rounds them to the mode's row type.
func (p *Plan) Gather(layer int, x tensor.Rows, r *Routes, experts int, s Scaling, m kernel.Mode) {
	n := len(r.Experts)
	p.starts = resize(p.starts, experts+1)
	clear(p.starts)
	for _, e := range r.Experts {
		p.starts[e+1]++
	}
	b := &p.Batch
	b.Layer, b.Experts, b.Counts = layer, b.Experts[:0], b.Counts[:0]
	for e := range experts {
		if c := p.starts[e+1]; c > 0 {
			b.Experts, b.Counts = append(b.Experts, int32(e)), append(b.Counts, c)
		}
		p.starts[e+1] += p.starts[e]
	}
	p.rows, p.weights = resize(p.rows, n), resize(p.weights, n)
	p.x, p.y = resize(p.x, n*x.Dim), resize(p.y, n*x.Dim)
	b.X = tensor.Rows{Data: p.x, N: n, Dim: x.Dim}
	b.Y = tensor.Rows{Data: p.y, N: n, Dim: x.Dim}
	for i, e := range r.Experts {
		at := int(p.starts[e])
		p.starts[e]++
		p.rows[at], p.weights[at] = int32(i/r.K), r.Weights[i]
		row := b.X.Row(at)
		copy(row, x.Row(i/r.K))
		if s == ScaleInput {
			kernel.Scale(row, r.Weights[i])
		}
	}
	kernel.Round(p.x, m.RowType())
}

// Combine adds the experts' outputs to y, (rows, hidden): for each row in ascending
// order of expert, in float32 (R2).
func (p *Plan) Combine(y tensor.Rows, s Scaling) {
	for at, i := range p.rows {
		row := p.Batch.Y.Row(at)
		if s == ScaleOutput {
			kernel.Scale(row, p.weights[at])
		}
		kernel.Add(y.Row(int(i)), row)
	}
}

func resize[T any](s []T, n int) []T {
	return slices.Grow(s[:0], n)[:n]
}
