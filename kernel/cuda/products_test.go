//go:build cuda && linux

package cuda

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"drover/kernel"
	"drover/tensor"
)

// count is how often the stand-in was asked for a function of the driver, or to run a kernel;
// of "cu", for all functions but cuCtxSetCurrent.
func count(t *testing.T, name string) int {
	t.Helper()
	l, err := load(cudaLibrary, []string{"standin_count"})
	if err != nil {
		t.Fatal(err)
	}
	n, text := new(uintptr), append([]byte(name), 0)
	var pin runtime.Pinner
	pin.Pin(n)
	pin.Pin(&text[0])
	defer pin.Unpin()
	if err := l.call(0, uintptr(unsafe.Pointer(&text[0])), uintptr(unsafe.Pointer(n))); err != nil {
		t.Fatal(err)
	}
	return int(*n)
}

// counted is how often each of some names is counted while f runs.
func counted(t *testing.T, f func(), names ...string) []int {
	t.Helper()
	var n []int
	for _, name := range names {
		n = append(n, -count(t, name))
	}
	f()
	for i, name := range names {
		n[i] += count(t, name)
	}
	return n
}

// experts are networks of one shape on the host and on the device.
type experts struct {
	gateUp, down []*kernel.Matrix
	parts        []kernel.FeedForwardPart
}

func newExperts(t *testing.T, d kernel.Device, rng *rand.Rand, n, hidden, width int,
	f kernel.Format) *experts {
	t.Helper()
	e := &experts{}
	for range n {
		gateUp := newMatrix(t, rng, 2*width, hidden, f)
		down := newMatrix(t, rng, hidden, width, f)
		e.gateUp, e.down = append(e.gateUp, gateUp), append(e.down, down)
		e.parts = append(e.parts, kernel.FeedForwardPart{})
		for to, m := range map[*kernel.Weights]*kernel.Matrix{&e.parts[len(e.parts)-1].GateUp: gateUp,
			&e.parts[len(e.parts)-1].Down: down} {
			var err error
			if *to, err = d.Upload(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	return e
}

// rows gives the experts so many rows each, one expert's after the other's.
func (e *experts) rows(counts ...int) (total int) {
	for i, n := range counts {
		e.parts[i].From, e.parts[i].To = total, total+n
		total += n
	}
	return total
}

// want is what the experts make of x on a CPU.
func (e *experts) want(x tensor.Rows) tensor.Rows {
	y := tensor.MakeRows(x.N, x.Dim)
	for i, p := range e.parts {
		n := p.To - p.From
		inner, act := tensor.MakeRows(n, e.gateUp[i].N), tensor.MakeRows(n, e.down[i].K)
		e.gateUp[i].Mul(inner, x.Slice(p.From, p.To))
		kernel.SwiGLU(act, inner)
		e.down[i].Mul(y.Slice(p.From, p.To), act)
	}
	return y
}

// run computes on the device and compares bytes.
func (e *experts) run(t *testing.T, d kernel.Device, x tensor.Rows, what string) {
	t.Helper()
	in, err := d.Allocate(x.N, x.Dim)
	if err != nil {
		t.Fatal(err)
	}
	out, err := d.Allocate(x.N, x.Dim)
	if err != nil {
		t.Fatal(err)
	}
	d.Write(in, x)
	d.FeedForward(out, in, e.parts)
	got, err := d.Read(out)
	if err != nil || !slices.Equal(got.Data, e.want(x).Data) {
		t.Fatalf("%s: %v, or other bytes than a CPU's", what, err)
	}
}

// TestExpertsTogether counts launches: whatever experts a frame has, their products are two,
// of the kernels for few rows where each expert has few.
func TestExpertsTogether(t *testing.T) {
	d, rng := openDevice(t), rand.New(rand.NewPCG(31, 32))
	for _, f := range []kernel.Format{kernel.WeightsF32, kernel.WeightsBF16, kernel.WeightsInt8,
		kernel.WeightsInt4} {
		e := newExperts(t, d, rng, 5, 72, 40, f)
		names := []string{"mul_few_" + f.String(), "mul_grouped_" + f.String(), "mul_" + f.String()}
		for _, c := range []struct{ rows, want []int }{
			{[]int{1, 2, 1, 9, 3}, []int{2, 0, 0}},
			{[]int{0, 0, 1, 0, 0}, []int{2, 0, 0}},
			{[]int{100, 1, 1, 17, 40}, []int{0, 2, 0}},
		} {
			x := randomRows(rng, e.rows(c.rows...), 72, false)
			got := counted(t, func() { e.run(t, d, x, f.String()) }, names...)
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, rows %v: %v times %v, want %v", f, c.rows, got, names, c.want)
			}
		}
		for _, c := range []struct {
			rows int
			want []int
		}{{1, []int{1, 0, 0}}, {16, []int{1, 0, 0}}, {17, []int{0, 0, 1}}} {
			x, want := randomRows(rng, c.rows, 72, false), tensor.MakeRows(c.rows, 80)
			in, _ := d.Allocate(c.rows, 72)
			out, err := d.Allocate(c.rows, 80)
			if err != nil {
				t.Fatal(err)
			}
			e.gateUp[0].Mul(want, x)
			d.Write(in, x)
			got := counted(t, func() {
				d.Mul(in, []kernel.Product{{Y: out, W: e.parts[0].GateUp}})
				have, err := d.Read(out)
				if err != nil || !slices.Equal(have.Data, want.Data) {
					t.Errorf("%v, %d rows: %v, or other bytes than a CPU's", f, c.rows, err)
				}
			}, names...)
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, a product of %d rows: %v times %v, want %v", f, c.rows, got, names, c.want)
			}
		}
	}
}

// TestExpertsApart has experts whose rows lie further apart than go through together, in any
// order, and one with more rows than do.
func TestExpertsApart(t *testing.T) {
	d, rng := openDevice(t), rand.New(rand.NewPCG(33, 34))
	const hidden = 16
	e := newExperts(t, d, rng, 4, hidden, 8, kernel.WeightsBF16)
	x := randomRows(rng, 3000, hidden, false)
	for i, from := range []int{2900, 0, 1500, 900} {
		e.parts[i].From, e.parts[i].To = from, from+5
	}
	e.parts[2].To = 2800
	e.run(t, d, x, "apart")
}
