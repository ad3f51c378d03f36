//go:build cuda && linux

package cuda

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"drover/kernel"
	"drover/kernel/cuda/standin"
	"drover/tensor"
)

// mostTestLaunches bounds what a self-test launches, and so its time.
const mostTestLaunches = 160

// TestSelfTest opens devices that compute as they must, and none is distrusted.
func TestSelfTest(t *testing.T) {
	names := slices.Clone(kernelNames[:])
	for _, open := range []func(*testing.T) *Device{openDevice, openTensor} {
		var d *Device
		n := counted(t, func() { d = open(t) }, names...)
		launches := 0
		for _, times := range n {
			launches += times
		}
		t.Logf("%s: %d launches", d.kind, launches)
		if launches < 15 || launches > mostTestLaunches {
			t.Errorf("%s: %d launches, must be at most %d", d.kind, launches, mostTestLaunches)
		}
		if (d.Rounding() != 0) != (d.kind == TensorKind) {
			t.Errorf("%s: its rounding is %#x", d.kind, d.Rounding())
		}
		if len(d.Distrusted()) > 0 {
			t.Errorf("%s: %v are distrusted", d.kind, d.Distrusted())
		}
	}
}

// TestSelfTestWithout has all kernels of integers on tensor cores compute wrongly: others do their
// work, and the bytes are a CPU's.
func TestSelfTestWithout(t *testing.T) {
	wrong := []string{"mul_narrow_int8", "mul_tensor_int8", "mul_wide_int8", "mul_hopper_int8",
		"mul_narrow_int4", "mul_tensor_int4", "mul_hopper_int4"}
	if !with(t, "STANDIN_WRONG", " "+strings.Join(wrong, " ")+" ") {
		return
	}
	d, rng := openDevice(t), rand.New(rand.NewPCG(61, 62))
	if got := d.Distrusted(); !slices.Equal(slices.Sorted(slices.Values(got)),
		slices.Sorted(slices.Values(wrong))) {
		t.Errorf("distrusted are %v, want %v", got, wrong)
	}
	for _, f := range []kernel.Format{kernel.WeightsInt8, kernel.WeightsInt4} {
		e := newExperts(t, d, rng, 3, 72, 40, f)
		names := []string{"mul_few_int8", "mul_few_int4"}
		if f == kernel.WeightsInt4 {
			slices.Reverse(names)
		}
		for _, rows := range [][]int{{1, 0, 1}, {5, 9, 0}, {20, 60, 3}, {200, 1, 100}} {
			x := randomRows(rng, e.rows(rows...), 72, false)
			got := counted(t, func() { e.run(t, d, x, f.String()) }, names...)
			if !slices.Equal(got, []int{2, 0}) {
				t.Errorf("%v, rows %v: %v times %v", f, rows, got, names)
			}
		}
	}
}

// TestSelfTestWithoutOne has one kernel compute wrongly, and then a second one: the next one does
// its work.
func TestSelfTestWithoutOne(t *testing.T) {
	for _, wrong := range []string{"mul_hopper_int8", "mul_hopper_int8 mul_wide_int8"} {
		t.Run(wrong, func(t *testing.T) {
			if with(t, "STANDIN_WRONG", " "+wrong+" ") {
				testWithout(t, strings.Fields(wrong))
			}
		})
	}
}

func testWithout(t *testing.T, wrong []string) {
	d, rng := openDevice(t), rand.New(rand.NewPCG(63, 64))
	got := d.Distrusted()
	slices.Sort(got)
	if !slices.Equal(got, wrong) {
		t.Errorf("distrusted are %v", got)
	}
	e := newExperts(t, d, rng, 1, 72, 40, kernel.WeightsInt8)
	x := randomRows(rng, e.rows(300), 72, false)
	names := []string{"mul_hopper_int8", "mul_wide_int8", "mul_tensor_int8"}
	want := []int{0, 0, 0}
	want[len(wrong)] = 2
	times := counted(t, func() { e.run(t, d, x, "int8") }, names...)
	if !slices.Equal(times, want) {
		t.Errorf("300 rows: %v times %v, want %v", times, names, want)
	}
}

// refused opens a device that must be refused, as the first and the second kind.
func refused(t *testing.T, kind string, words ...string) {
	t.Helper()
	_, err := OpenDevice(kind, 0)
	oneLine(t, err, append(words, "open GPU 0: self-test: this GPU computes wrongly: kernel",
		": row ", ", output ", ", must be ")...)
	if !errors.Is(err, ErrWrong) {
		t.Errorf("%v is no ErrWrong", err)
	}
}

