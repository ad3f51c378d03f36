package moe

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"

	"drover/kernel"
	"drover/tensor"
)

func TestSigmoidTopK(t *testing.T) {
	logits := tensor.Rows{Data: []float32{1, 3, 3, -2, 0, 0, 0, 0}, N: 2, Dim: 4}
	var r Routes
	SigmoidTopK(logits, 2, &r)
	if want := []int32{1, 2, 0, 1}; !slices.Equal(r.Experts, want) {
		t.Errorf("experts are %v, want %v: largest first, ties to the lower number", r.Experts, want)
	}
	w := []float32{3}
	if kernel.Sigmoid(w, w); r.Weights[0] != w[0] || r.Weights[1] != w[0] || r.Weights[2] != 0.5 {
		t.Errorf("weights are %v", r.Weights)
	}
}

// TestTopK compares with sorting, with many equal values.
func TestTopK(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		values := make([]float32, 1+r.IntN(300))
		order := make([]int32, len(values))
		for i := range values {
			values[i], order[i] = float32(r.IntN(60)), int32(i)
		}
		slices.SortStableFunc(order, func(a, b int32) int {
			return cmp.Compare(values[b], values[a])
		})
		best := make([]int32, min(1+r.IntN(10), len(values)))
		topK(values, best)
		if want := order[:len(best)]; !slices.Equal(best, want) {
			t.Fatalf("best %d of %v: %v, want %v", len(best), values, best, want)
		}
	}
}

// TestPlan checks against a direct sum over rows and experts, for both scalings and
// k up to 3, that each row reaches its experts and is summed in ascending order.
func TestPlan(t *testing.T) { testPlan(t, &counting{CPU: kernel.NewCPU(nil)}, 1) }

// TestPlanHere does the same where the host gathers rows, which the device does not.
func TestPlanHere(t *testing.T) { testPlan(t, &counting{CPU: kernel.NewCPU(nil), ahead: 2}, 0) }

// counting is a CPU that may say of itself that it computes later, and counts gathers.
type counting struct {
	*kernel.CPU
	ahead, gathers int
}

func (c *counting) Ahead() int { return c.ahead }

func (c *counting) Gather(y, x kernel.Rows, pick kernel.Picks, t tensor.DType) {
	c.gathers++
	c.CPU.Gather(y, x, pick, t)
}

func testPlan(t *testing.T, d *counting, gathers int) {
	r := rand.New(rand.NewPCG(1, 2))
	const experts, hidden = 9, 4
	for _, s := range []Scaling{ScaleInput, ScaleOutput} {
		for _, mode := range []kernel.Mode{kernel.Exact, kernel.BF16} {
			for k := 1; k <= 3; k++ {
				p := NewPlan(d, experts, s, mode)
				x, routes := tensor.MakeRows(7, hidden), randomRoutes(r, 7, experts, k)
				for i := range x.Data {
					x.Data[i] = float32(r.NormFloat64())
				}
				want := tensor.MakeRows(7, hidden)
				sum := onDevice(t, d, want)
				rows, before := onDevice(t, d, x), d.gathers
				p.Start(rows)
				if err := p.Gather(5, rows, routes); err != nil {
					t.Fatal(err)
				}
				if d.gathers-before != gathers {
					t.Errorf("the device gathered %d times, want %d", d.gathers-before, gathers)
				}
				fakeExperts(&p.Batch, mode)
				if err := p.Combine(sum); err != nil {
					t.Fatal(err)
				}
				y, err := d.Read(sum)
				if err != nil {
					t.Fatal(err)
				}
				directSum(want, x, routes, s, mode)
				if !slices.Equal(y.Data, want.Data) {
					t.Errorf("scaling %d, mode %s, k %d: %v, want %v", s, mode, k, y.Data, want.Data)
				}
				if !slices.IsSorted(p.Batch.Experts) || p.Batch.Layer != 5 {
					t.Errorf("batch is of layer %d, experts %v", p.Batch.Layer, p.Batch.Experts)
				}
			}
		}
	}
}

