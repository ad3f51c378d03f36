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
// memory; one Runner serves one goroutine at a time, the device's.
type Runner struct {
	device kernel.Device
	alone  Pass   // of Forward
	passes []Pass // of Begin, by turns
	next   int
	parts  []kernel.FeedForwardPart
}

// Pass is rows on their way through experts.
type Pass struct {
	x, y    kernel.Rows
	arrival kernel.Arrival // nil if there is none under way
}

// Wait waits until End will not. Another goroutine may use the Runner meanwhile.
func (p *Pass) Wait() { _ = p.arrival.Wait() } // End tells what went wrong

// NewRunner returns a Runner for a device, whose experts must be in its memory.
func NewRunner(d kernel.Device) *Runner {
	return &Runner{device: d, passes: make([]Pass, d.Ahead())}
}

// Forward sets y to the experts' outputs for x, (rows, hidden): experts[i] takes the
// next counts[i] rows. The rows of an expert that is nil are left undefined. The result
// is not yet rounded to a row type.
func (r *Runner) Forward(y, x tensor.Rows, experts []*Expert, counts []int32) error {
	if err := r.queue(&r.alone, x, experts, counts); err != nil {
		return err
	}
	return r.read(&r.alone, y)
}

// Begin begins a Forward that End ends, of the device's Ahead at most that are under way. They
// end in the order in which they began.
func (r *Runner) Begin(x tensor.Rows, experts []*Expert, counts []int32) (*Pass, error) {
	p := &r.passes[r.next]
	if p.arrival != nil {
		panic("moe: more passes under way than the device allows")
	}
	if err := r.queue(p, x, experts, counts); err != nil {
		return nil, err
	}
	p.arrival = r.device.StartRead(p.y)
	r.next = (r.next + 1) % len(r.passes)
	return p, nil
}

// End waits for a pass and sets y to the experts' outputs.
func (r *Runner) End(p *Pass, y tensor.Rows) error {
	p.arrival = nil
	return r.read(p, y)
}

func (r *Runner) queue(p *Pass, x tensor.Rows, experts []*Expert, counts []int32) error {
	if err := kernel.Resize(r.device, &p.x, x.N, x.Dim); err != nil {
		return fmt.Errorf("run experts: %w", err)
	}
	if err := kernel.Resize(r.device, &p.y, x.N, x.Dim); err != nil {
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
	r.device.Write(p.x, x)
	r.device.FeedForward(p.y, p.x, r.parts)
	clear(r.parts) // experts that are dropped must not stay for it
	return nil
}

func (r *Runner) read(p *Pass, y tensor.Rows) error {
	out, err := r.device.Read(p.y)
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