// TestSelfTestRefuses has kernels compute wrongly that nothing replaces. Each refuses the kinds of
// devices that use it, by name.
func TestSelfTestRefuses(t *testing.T) {
	for _, k := range []string{"mul_f32", "mul_few_int8", "mul_grouped_fp8", "embed_rows",
		"norm_factors", "rotate_rows", "scale_rows", "add_rows", "gather_rows", "scatter_rows",
		"swiglu_rows", "attend_f32", "attend_bf16", "attend_int8"} {
		t.Run(k, func(t *testing.T) {
			if with(t, "STANDIN_WRONG", " "+k+" ") {
				refused(t, Kind, k, "use another GPU, or cpu")
			}
		})
	}
	for _, k := range []string{"mul_tensor_bf16", "mul_narrow_bf16", "mul_tensor_fp8",
		"mul_narrow_fp8"} {
		t.Run(k, func(t *testing.T) {
			if with(t, "STANDIN_WRONG", " "+k+" ") {
				refused(t, TensorKind, k+":", "use cuda:0, which does without it")
				openDevice(t) // which does
			}
		})
	}
}

// TestSelfTestAttention has attention on tensor cores give the first of its results another bit:
// those that are computed alone differ from those with others.
func TestSelfTestAttention(t *testing.T) {
	if !with(t, "STANDIN_WRONG", " attend_tensor_bf16 ") {
		return
	}
	_, err := OpenDevice(TensorKind, 0)
	oneLine(t, err, "kernel attend_store_bf16 or attend_tensor_bf16: row 4, output 0 is ",
		"use cuda:0, which does without it")
	openDevice(t)
}

// TestSelfTestRounding has tensor cores that round in another way: they are as good, and are told
// apart.
func TestSelfTestRounding(t *testing.T) {
	const usual = "DROVER_STANDIN_ROUNDING"
	if os.Getenv(usual) == "" {
		d := openTensor(t)
		t.Setenv(usual, fmt.Sprint(d.Rounding()))
		if again := openTensor(t); again.Rounding() != d.Rounding() {
			t.Errorf("rounding is %#x, then %#x", d.Rounding(), again.Rounding())
		}
	}
	if with(t, "STANDIN", "newer") {
		if got := fmt.Sprint(openTensor(t).Rounding()); got == "0" || got == os.Getenv(usual) {
			t.Errorf("rounding is %s, as of another device", got)
		}
	}
}

// TestSelfTestLeaky has tensor cores whose sums depend on what stands beside a row, and others
// that are too coarse, where whole numbers do not show it.
func TestSelfTestLeaky(t *testing.T) {
	if !with(t, "STANDIN", "leaky") {
		return
	}
	_, err := OpenDevice(TensorKind, 0)
	oneLine(t, err, "kernel mul_narrow_bf16: row ", "use cuda:0, which does without it")
	openDevice(t)
}

func TestSelfTestCoarse(t *testing.T) {
	if !with(t, "STANDIN", "coarse") {
		return
	}
	_, err := OpenDevice(TensorKind, 0)
	oneLine(t, err, "kernel mul_narrow_bf16: row 0, output 0 is ", " from it: use cuda:0")
	openDevice(t)
}

// TestSelfTestLost loses the device in the self-test: the error says by which kernel.
func TestSelfTestLost(t *testing.T) {
	if !with(t, "STANDIN_LOST", "1") {
		return
	}
	_, err := OpenDevice(Kind, 0)
	oneLine(t, err, "open GPU 0: self-test: kernel mul_grouped_f32: ", "CUDA_ERROR_ILLEGAL_ADDRESS")
	if !errors.Is(err, ErrLost) || !errors.Is(err, kernel.ErrLost) {
		t.Errorf("%v is no ErrLost", err)
	}
}

// TestSelfTestKernels loses the device right after the self-test and in its end: others count on
// standin.SelfTestKernels.
func TestSelfTestKernels(t *testing.T) {
	t.Run("after", func(t *testing.T) {
		if with(t, "STANDIN_LOST", strconv.Itoa(standin.SelfTestKernels+1)) {
			openDevice(t)
		}
	})
	t.Run("end", func(t *testing.T) {
		if with(t, "STANDIN_LOST", strconv.Itoa(standin.SelfTestKernels)) {
			_, err := OpenDevice(Kind, 0)
			oneLine(t, err, "open GPU 0: self-test: ", "CUDA_ERROR_ILLEGAL_ADDRESS")
		}
	})
}

// BenchmarkSelfTestHost is what the host does for a self-test: it makes the problems and their
// results.
func BenchmarkSelfTestHost(b *testing.B) {
	cpu := kernel.NewCPU(nil)
	for b.Loop() {
		for f := kernel.WeightsF32; f <= kernel.WeightsFP8; f++ {
			for _, s := range append(shapesOf(f), roughTest) {
				m, err := s.weights(f, s == roughTest, false)
				if err != nil {
					b.Fatal(err)
				}
				x, y := s.numbers(s == roughTest, false), tensor.MakeRows(s.rows, s.outputs)
				m.Mul(y, x)
			}
		}
		for _, t := range operationTests {
			if _, err := resultOf(cpu, t.run); err != nil {
				b.Fatal(err)
			}
		}
		for p := kernel.PrecisionExact; p <= kernel.PrecisionInt8; p++ {
			_, err := resultOf(cpu, func(d kernel.Device) (kernel.Rows, error) {
				return attendTest(d, p, []int{attendTestTokens})
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
