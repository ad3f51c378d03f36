package moe

import (
	"fmt"
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
// memory from layer to layer. One Plan serves one goroutine, its device's.
type Plan struct {
	// Batch is what Gather made, ready for Experts.Forward.
	Batch Batch

	device  kernel.Device
	experts int // in a layer
	scaling Scaling
	dtype   tensor.DType // to which rows are rounded
	rows    []int32      // for each row of the batch, the row of x that it came from
	weights []float32    // and the gate's weight
	starts  []int32      // scratch: for each expert, the next free row of the batch
	x, y    kernel.Rows  // of the batch, in the device's memory
	results []float32    // of the batch, in the host's
	early   bool         // the host gathers, from rows that Start began to read
	rounded []float32    // what it gathers
}

// fewRows is how many rows the host gathers itself where the device computes beside it:
// that is less than asking the device once more.
const fewRows = 16

// NewPlan returns a Plan for layers of so many experts, whose rows are in d's memory
// and travel as the mode says.
func NewPlan(d kernel.Device, experts int, s Scaling, m kernel.Mode) *Plan {
	return &Plan{device: d, experts: experts, scaling: s, dtype: m.RowType()}
}

// Start may be called with the rows of Gather before their routes are known. Then few rows of a
// device with memory of its own come to the host together with what decides on the routes.
func (p *Plan) Start(x kernel.Rows) {
	p.early = p.device.Ahead() > 0 && x.N <= fewRows
	if p.early {
		p.device.StartRead(x)
	}
}

// Gather fills p.Batch with the rows of x, (rows, hidden), for the experts that r
// chose, expert by expert in ascending order and within an expert in order of row,
// and rounds them to the mode's row type.
func (p *Plan) Gather(layer int, x kernel.Rows, r *Routes) error {
	n := len(r.Experts)
	p.sort(layer, r)
	pick := kernel.Picks{Rows: p.rows}
	if p.scaling == ScaleInput {
		pick.Weights = p.weights
	}
	var err error
	if p.early {
		p.early = false
		p.Batch.X, err = p.gatherHere(x, pick)
	} else {
		p.Batch.X, err = p.gather(x, pick)
	}
	if err != nil {
		return fmt.Errorf("gather rows: %w", err)
	}
	p.results = resize(p.results, n*x.Dim)
	p.Batch.Y = tensor.Rows{Data: p.results, N: n, Dim: x.Dim}
	return nil
}

// gather lets the device gather rows of x.
func (p *Plan) gather(x kernel.Rows, pick kernel.Picks) (tensor.Rows, error) {
	if err := kernel.Resize(p.device, &p.x, len(pick.Rows), x.Dim); err != nil {
		return tensor.Rows{}, err
	}
	p.device.Gather(p.x, x, pick, p.dtype)
	return p.device.Read(p.x)
}

// gatherHere does what a device's Gather does, on the host.
func (p *Plan) gatherHere(x kernel.Rows, pick kernel.Picks) (tensor.Rows, error) {
	all, err := p.device.Read(x)
	if err != nil {
		return tensor.Rows{}, err
	}
	p.rounded = resize(p.rounded, len(pick.Rows)*x.Dim)
	out := tensor.Rows{Data: p.rounded, N: len(pick.Rows), Dim: x.Dim}
	for i, row := range pick.Rows {
		copy(out.Row(i), all.Row(int(row)))
		if pick.Weights != nil {
			kernel.Scale(out.Row(i), pick.Weights[i])
		}
	}
	kernel.Round(out.Data, p.dtype)
	return out, nil
}

// sort decides which row of the batch comes from where.
func (p *Plan) sort(layer int, r *Routes) {
	n := len(r.Experts)
	p.starts = resize(p.starts, p.experts+1)
	clear(p.starts)
	for _, e := range r.Experts {
		p.starts[e+1]++
	}
	b := &p.Batch
	b.Layer, b.Experts, b.Counts = layer, b.Experts[:0], b.Counts[:0]
	for e := range p.experts {
		if c := p.starts[e+1]; c > 0 {
			b.Experts, b.Counts = append(b.Experts, int32(e)), append(b.Counts, c)
		}
		p.starts[e+1] += p.starts[e]
	}
	p.rows, p.weights = resize(p.rows, n), resize(p.weights, n)
	for i, e := range r.Experts {
		at := p.starts[e]
		p.starts[e]++
		p.rows[at], p.weights[at] = int32(i/r.K), r.Weights[i]
	}
}

// Combine adds the experts' outputs to y, (rows, hidden): for each row in ascending
// order of expert, in float32 (R2).
func (p *Plan) Combine(y kernel.Rows) error {
	if err := kernel.Resize(p.device, &p.y, p.Batch.Y.N, p.Batch.Y.Dim); err != nil {
		return fmt.Errorf("combine rows: %w", err)
	}
	pick := kernel.Picks{Rows: p.rows}
	if p.scaling == ScaleOutput {
		pick.Weights = p.weights
	}
	p.device.Write(p.y, p.Batch.Y)
	p.device.Scatter(y, p.y, pick)
	return nil
}

func resize[T any](s []T, n int) []T {
	return slices.Grow(s[:0], n)[:n]
}
