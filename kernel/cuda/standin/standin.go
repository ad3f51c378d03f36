// Package standin lets tests run with a stand-in for NVIDIA's driver, which computes on
// the CPU: see kernel/cuda/testdata/standin.cpp.
package standin

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
)

// SelfTestKernels is the number of kernels that the self-test of a device of kind cuda launches.
const SelfTestKernels = 126

// LostAfter is a variable of the environment for Run: the device fails when so many kernels have
// been launched.
func LostAfter(kernels int) string { return "STANDIN_LOST=" + strconv.Itoa(kernels) }

// again names the test that a process is to run with the stand-in.
const again = "DROVER_STANDIN_TEST"

// Run runs a test once more, in a process that finds the stand-in where it looks for the
// driver, with some more variables of the environment, and reports whether this is that
// process. It skips the test if there is no compiler.
func Run(t *testing.T, env ...string) bool {
	t.Helper()
	if os.Getenv(again) == t.Name() {
		return true
	}
	if _, err := exec.LookPath("g++"); err != nil {
		t.Skip("the stand-in for NVIDIA's driver needs a C++ compiler, and there is no g++")
	}
	dir := t.TempDir()
	if err := Build(dir); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=9m")
	c.Env = append(append(os.Environ(), again+"="+t.Name(), "LD_LIBRARY_PATH="+dir), env...)
	out, err := c.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("with the stand-in and %v: %v\n%s", env, err, out)
	}
	return false
}

// Build compiles the stand-in into a folder, under the names of both of the driver's
// libraries.
func Build(dir string) error {
	_, file, _, _ := runtime.Caller(0)
	data := filepath.Join(filepath.Dir(file), "..", "testdata")
	const library = "libcuda.so.1"
	// Fortified, a jump to another thread's stack counts as a mistake.
	c := exec.Command("g++", "-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-Wall",
		"-Werror", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE", "-I"+data, "-o",
		filepath.Join(dir, library), filepath.Join(data, "standin.cpp"))
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build the stand-in: %w\n%s", err, out)
	}
	return os.Symlink(library, filepath.Join(dir, "libnvidia-ml.so.1"))
}
