//go:build cuda && linux

package cuda

import (
	"math/rand/v2"
	"slices"
	"testing"

	"drover/kernel"
	"drover/tensor"
)

// hopperNames are the kernels that only Hopper has.
var hopperNames = []string{"mul_hopper_bf16", "mul_hopper_fp8", "mul_hopper_int4",
	"mul_hopper_int8"}

// manyRows runs experts with many rows of a format, and returns how often each kernel of Hopper was
// launched.
func manyRows(t *testing.T, d *Device, f kernel.Format) []int {
	t.Helper()
	rng := rand.New(rand.NewPCG(71, 72))
	e := newExperts(t, d, rng, 2, 72, 40, f)
	x := randomRows(rng, e.rows(70, 129), 72, false)
	in, y := must1(d.Allocate(x.N, x.Dim))(t), must1(d.Allocate(x.N, x.Dim))(t)
	d.Write(in, x)
	return counted(t, func() {
		d.FeedForward(y, in, e.parts)
		must1(d.Read(y))(t)
	}, hopperNames...)
}

// TestOtherThanHopper opens devices that are no Hopper: they have and need none of its kernels.
func TestOtherThanHopper(t *testing.T) {
	if !with(t, "STANDIN", "sm_80") {
		return
	}
	for _, d := range []*Device{openDevice(t), openTensor(t)} {
		for _, f := range formats {
			if got := manyRows(t, d, f); !slices.Equal(got, make([]int, 4)) {
				t.Errorf("%s, %v: %v times %v", d.kind, f, got, hopperNames)
			}
		}
		if len(d.Distrusted()) > 0 {
			t.Errorf("%s: %v are distrusted", d.kind, d.Distrusted())
		}
	}
}

// TestUnshared opens devices whose driver gives kernels no more shared memory than all have.
func TestUnshared(t *testing.T) {
	if !with(t, "STANDIN", "unshared") {
		return
	}
	for kind, want := range map[string][]string{Kind: hopperNames[2:], TensorKind: hopperNames} {
		open := map[string]func(*testing.T) *Device{Kind: openDevice, TensorKind: openTensor}[kind]
		d := open(t)
		got := d.Distrusted()
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: %v are distrusted, want %v", kind, got, want)
		}
		for _, f := range formats {
			if got := manyRows(t, d, f); !slices.Equal(got, make([]int, 4)) {
				t.Errorf("%s, %v: %v times %v", kind, f, got, hopperNames)
			}
		}
	}
}

// TestHopperApart has products of warpgroups round otherwise than those of warps: bfloat16 and fp8
// do without them, and nothing else does.
func TestHopperApart(t *testing.T) {
	if !with(t, "STANDIN", "apart") {
		return
	}
	d := openTensor(t)
	got := d.Distrusted()
	if slices.Sort(got); !slices.Equal(got, hopperNames[:2]) {
		t.Errorf("%v are distrusted, want %v", got, hopperNames[:2])
	}
	for i, f := range []kernel.Format{kernel.WeightsBF16, kernel.WeightsFP8, kernel.WeightsInt4,
		kernel.WeightsInt8} {
		want := make([]int, 4)
		if f.Integer() {
			want[i] = 2
		}
		if got := manyRows(t, d, f); !slices.Equal(got, want) {
			t.Errorf("%v: %v times %v, want %v", f, got, hopperNames, want)
		}
	}
}

// TestHopperAlone checks that rows have the same bytes in many, by Hopper's kernels, as alone,
// through experts and through products of several formats, which want their words in several orders.
func TestHopperAlone(t *testing.T) {
	d, rng := openTensor(t), rand.New(rand.NewPCG(73, 74))
	const hidden, rows = 72, 200
	var products []kernel.Product
	x := randomRows(rng, rows, hidden, false)
	single := func(x tensor.Rows) (out []tensor.Rows) {
		in := must1(d.Allocate(x.N, hidden))(t)
		d.Write(in, x)
		for i := range products {
			products[i].Y = must1(d.Allocate(x.N, 80))(t)
		}
		d.Mul(in, products)
		for i := range products {
			y := must1(d.Read(products[i].Y))(t)
			y.Data = slices.Clone(y.Data)
			out = append(out, y)
		}
		return out
	}
	for _, f := range []kernel.Format{kernel.WeightsBF16, kernel.WeightsInt4, kernel.WeightsInt8,
		kernel.WeightsFP8} {
		e := newExperts(t, d, rng, 1, hidden, 40, f)
		products = append(products, kernel.Product{W: e.parts[0].GateUp})
		through := func(x tensor.Rows) []float32 {
			e.rows(x.N)
			in, y := must1(d.Allocate(x.N, hidden))(t), must1(d.Allocate(x.N, hidden))(t)
			d.Write(in, x)
			d.FeedForward(y, in, e.parts)
			return slices.Clone(must1(d.Read(y))(t).Data)
		}
		all := through(x)
		for _, i := range []int{0, 63, 127, 128, 199} {
			if !slices.Equal(through(x.Slice(i, i+1)), all[i*hidden:(i+1)*hidden]) {
				t.Errorf("%v, row %d through its expert has other bytes alone", f, i)
			}
		}
	}
	var all []tensor.Rows
	if got := counted(t, func() { all = single(x) }, hopperNames...); !slices.Equal(got,
		[]int{1, 1, 1, 1}) {
		t.Errorf("%v times %v", got, hopperNames)
	}
	for _, i := range []int{0, 127, 128, 199} {
		for j, y := range single(x.Slice(i, i+1)) {
			if !slices.Equal(y.Row(0), all[j].Row(i)) {
				t.Errorf("row %d of product %d has other bytes alone", i, j)
			}
		}
	}
}

// TestHopperWrong has kernels of floats compute wrongly: others with the same bytes do their work.
func TestHopperWrong(t *testing.T) {
	if !with(t, "STANDIN_WRONG", " mul_hopper_bf16 ") {
		return
	}
	d := openTensor(t)
	if got := d.Distrusted(); !slices.Equal(got, hopperNames[:1]) {
		t.Errorf("%v are distrusted", got)
	}
	testAlone(t, d, kernel.WeightsBF16)
}

// TestSharedMemory launches a kernel with less shared memory than it needs, and with more than it
// asked for.
func TestSharedMemory(t *testing.T) {
	b := newBench(t)
	k := must1(b.module.Kernel("mul_hopper_int4"))(t)
	if err := k.share(228 << 10); err == nil {
		t.Error("a kernel gets more shared memory than a multiprocessor has")
	}
	if err := k.share(64 << 10); err != nil {
		t.Fatal(err)
	}
	k.sharedBytes++
	if err := k.Launch(Grid{1, 1, 256}, make([]uint64, 6)...); err == nil {
		t.Error("a launch gets more shared memory than its kernel asked for")
	}
}
