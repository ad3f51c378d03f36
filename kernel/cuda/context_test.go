//go:build cuda && linux

package cuda

import (
	"bytes"
	"errors"
	"testing"
)

func TestCopies(t *testing.T) {
	c := open(t)
	defer closeContext(t, c)
	m, err := c.Allocate(100)
	if err != nil {
		t.Fatal(err)
	}
	h, err := c.AllocateHost(60)
	if err != nil {
		t.Fatal(err)
	}
	back, err := c.AllocateHost(100)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 100)
	for i := range h.Bytes {
		h.Bytes[i] = byte(i + 1)
	}
	copy(want[30:], h.Bytes)
	if err := errors.Join(m.Write(30, h, 60), m.Read(back, 0, 100), c.Sync()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.Bytes, want) {
		t.Errorf("read % x, want % x", back.Bytes, want)
	}
	for _, copies := range [][2]int{{-1, 1}, {0, -1}, {41, 60}, {0, 61}, {1 << 62, 60}} {
		if err := m.Write(copies[0], h, copies[1]); err == nil {
			t.Errorf("write of %d bytes at %d: no error", copies[1], copies[0])
		}
	}
	if err := m.Read(h, 0, 61); err == nil {
		t.Error("read of more than there is room for: no error")
	}
	if err := errors.Join(m.Write(100, h, 0), h.Free(), back.Free(), m.Free()); err != nil {
		t.Error(err)
	}
	if err := m.Free(); err == nil {
		t.Error("second Free: no error")
	}
}

func TestOutOfMemory(t *testing.T) {
	if !with(t, "STANDIN", "small") {
		return
	}
	c := open(t)
	defer closeContext(t, c)
	m, err := c.Allocate(60 << 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Allocate(60 << 10); !errors.Is(err, ErrMemory) || errors.Is(err, ErrLost) {
		t.Errorf("more than there is: %v", err)
	}
	if _, err := c.AllocateHost(70 << 10); !errors.Is(err, ErrMemory) {
		t.Errorf("more pinned than there is: %v", err)
	}
	if err := m.Free(); err != nil {
		t.Fatal(err)
	}
	if m, err = c.Allocate(60 << 10); err != nil {
		t.Fatalf("after memory was given back: %v", err)
	}
	if err := m.Free(); err != nil {
		t.Error(err)
	}
	for _, size := range []int{0, -1} {
		if _, err := c.Allocate(size); err == nil {
			t.Errorf("%d bytes: no error", size)
		}
	}
}

// TestLost checks that the failure of a kernel is every later call's error, and that the
// device works for who opens it anew.
func TestLost(t *testing.T) {
	if !with(t, "STANDIN", "lost") {
		return
	}
	c := open(t)
	m, err := c.Allocate(64)
	if err != nil {
		t.Fatal(err)
	}
	module, err := c.LoadKernels()
	if err != nil {
		t.Fatal(err)
	}
	k, err := module.Kernel("add_rows")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Launch(Grid{1, 1, 16}, m.At(0), m.At(0), 16); err != nil {
		t.Fatalf("a launch is only queued, but: %v", err)
	}
	for range 2 {
		if err := c.Sync(); !errors.Is(err, ErrLost) || errors.Is(err, ErrMemory) {
			t.Errorf("Sync() = %v, want the device lost", err)
		}
	}
	if _, err := c.Allocate(1); !errors.Is(err, ErrLost) {
		t.Errorf("Allocate after it = %v, want the device lost", err)
	}
	if err := c.Close(); !errors.Is(err, ErrLost) {
		t.Errorf("Close() = %v, want the device lost", err)
	}
	c = open(t)
	if m, err = c.Allocate(64); err != nil {
		t.Fatalf("opened anew: %v", err)
	}
	if err := m.Free(); err != nil {
		t.Error(err)
	}
	closeContext(t, c)
}

func TestModules(t *testing.T) {
	c := open(t)
	defer closeContext(t, c)
	for name, image := range map[string][]byte{"none": nil, "damaged": []byte("\x7fELV\x00")} {
		if _, err := c.LoadModule(image); !errors.Is(err, ErrImage) {
			t.Errorf("%s: %v, want no kernels for this device", name, err)
		}
	}
	m, err := c.LoadKernels()
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Kernel("mul_of_next_year")
	oneLine(t, err, "find kernel mul_of_next_year: ", "CUDA_ERROR_NOT_FOUND")
	k, err := m.Kernel("add_rows")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Launch(Grid{1, 1, 64}, make([]uint64, maxArguments+1)...); err == nil {
		t.Error("too many arguments: no error")
	}
	if err := k.Launch(Grid{1, 1, 4096}, 0, 0, 0); err == nil {
		t.Error("too many threads: no error")
	}
	if err := m.Unload(); err != nil {
		t.Error(err)
	}
}

func TestImageFor(t *testing.T) {
	for capability, want := range map[[2]int]string{{8, 0}: "sm_80", {8, 9}: "sm_80", {9, 0}: "sm_90a",
		{9, 1}: "compute_80", {10, 0}: "sm_100", {10, 3}: "sm_100", {12, 0}: "compute_80"} {
		got, err := imageFor(capability[0], capability[1])
		if err != nil || got != want {
			t.Errorf("imageFor(%v) = %s, %v, want %s", capability, got, err, want)
		}
		packed, err := images.ReadFile("images/" + got + ".gz")
		if err != nil {
			t.Fatal(err)
		}
		if image, err := unpack(packed); err != nil || len(image) == 0 {
			t.Errorf("image %s: %d bytes, %v", got, len(image), err)
		}
		packed[len(packed)/2] ^= 1
		if _, err := unpack(packed); err == nil {
			t.Errorf("image %s with a bit wrong: no error", got)
		}
	}
	_, err := imageFor(7, 5)
	oneLine(t, err, "sm_75", "sm_80 or newer")
	if !errors.Is(err, ErrImage) {
		t.Errorf("sm_75: %v is not ErrImage", err)
	}
}
