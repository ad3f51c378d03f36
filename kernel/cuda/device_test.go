//go:build cuda && linux

package cuda

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"drover/kernel"
	"drover/kernel/devicetest"
	"drover/tensor"
)

// openDevice opens the first device until the test ends.
func openDevice(t *testing.T) *Device {
	t.Helper()
	needStandIn(t)
	a, err := OpenDevice(Kind, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a.(*Device)
}

func TestDevice(t *testing.T) { devicetest.Run(t, openDevice(t), devicetest.Options{}) }

// TestDeviceMemory allocates more than there is, of which nothing is in use any more, and
// then more than there is at a time.
func TestDeviceMemory(t *testing.T) {
	if !with(t, "STANDIN_MEMORY", "67108864") {
		return
	}
	d := openDevice(t)
	x := tensor.MakeRows(1, 1<<20)
	for i := range 40 {
		r, err := d.Allocate(1, 1<<20)
		if err != nil {
			t.Fatalf("after %d times 4 MiB: %v", i, err)
		}
		x.Data[0] = float32(i)
		d.Write(r, x)
		got, err := d.Read(r)
		if err != nil || got.Data[0] != float32(i) || got.Data[1] != 0 {
			t.Fatalf("round %d: %v, read %v", i, err, got.Data[:2])
		}
		m, err := kernel.NewMatrix(1024, 1024, kernel.WeightsF32)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Upload(m); err != nil {
			t.Fatalf("after %d times 4 MiB of weights: %v", i, err)
		}
	}
	_, err := d.Allocate(1, 1<<25)
	oneLine(t, err, "allocate 1 rows of 33554432 elements", "CUDA_ERROR_OUT_OF_MEMORY")
	if !errors.Is(err, ErrMemory) || errors.Is(err, kernel.ErrLost) || d.Err() != nil {
		t.Errorf("too many rows: %v, the device's error %v", err, d.Err())
	}
	if free, total, err := d.MemoryInfo(); err != nil || total != 64<<20 || free > total {
		t.Errorf("memory: %d free of %d, %v", free, total, err)
	}
}

// TestDeviceLost loses the device while it computes: the error is kept, and nothing waits.
func TestDeviceLost(t *testing.T) {
	needStandIn(t)
	a, err := OpenDevice(Kind, 0)
	if err != nil {
		t.Fatal(err)
	}
	lose(t, 3)
	r, err := a.Allocate(2, 3)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a.Add(r, r)
	}
	if _, err := a.Read(r); err != nil {
		t.Fatalf("three kernels: %v", err)
	}
	a.Add(r, r)
	for range 2 {
		if _, err := a.Read(r); !errors.Is(err, kernel.ErrLost) || !errors.Is(err, ErrLost) {
			t.Fatalf("Read() = %v, want the device lost", err)
		}
	}
	<-a.Lost()
	oneLine(t, a.Err(), "GPU 0: the device is lost", "CUDA_ERROR_ILLEGAL_ADDRESS")
	a.Add(r, r)
	a.Write(r, tensor.MakeRows(2, 3))
	m, err := kernel.NewMatrix(16, 16, kernel.WeightsBF16)
	if err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func() error{
		"Sync":     a.Sync,
		"Allocate": func() error { _, err := a.Allocate(1, 1); return err },
		"Upload":   func() error { _, err := a.Upload(m); return err },
	} {
		if err := f(); !errors.Is(err, kernel.ErrLost) {
			t.Errorf("%s after it = %v, want the device lost", what, err)
		}
	}
	if err := a.Close(); !errors.Is(err, ErrLost) {
		t.Errorf("Close() = %v, want the device lost", err)
	}
}

// TestOpenDeviceRefuses checks that what is wrong with a device is one line.
func TestOpenDeviceRefuses(t *testing.T) {
	if !with(t, "STANDIN", "sm_75") {
		return
	}
	_, err := OpenDevice(Kind, 0)
	oneLine(t, err, "open GPU 0: load kernels", "sm_75", "sm_80 or newer")
}

func TestOpenDeviceDamaged(t *testing.T) {
	if !with(t, "STANDIN", "damaged") {
		return
	}
	_, err := OpenDevice(Kind, 0)
	oneLine(t, err, "open GPU 0: load kernels", "CUDA_ERROR_INVALID_IMAGE")
}

// TestUploadBeside uploads weights in other goroutines while the device computes with those
// of before.
func TestUploadBeside(t *testing.T) {
	d := openDevice(t)
	const n, k = 300, 4096 // more than half of the uploader's memory
	m, err := kernel.NewMatrix(n, k, kernel.WeightsF32)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(21, 22))
	for i := range n {
		if err := m.SetRow(i, numbers(rng, k, false)); err != nil {
			t.Fatal(err)
		}
	}
	x := tensor.Rows{Data: numbers(rng, k, false), N: 1, Dim: k}
	want := tensor.MakeRows(1, n)
	m.Mul(want, x)
	uploaded := make(chan kernel.Weights, 4)
	for range cap(uploaded) {
		go func() {
			w, err := d.Upload(m)
			if err != nil {
				t.Error(err)
			}
			uploaded <- w
		}()
	}
	for range cap(uploaded) {
		w := <-uploaded
		in, err := d.Allocate(1, k)
		if err != nil {
			t.Fatal(err)
		}
		out, err := d.Allocate(1, n)
		if err != nil {
			t.Fatal(err)
		}
		d.Write(in, x)
		d.Mul(in, []kernel.Product{{Y: out, W: w}})
		got, err := d.Read(out)
		if err != nil || !slices.Equal(got.Data, want.Data) {
			t.Fatalf("product with uploaded weights: %v, same bytes %t", err,
				slices.Equal(got.Data, want.Data))
		}
	}
}
