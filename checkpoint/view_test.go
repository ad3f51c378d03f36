package checkpoint

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"drover/tensor"
)

// openBytes opens a file with the given contents.
func openBytes(t testing.TB, b []byte) *File {
	t.Helper()
	const name = "x.safetensors"
	f, err := OpenFile(filepath.Join(writeDir(t, map[string][]byte{name: b}), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func mustTensor(t testing.TB, f *File, name string) Tensor {
	t.Helper()
	v, err := f.Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestFloat32(t *testing.T) {
	want := []float32{1.5, -2, float32(math.Inf(1)), 0}
	doubles, err := binary.Append(nil, binary.LittleEndian, []float64{1.5, -2, 1e300, 1e-300})
	if err != nil {
		t.Fatal(err)
	}
	// The name "odd" moves the data off the alignment of its elements.
	for _, name := range []string{"w", "odd", "odd.."} {
		f := openBytes(t, safetensors(t,
			written{name + "f32", tensor.F32, []int{4}, floats(want...)},
			written{name + "bf16", tensor.BF16, []int{2, 2}, []byte{0xc0, 0x3f, 0, 0xc0, 0x80, 0x7f, 0, 0}},
			written{name + "f16", tensor.F16, []int{4, 1}, []byte{0, 0x3e, 0, 0xc0, 0, 0x7c, 0, 0}},
			written{name + "f64", tensor.F64, []int{4}, doubles},
		))
		for _, dtype := range []string{"f32", "bf16", "f16", "f64"} {
			got := make([]float32, 4)
			if err := mustTensor(t, f, name+dtype).Float32(got); err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("%s[%d] = %v, want %v", name+dtype, i, got[i], want[i])
				}
			}
		}
	}
}

func TestFloat32Refuses(t *testing.T) {
	f := openBytes(t, safetensors(t, written{"w", tensor.F32, []int{2}, floats(1, 2)},
		written{"i", tensor.I8, []int{2}, []byte{1, 2}}))
	for want, err := range map[string]error{
		"has 2 elements, but there is room for 3": mustTensor(t, f, "w").Float32(make([]float32, 3)),
		"has 2 elements, but there is room for 0": mustTensor(t, f, "w").Float32(nil),
		"is I8, must be BF16, F16, F32 or F64":    mustTensor(t, f, "i").Float32(make([]float32, 2)),
		"has 8 bytes, but there is room for 2":    mustTensor(t, f, "w").Read(make([]byte, 2)),
	} {
		if err == nil || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "x.safetensors: tensor ") {
			t.Errorf("error = %v, want %q", err, want)
		}
	}
	if n := f.touched.Load(); n != 0 {
		t.Errorf("refused reads touched %d bytes", n)
	}
}

func TestIndex(t *testing.T) {
	f := openBytes(t, safetensors(t, written{"w", tensor.F32, []int{3, 2}, floats(0, 1, 2, 3, 4, 5)},
		written{"scalar", tensor.U8, nil, []byte{9}}, written{"none", tensor.U8, []int{0, 3}, nil},
		written{"hollow", tensor.U8, []int{3, 0}, nil}))
	w := mustTensor(t, f, "w")
	row, err := w.Index(2)
	if err != nil {
		t.Fatal(err)
	}
	one, err := row.Index(1)
	if err != nil {
		t.Fatal(err)
	}
	var got [1]float32
	if err := one.Float32(got[:]); err != nil || got[0] != 5 {
		t.Errorf("w[2][1] = %v, error %v", got, err)
	}
	if one.Name != "w[2][1]" || len(one.Shape) != 0 {
		t.Errorf("w[2][1] is %q of shape %v", one.Name, one.Shape)
	}
	if row.Elements() != 2 || w.Elements() != 6 || len(w.Shape) != 2 {
		t.Errorf("w has %d elements, shape %v; w[2] has %d", w.Elements(), w.Shape, row.Elements())
	}
	if hollow, err := mustTensor(t, f, "hollow").Index(2); err != nil || hollow.Elements() != 0 {
		t.Errorf("hollow[2] has %d elements, error %v", hollow.Elements(), err)
	}
	for name, i := range map[string]int{"w": 3, "scalar": 0, "none": 0} {
		if _, err := mustTensor(t, f, name).Index(i); err == nil {
			t.Errorf("%s[%d]: no error", name, i)
		}
	}
	if _, err := w.Index(-1); err == nil || !strings.Contains(err.Error(), "0..2") {
		t.Errorf("w[-1]: error = %v", err)
	}
}

// The shape that a Tensor shows is the caller's own.
func TestShapeIsACopy(t *testing.T) {
	f := openBytes(t, safetensors(t, written{"w", tensor.U8, []int{2}, []byte{1, 2}}))
	mustTensor(t, f, "w").Shape[0] = 1 << 40
	if v := mustTensor(t, f, "w"); v.Shape[0] != 2 {
		t.Errorf("shape = %v", v.Shape)
	}
}

func TestZeroTensor(t *testing.T) {
	var v Tensor
	v.Release()
	if err := v.Float32(nil); err == nil || v.Raw() != nil || v.Elements() != 0 {
		t.Errorf("a Tensor of no file was read: %v", err)
	}
	if _, err := v.Index(0); err == nil {
		t.Error("a Tensor of no file was indexed")
	}
}

func TestClosed(t *testing.T) {
	f := openBytes(t, safetensors(t, written{"w", tensor.F32, []int{2}, floats(1, 2)}))
	v := mustTensor(t, f, "w")
	for range 2 {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Float32(make([]float32, 2)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Float32 after Close: %v", err)
	}
	if b := v.Raw(); b != nil {
		t.Errorf("Raw after Close = %v", b)
	}
	v.Release()
}

// Close waits for reads; reads that come later get an error and never a fault.
func TestCloseWhileReading(t *testing.T) {
	const n = 1 << 16
	f := openBytes(t, safetensors(t, written{"w", tensor.F32, []int{n}, make([]byte, 4*n)}))
	v := mustTensor(t, f, "w")
	var started, done sync.WaitGroup
	for range 4 {
		started.Add(1)
		done.Go(func() {
			dst := make([]float32, n)
			err := v.Float32(dst)
			started.Done()
			for err == nil {
				err = v.Float32(dst)
			}
			if !errors.Is(err, os.ErrClosed) {
				t.Error(err)
			}
		})
	}
	started.Wait()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	done.Wait()
}

func TestTruncatedAfterOpen(t *testing.T) {
	const n = 1 << 16
	f := openBytes(t, safetensors(t, written{"w", tensor.F32, []int{n}, make([]byte, 4*n)}))
	v := mustTensor(t, f, "w")
	if err := os.Truncate(f.path, f.size/2); err != nil {
		t.Fatal(err)
	}
	err := v.Float32(make([]float32, n))
	if err == nil || !strings.Contains(err.Error(), "when it was opened") {
		t.Errorf("Float32 of a truncated file: %v", err)
	}
	if v.Raw() != nil {
		t.Error("Raw of a truncated file is not nil")
	}
}

// A file cut off between the check of its size and the read is an error as well.
func TestTruncatedWhileReading(t *testing.T) {
	const n = 1 << 16
	f := openBytes(t, safetensors(t, written{"w", tensor.F32, []int{n}, make([]byte, 4*n)}))
	v := mustTensor(t, f, "w")
	err := v.read(func(src []byte) {
		if err := os.Truncate(f.path, 100); err != nil {
			t.Error(err)
		}
		fromF32(make([]float32, n), src)
	})
	if err == nil || !strings.Contains(err.Error(), `tensor "w": the file was cut off`) {
		t.Errorf("error = %v", err)
	}
	if f.touched.Load() != 0 {
		t.Error("a failed read was counted")
	}
}

// Only faults become errors: another panic is a bug and stays one.
func TestReadKeepsPanics(t *testing.T) {
	f := openBytes(t, safetensors(t, written{"w", tensor.U8, []int{1}, []byte{1}}))
	defer func() {
		if recover() == nil {
			t.Error("the panic was swallowed")
		}
		if err := f.Close(); err != nil { // and the lock was given back
			t.Error(err)
		}
	}()
	_ = mustTensor(t, f, "w").read(func(src []byte) { _ = src[len(src)] })
}

func TestExpected(t *testing.T) {
	f, err := OpenFile(fixtures + "/models/llama3/expected.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v := mustTensor(t, f, "logits.p7")
	dst := make([]float32, v.Elements())
	if err := v.Float32(dst); err != nil || len(v.Shape) != 2 || v.Shape[0] != 7 {
		t.Errorf("logits.p7 has shape %v, error %v", v.Shape, err)
	}
	if _, err := f.Tensor("absent"); !errors.Is(err, ErrNoTensor) {
		t.Errorf("error = %v", err)
	}
	g := openBytes(t, rawFile(`{"__metadata__":{"format":"pt"}}`, nil))
	if m := g.Metadata(); len(m) != 1 || m["format"] != "pt" {
		t.Errorf("metadata = %v", m)
	}
}

func BenchmarkFloat32(b *testing.B) {
	const n = 1 << 22
	f := openBytes(b, safetensors(b, written{"w", tensor.BF16, []int{n}, make([]byte, 2*n)}))
	v, dst := mustTensor(b, f, "w"), make([]float32, n)
	b.SetBytes(2 * n)
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Float32(dst); err != nil {
			b.Fatal(err)
		}
	}
}
