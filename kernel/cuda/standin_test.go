//go:build cuda && linux

package cuda

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"drover/kernel/cuda/standin"
)

// inside marks a process that runs with the stand-in in the place of the driver.
const inside = "DROVER_STANDIN_DIR"

// TestMain builds the stand-in for the driver from testdata and runs the tests in a
// process that finds it where the dynamic linker looks first.
func TestMain(m *testing.M) {
	_, err := exec.LookPath("g++")
	if os.Getenv(inside) != "" || err != nil {
		os.Exit(m.Run())
	}
	os.Exit(runInside())
}

func runInside() int {
	dir, err := os.MkdirTemp("", "standin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := standin.Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	tests := exec.Command(os.Args[0], os.Args[1:]...)
	tests.Env = append(os.Environ(), "LD_LIBRARY_PATH="+dir, inside+"="+dir)
	tests.Stdout, tests.Stderr = os.Stdout, os.Stderr
	if err := tests.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode()
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// needStandIn skips a test if there was no compiler to build the stand-in with.
func needStandIn(t *testing.T) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("the stand-in for NVIDIA's driver needs a C++ compiler, and there is no g++")
	}
}

// with runs a test once more, in a process whose environment has a variable, and reports
// whether this is that process.
func with(t *testing.T, name, value string) bool {
	t.Helper()
	needStandIn(t)
	const again = "DROVER_STANDIN_AGAIN"
	if os.Getenv(again) == t.Name() {
		return true
	}
	c := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	c.Env = append(os.Environ(), again+"="+t.Name(), name+"="+value)
	out, err := c.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("with %s=%s: %v\n%s", name, value, err, out)
	}
	return false
}

func open(t *testing.T) *Context {
	t.Helper()
	needStandIn(t)
	c, err := Open(0)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func closeContext(t *testing.T, c *Context) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestList(t *testing.T) {
	needStandIn(t)
	l, err := List()
	if err != nil || l.Driver != "575.0" || l.CUDA != "12.9" || len(l.GPUs) != 2 || len(l.Notes) != 0 {
		t.Fatalf("List() = %+v, %v", l, err)
	}
	g := l.GPUs[1]
	if g.Index != 1 || g.Name != "Stand-in B" || g.Architecture != "sm_90" || g.Multiprocessors != 132 ||
		g.Bus != "0000:41:00.0" || g.MemoryBytes != 1<<30 {
		t.Errorf("second GPU is %+v", g)
	}
	if g.Sensors == nil || *g.Sensors != (Sensors{FreeBytes: 1 << 29, Celsius: 41, PowerWatts: 70.5}) {
		t.Errorf("its sensors: %+v", g.Sensors)
	}
}

func TestListWithoutNVML(t *testing.T) {
	if !with(t, "STANDIN", "blind") {
		return
	}
	l, err := List()
	if err != nil || l.Driver != "" || len(l.GPUs) != 2 || l.GPUs[0].Sensors != nil ||
		len(l.Notes) != 1 || !strings.Contains(l.Notes[0], "nvmlInit_v2: error 9") {
		t.Errorf("List() = %+v, %v", l, err)
	}
}

func TestListWithoutDevices(t *testing.T) {
	if !with(t, "STANDIN", "none") {
		return
	}
	if _, err := List(); err == nil || err.Error() != "list GPUs: cuInit: CUDA_ERROR_NO_DEVICE" {
		t.Errorf("List() = %v", err)
	}
	if _, err := Open(0); err == nil || err.Error() != "open GPU 0: cuInit: CUDA_ERROR_NO_DEVICE" {
		t.Errorf("Open(0) = %v", err)
	}
}

// oneLine checks that an error is one line that has some words.
func oneLine(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil || strings.Contains(err.Error(), "\n") {
		t.Fatalf("error %v, want one line", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q, want %q in it", err, w)
		}
	}
}

func TestWithoutDriver(t *testing.T) {
	if !with(t, "LD_LIBRARY_PATH", "/nonexistent") {
		return
	}
	if _, err := load("/nonexistent/libcuda.so.1", cudaNames); err != nil {
		oneLine(t, err, "load NVIDIA's driver", "/nonexistent/libcuda.so.1", "installed")
	} else {
		t.Error("a file that is not there was loaded")
	}
}

func TestOldDriver(t *testing.T) {
	needStandIn(t)
	_, err := load(cudaLibrary, []string{"cuInit", "cuOfNextYear"})
	oneLine(t, err, "libcuda.so.1 has no function cuOfNextYear", "too old")
}

func TestOldCUDA(t *testing.T) {
	if !with(t, "STANDIN", "old") {
		return
	}
	_, err := Open(0)
	oneLine(t, err, "open GPU 0", "CUDA 11.8", "too old", "12.0")
}

func TestOpenRange(t *testing.T) {
	needStandIn(t)
	for _, i := range []int{-1, 2, 1 << 40} {
		_, err := Open(i)
		oneLine(t, err, fmt.Sprintf("open GPU %d: there are 2", i))
	}
}