// onDevice copies rows to a device.
func onDevice(t *testing.T, d kernel.Device, x tensor.Rows) kernel.Rows {
	t.Helper()
	r, err := d.Allocate(x.N, x.Dim)
	if err != nil {
		t.Fatal(err)
	}
	d.Write(r, x)
	return r
}

func randomRoutes(r *rand.Rand, rows, experts, k int) *Routes {
	routes := &Routes{}
	routes.Resize(rows, k)
	for i := range rows {
		for j, e := range r.Perm(experts)[:k] {
			routes.Experts[i*k+j], routes.Weights[i*k+j] = int32(e), r.Float32()
		}
	}
	return routes
}

// expertValue is what the pretended expert e makes of one element.
func expertValue(e int32, v float32, mode kernel.Mode) float32 {
	out := []float32{v*float32(e+1) + 0.25}
	kernel.Round(out, mode.RowType())
	return out[0]
}

func fakeExperts(b *Batch, mode kernel.Mode) {
	at := 0
	for i, e := range b.Experts {
		for range b.Counts[i] {
			for j, v := range b.X.Row(at) {
				b.Y.Row(at)[j] = expertValue(e, v, mode)
			}
			at++
		}
	}
}

func directSum(y, x tensor.Rows, r *Routes, s Scaling, mode kernel.Mode) {
	for i := range x.N {
		type visit struct {
			expert int32
			weight float32
		}
		var visits []visit
		for j := range r.K {
			visits = append(visits, visit{r.Experts[i*r.K+j], r.Weights[i*r.K+j]})
		}
		slices.SortFunc(visits, func(a, b visit) int { return int(a.expert - b.expert) })
		for _, v := range visits {
			for j, in := range x.Row(i) {
				one := []float32{in}
				if s == ScaleInput {
					one[0] *= v.weight
				}
				kernel.Round(one, mode.RowType())
				out := expertValue(v.expert, one[0], mode)
				if s == ScaleOutput {
					out *= v.weight
				}
				y.Row(i)[j] += out
			}
		}
	}
}

// TestExpertRowsAreIndependent is R1: rows alone, and among others of several experts.
func TestExpertRowsAreIndependent(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	experts := []*Expert{randomExpert(t, r, 24, 10), nil, randomExpert(t, r, 24, 10)}
	counts := []int32{300, 2, 9}
	x := tensor.MakeRows(311, 24)
	for i := range x.Data {
		x.Data[i] = float32(r.NormFloat64())
	}
	run := NewRunner(kernel.NewCPU(nil))
	y, one := tensor.MakeRows(x.N, 24), tensor.MakeRows(1, 24)
	if err := run.Forward(y, x, experts, counts); err != nil {
		t.Fatal(err)
	}
	at := 0
	for i, e := range experts {
		for range counts[i] {
			err := run.Forward(one, x.Slice(at, at+1), []*Expert{e}, []int32{1})
			if err != nil {
				t.Fatal(err)
			}
			if e != nil && !slices.Equal(one.Data, y.Row(at)) {
				t.Fatalf("row %d differs alone", at)
			}
			at++
		}
	}
}

func randomExpert(t *testing.T, r *rand.Rand, hidden, width int) *Expert {
	t.Helper()
	fill := func(n, k int) *kernel.Matrix {
		m, err := kernel.NewMatrix(n, k, kernel.WeightsBF16)
		if err != nil {
			t.Fatal(err)
		}
		row := make([]float32, k)
		for i := range n {
			for j := range row {
				row[j] = float32(r.NormFloat64())
			}
			if err := m.SetRow(i, row); err != nil {
				t.Fatal(err)
			}
		}
		return m
	}
	d := kernel.NewCPU(nil)
	e, err := NewExpert(d, fill(2*width, hidden), fill(hidden, width))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewExpert(d, fill(2*width, hidden), fill(hidden, width+1)); err == nil {
		t.Error("matrices that do not fit make an expert")
	}
	return e
}
