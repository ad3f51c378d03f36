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

// Expert is one expert's packed weights: y = down(silu(gate(x)) * up(x)).
// It never changes and is safe for concurrent use.
type Expert struct {
	gateUp *kernel.Matrix // (2*width, hidden): gate, then up
	down   *kernel.Matrix // (hidden, width)
}

// NewExpert makes an expert of its two matrices: gateUp with gate's outputs before
// up's, (2*width, hidden), and down, (hidden, width).
func NewExpert(gateUp, down *kernel.Matrix) (*Expert, error) {
	if gateUp.N != 2*down.K || gateUp.K != down.N {
		return nil, fmt.Errorf("make an expert: gate_up is %d×%d and down is %d×%d",
			gateUp.N, gateUp.K, down.N, down.K)
	}
	return &Expert{gateUp: gateUp, down: down}, nil
}

// Hidden is the width of the rows that the expert takes and gives.
func (e *Expert) Hidden() int { return e.down.N }

// Bytes is the size of the packed weights.
func (e *Expert) Bytes() int64 { return int64(e.gateUp.Bytes() + e.down.Bytes()) }

// tileRows bounds the rows that run through an expert together, and so the memory
// of a Scratch, whatever a batch brings.
const tileRows = 64

// Scratch is the memory of one Forward; it grows to the widest expert. One Scratch
// serves one goroutine.
type Scratch struct {
	inner, act []float32
}

// Forward sets y to the expert's output for x; both are (rows, hidden). The result
// is not yet rounded to a row type.
func (e *Expert) Forward(y, x tensor.Rows, s *Scratch) {
	width := e.down.K
	s.inner = resize(s.inner, tileRows*2*width)
	s.act = resize(s.act, tileRows*width)
	for lo := 0; lo < x.N; lo += tileRows {
		hi := min(lo+tileRows, x.N)
		n := hi - lo
		inner := tensor.Rows{Data: s.inner[:n*2*width], N: n, Dim: 2 * width}
		act := tensor.Rows{Data: s.act[:n*width], N: n, Dim: width}
		e.gateUp.Mul(inner, x.Slice(lo, hi))
		kernel.SwiGLU(act, inner)
		e.down.Mul(y.Slice(lo, hi), act)
	}
}

// RoundRows rounds rows in place to the mode's row type.
func RoundRows(m kernel.Mode, r tensor.Rows) {
	kernel.Round(r.Data[:r.N*r.Dim], m.RowType())
}
