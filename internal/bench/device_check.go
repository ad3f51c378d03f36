package bench

import (
	"math"

	"drover/kernel"
	"drover/kernel/cuda"
	"drover/tensor"
)

// expertCheck compares rows through an expert on a device with those through it on a CPU.
type expertCheck struct {
	device kernel.Device
	part   kernel.FeedForwardPart // the expert on the device
	up     *kernel.Matrix
	down   *kernel.Matrix
}

// differs returns how far results are from a CPU's, relative to the largest number of its: of the
// first and of the last of m rows, since a row depends on nothing beside it. 0 means the same
// bytes.
func (c *expertCheck) differs(y, x kernel.Rows, m int) (float64, error) {
	p := c.part
	p.To = m
	c.device.FeedForward(y, x, []kernel.FeedForwardPart{p})
	got, err := c.device.Read(y)
	if err != nil {
		return 0, err
	}
	some := rowsOfEnds(got)
	in, err := c.device.Read(x)
	if err != nil {
		return 0, err
	}
	want, err := c.onCPU(rowsOfEnds(in))
	if err != nil {
		return 0, err
	}
	return difference(some, want), nil
}

// rowsOfEnds copies the first and the last row.
func rowsOfEnds(x tensor.Rows) tensor.Rows {
	ends := tensor.MakeRows(min(x.N, 2), x.Dim)
	for i := range ends.N {
		copy(ends.Row(i), x.Row(i*(x.N-1)))
	}
	return ends
}

func (c *expertCheck) onCPU(x tensor.Rows) (tensor.Rows, error) {
	cpu := kernel.NewCPU(nil)
	part := kernel.FeedForwardPart{To: x.N}
	var err error
	if part.GateUp, err = cpu.Upload(c.up); err == nil {
		part.Down, err = cpu.Upload(c.down)
	}
	if err != nil {
		return tensor.Rows{}, err
	}
	in, err := cpu.Allocate(x.N, x.Dim)
	if err != nil {
		return tensor.Rows{}, err
	}
	out, err := cpu.Allocate(x.N, x.Dim)
	if err != nil {
		return tensor.Rows{}, err
	}
	cpu.Write(in, x)
	cpu.FeedForward(out, in, []kernel.FeedForwardPart{part})
	return cpu.Read(out)
}

// difference is the largest difference of two results, relative to the largest number of what
// is wanted; 0 only if all bits are alike.
func difference(got, want tensor.Rows) float64 {
	largest, most, same := 0.0, 0.0, true
	for i, w := range want.Data {
		g := got.Data[i]
		largest = max(largest, math.Abs(float64(w)))
		most = max(most, math.Abs(float64(g)-float64(w)))
		same = same && math.Float32bits(g) == math.Float32bits(w)
	}
	if same {
		return 0
	}
	if relative := most / largest; relative <= math.MaxFloat64 {
		return max(relative, math.SmallestNonzeroFloat64)
	}
	return math.MaxFloat64 // some are no numbers
}

// allowedDifference is how far a device's results may be from a CPU's.
func allowedDifference(kind string, f kernel.Format) float64 {
	if kind == cuda.TensorKind && !f.Integer() {
		return 1e-3
	}
	return 0
}
