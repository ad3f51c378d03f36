package bench

import (
	"math"
	"slices"
	"testing"

	"drover/kernel"
	"drover/kernel/cuda"
	"drover/tensor"
)

func TestDifference(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		got, want []float32
		differs   float64
	}{
		{[]float32{1, -4}, []float32{1, -4}, 0},
		{[]float32{1, -4}, []float32{2, -4}, 0.25},
		{[]float32{float32(math.Copysign(0, -1)), 1}, []float32{0, 1}, math.SmallestNonzeroFloat64},
		{[]float32{nan, 1}, []float32{1, 1}, math.MaxFloat64},
		{[]float32{1}, []float32{0}, math.MaxFloat64},
	} {
		rows := func(x []float32) tensor.Rows { return tensor.Rows{Data: x, N: 1, Dim: len(x)} }
		if got := difference(rows(c.got), rows(c.want)); got != c.differs {
			t.Errorf("%v and %v differ by %v, want %v", c.got, c.want, got, c.differs)
		}
	}
}

// TestExpertCheck checks a device that is right, and one whose last row is not.
func TestExpertCheck(t *testing.T) {
	for _, f := range []kernel.Format{kernel.WeightsBF16, kernel.WeightsInt4} {
		up, err := makeMatrices(1, 2*64, 32, f)
		if err != nil {
			t.Fatal(err)
		}
		down, err := makeMatrices(1, 32, 64, f)
		if err != nil {
			t.Fatal(err)
		}
		d := &wrongDevice{CPU: kernel.NewCPU(nil)}
		c := &expertCheck{device: d, up: up[0], down: down[0]}
		if c.part.GateUp, err = d.Upload(up[0]); err == nil {
			c.part.Down, err = d.Upload(down[0])
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []int{1, 2, 9} {
			x, err := d.Allocate(m, 32)
			if err != nil {
				t.Fatal(err)
			}
			y, err := d.Allocate(m, 32)
			if err != nil {
				t.Fatal(err)
			}
			d.Write(x, randomRows(m, 32))
			for _, d.wrong = range []bool{false, true} {
				differs, err := c.differs(y, x, m)
				if err != nil || (differs != 0) != d.wrong {
					t.Errorf("%v, %d rows, wrong %v: differs by %v, %v", f, m, d.wrong, differs, err)
				}
			}
		}
	}
	if allowedDifference(cuda.Kind, kernel.WeightsBF16) != 0 ||
		allowedDifference(cuda.TensorKind, kernel.WeightsInt8) != 0 ||
		allowedDifference(cuda.TensorKind, kernel.WeightsBF16) == 0 ||
		allowedDifference(cuda.TensorKind, kernel.WeightsFP8) == 0 {
		t.Error("a difference is allowed where bytes are a CPU's, or is not where they are others")
	}
}

// wrongDevice changes the last number that is read of several rows, or of one.
type wrongDevice struct {
	*kernel.CPU
	wrong bool
	reads int
}

func (d *wrongDevice) Read(r kernel.Rows) (tensor.Rows, error) {
	x, err := d.CPU.Read(r)
	x.Data = slices.Clone(x.Data)
	if d.reads++; d.wrong && d.reads%2 == 1 { // what came out is read first
		x.Data[len(x.Data)-1] *= 1.5
	}
	return x, err
}
