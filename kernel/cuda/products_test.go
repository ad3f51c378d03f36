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

// lose has the device be lost after so many kernels more.
func lose(t *testing.T, after int) {
	t.Helper()
	l, err := load(cudaLibrary, []string{"standin_lose"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.call(0, uintptr(after)); err != nil {
		t.Fatal(err)
	}
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

// launchesOf counts launches of kernels by the rows that a matrix has of them on average.
func launchesOf(f kernel.Format, times int, average int) (names []string, want []int) {
	for _, k := range productsOf(Kind, true)[f] {
		names, want = append(names, kernelNames[k.kernel]), append(want, 0)
		if average <= k.upTo && average > 0 {
			want[len(want)-1], average = times, 0
		}
	}
	return names, want
}

// TestFormats checks which weights are refused.
func TestFormats(t *testing.T) {
	for _, f := range formats {
		if err := multiplied(f); err != nil {
			t.Error(err)
		}
	}
	oneLine(t, multiplied(200), "no weights of Format(200)", "another numeric mode")
}

// TestExpertsTogether counts launches: whatever experts a frame has, their products are two,
// of the kernels for as few rows as each expert has.
func TestExpertsTogether(t *testing.T) {
	d, rng := openDevice(t), rand.New(rand.NewPCG(31, 32))
	for _, f := range formats {
		e := newExperts(t, d, rng, 5, 72, 40, f)
		for _, c := range []struct {
			rows    []int
			average int
		}{{[]int{1, 2, 1, 9, 3}, 4}, {[]int{0, 0, 1, 0, 0}, 1}, {[]int{100, 1, 1, 17, 40}, 32},
			{[]int{0, 0, 5, 0, 0}, 5}, {[]int{3, 8, 40, 10, 19}, 16}} {
			names, want := launchesOf(f, 2, c.average)
			x := randomRows(rng, e.rows(c.rows...), 72, false)
			got := counted(t, func() { e.run(t, d, x, f.String()) }, names...)
			if !slices.Equal(got, want) {
				t.Errorf("%v, rows %v: %v times %v, want %v", f, c.rows, got, names, want)
			}
		}
		for _, rows := range []int{1, 4, 5, 16, 17, 200} {
			names, want := launchesOf(f, 1, rows)
			if !f.Integer() && rows > fewRows {
				names, want = []string{"mul_" + f.String()}, []int{1}
			}
			got := counted(t, func() { e.mul(t, d, randomRows(rng, rows, 72, false)) }, names...)
			if !slices.Equal(got, want) {
				t.Errorf("%v, a product of %d rows: %v times %v, want %v", f, rows, got, names, want)
			}
		}
	}
}

// mul compares the first product of some rows with a CPU's.
func (e *experts) mul(t *testing.T, d kernel.Device, x tensor.Rows) {
	t.Helper()
	want := tensor.MakeRows(x.N, e.gateUp[0].N)
	e.gateUp[0].Mul(want, x)
	in, out := must1(d.Allocate(x.N, x.Dim))(t), must1(d.Allocate(x.N, want.Dim))(t)
	d.Write(in, x)
	d.Mul(in, []kernel.Product{{Y: out, W: e.parts[0].GateUp}})
	if have := must1(d.Read(out))(t); !slices.Equal(have.Data, want.Data) {
		t.Errorf("%v, %d rows: other bytes than a CPU's", e.gateUp[0].Format(), x.N)
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
