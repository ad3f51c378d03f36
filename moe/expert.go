package moe

import (
	"errors"
	"fmt"

	"drover/kernel"
	"drover/tensor"
)

// ErrUnavailable is wrapped by an Experts' error when no live replica of an expert
// could be reached: the request may succeed later.
var ErrUnavailable = errors.New("no live replica")

// Expert is one expert's packed weights: y = down(silu(gate(x)) * up(x)), in the
// memory of a device. It never changes and is safe for concurrent use.
type Expert struct {
	gateUp kernel.Weights // (2*width, hidden): gate, then up
	down   kernel.Weights // (hidden, width)
}

// NewExpert makes an expert of its two matrices: gateUp with gate's outputs before
// up's, (2*width, hidden), and down, (hidden, width). They go to d's memory.
func NewExpert(d kernel.Device, gateUp, down *kernel.Matrix) (*Expert, error) {
	if gateUp.N != 2*down.K || gateUp.K != down.N {
		return nil, fmt.Errorf("make an expert: gate_up is %d×%d and down is %d×%d",
			gateUp.N, gateUp.K, down.N, down.K)
	}
	var e Expert
	var err error
	if e.gateUp, err = d.Upload(gateUp); err == nil {
		e.down, err = d.Upload(down)
	}
	if err != nil {
		return nil, fmt.Errorf("make an expert: %w", err)
	}
	return &e, nil
}

// Hidden is the width of the rows that the expert takes and gives.
func (e *Expert) Hidden() int {
	hidden, _ := e.down.Shape()
	return hidden
}

// Bytes is the size of the packed weights.
func (e *Expert) Bytes() int64 { return int64(e.gateUp.Bytes() + e.down.Bytes()) }

// Part returns the work of running rows from to to, without to, through the expert.
func (e *Expert) Part(from, to int) kernel.FeedForwardPart {
	return kernel.FeedForwardPart{GateUp: e.gateUp, Down: e.down, From: from, To: to}
}

// Runner runs rows of the host's memory through experts on a device. It keeps its
// memory; one Runner serves one goroutine, the device's.
type Runner struct {
	device kernel.Device
	x, y   kernel.Rows
	parts  []kernel.FeedForwardPart
}

// NewRunner returns a Runner for a device, whose experts must be in its memory.
func NewRunner(d kernel.Device) *Runner { return &Runner{device: d} }

// Forward sets y to the experts' outputs for x, (rows, hidden): experts[i] takes the
// next counts[i] rows. The rows of an expert that is nil are left undefined. The result
// is not yet rounded to a row type.
func (r *Runner) Forward(y, x tensor.Rows, experts []*Expert, counts []int32) error {
	if err := kernel.Resize(r.device, &r.x, x.N, x.Dim); err != nil {
		return fmt.Errorf("run experts: %w", err)
	}
	if err := kernel.Resize(r.device, &r.y, x.N, x.Dim); err != nil {
		return fmt.Errorf("run experts: %w", err)
	}
	r.parts = r.parts[:0]
	at := 0
	for i, e := range experts {
		n := int(counts[i])
		if e != nil {
			r.parts = append(r.parts, e.Part(at, at+n))
		}
		at += n
	}
	r.device.Write(r.x, x)
	r.device.FeedForward(r.y, r.x, r.parts)
	clear(r.parts) // experts that are dropped must not stay for it
	out, err := r.device.Read(r.y)
	if err != nil {
		return fmt.Errorf("run experts: %w", err)
	}
	copy(y.Data[:y.N*y.Dim], out.Data)
	return nil
}

// RoundRows rounds rows in place to the mode's row type.
func RoundRows(m kernel.Mode, r tensor.Rows) {
	kernel.Round(r.Data[:r.N*r.Dim], m.RowType())
}
