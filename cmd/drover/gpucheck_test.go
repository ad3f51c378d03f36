//go:build cuda && linux

package main

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"drover/internal/testcluster"
	"drover/kernel/cuda/standin"
)

// checked is what the test reads of the document that scripts/gpu-check writes.
type checked struct {
	Device  struct{ Name string }
	Driver  string
	Version string
	Parts   map[string]json.RawMessage
	LeftOut []struct{ What, Why string } `json:"left_out"`
}

// gpuCheck runs scripts/gpu-check on the stand-in, with the program packed as for a machine
// that gets little, and returns its exit code and its document.
func gpuCheck(t *testing.T, env ...string) (code int, doc checked) {
	t.Helper()
	for _, need := range []string{"g++", "python3"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Skip("scripts/gpu-check on the stand-in needs " + need)
		}
	}
	dir := t.TempDir()
	if err := standin.Build(dir); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("drover")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "drover.gz"))
	if err != nil {
		t.Fatal(err)
	}
	w := gzip.NewWriter(f)
	fmt.Fprintf(w, "#!/bin/sh\nexec '%s' \"$@\"\n", program)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out.json")
	c := exec.Command("python3", testcluster.Path("scripts/gpu-check"), "--small", "--within", "540",
		"--drover", f.Name(), "--fixtures", testcluster.Path("testdata/fixtures/models"), "--out", out)
	c.Env = append(append(os.Environ(), "LD_LIBRARY_PATH="+dir), env...)
	said, err := c.CombinedOutput()
	t.Logf("%s", said)
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(out)
	if err == nil {
		err = json.Unmarshal(raw, &doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), doc
}

// TestGPUCheck runs all parts, small, and reads the figures that docs/gpu.md is to quote.
func TestGPUCheck(t *testing.T) {
	code, doc := gpuCheck(t)
	if code != 0 || len(doc.LeftOut) > 0 {
		t.Fatalf("exit code %d, left out: %+v", code, doc.LeftOut)
	}
	if doc.Device.Name != "Stand-in A" || doc.Driver != "575.0" ||
		!strings.HasPrefix(doc.Version, "drover ") {
		t.Errorf("device %+v, driver %q, version %q", doc.Device, doc.Driver, doc.Version)
	}
	for name, read := range map[string]func(part []byte) error{
		"verify exact": func(part []byte) error {
			var v struct{ Summary struct{ Passed, Failed int } }
			if err := json.Unmarshal(part, &v); err != nil || v.Summary.Passed < 5 || v.Summary.Failed > 0 {
				return fmt.Errorf("%+v, %w", v, err)
			}
			return nil
		},
		"kernels": func(part []byte) error {
			var v struct {
				Limits  []struct{ Median float64 }
				Results []struct {
					Kernel, Mode, By string
					M                int
					Fraction, Gbps   float64
					Differs          *float64
				}
			}
			if err := json.Unmarshal(part, &v); err != nil || len(v.Limits) != 5 || len(v.Results) != 16 {
				return fmt.Errorf("%+v, %w", v, err)
			}
			for _, r := range v.Results {
				compared := r.Differs != nil && *r.Differs == 0
				if r.Fraction <= 0 || r.Gbps <= 0 || compared != (r.Kernel == "experts") ||
					compared != (strings.HasPrefix(r.By, "mul_") && strings.HasSuffix(r.By, r.Mode)) {
					return fmt.Errorf("a result is %+v", r)
				}
				if r.M == 512 && r.Mode == "int4" && r.By != "mul_hopper_int4" {
					return fmt.Errorf("512 rows in int4 are by %s", r.By)
				}
			}
			return nil
		},
		"kernels tensor": func(part []byte) error {
			var v struct {
				Kind    string
				Results []struct {
					Mode    string
					Differs float64
				}
			}
			if err := json.Unmarshal(part, &v); err != nil || v.Kind != "cuda-tensor" || len(v.Results) != 8 {
				return fmt.Errorf("%+v, %w", v, err)
			}
			for i, r := range v.Results[:6] {
				if r.Mode != []string{"bf16", "fp8"}[i/3] || r.Differs <= 0 || r.Differs > 1e-3 {
					return fmt.Errorf("a result is %+v", r)
				}
			}
			return nil
		},
		"verify bf16 tensor": func(part []byte) error {
			var v struct{ Summary struct{ Passed, Failed int } }
			if err := json.Unmarshal(part, &v); err != nil || v.Summary.Passed < 5 || v.Summary.Failed > 0 {
				return fmt.Errorf("%+v, %w", v, err)
			}
			return nil
		},
		"wire": func(part []byte) error {
			var v struct{ Added []struct{ Batch int } }
			if err := json.Unmarshal(part, &v); err != nil || len(v.Added) != 2 || v.Added[1].Batch != 4 {
				return fmt.Errorf("%+v, %w", v, err)
			}
			return nil
		},
		"model int4": func(part []byte) error {
			var v struct {
				Model struct {
					Bounds []struct{ Bytes, Fraction float64 }
				}
			}
			if err := json.Unmarshal(part, &v); err != nil || len(v.Model.Bounds) != 2 ||
				v.Model.Bounds[0].Bytes <= 0 || v.Model.Bounds[0].Fraction <= 0 {
				return fmt.Errorf("%+v, %w", v, err)
			}
			return nil
		},
	} {
		if err := read(doc.Parts[name]); err != nil {
			t.Errorf("part %s: %v", name, err)
		}
	}
}

// TestGPUCheckLost has the device fail after some kernels, few more than the self-test of cuda:0
// has, and in that of cuda-tensor:0: every part that needs it says so, the
// document is whole, and the exit code tells.
func TestGPUCheckLost(t *testing.T) {
	code, doc := gpuCheck(t, standin.LostAfter(standin.SelfTestKernels+3))
	if code != 1 || doc.Device.Name != "Stand-in A" || doc.Parts["devices"] == nil {
		t.Errorf("exit code %d, device %+v", code, doc.Device)
	}
	left := map[string]string{}
	for _, l := range doc.LeftOut {
		left[l.What] = l.Why
	}
	for _, part := range []string{"kernels", "kernels tensor", "wire", "model bf16", "model int4",
		"model bf16 tensor"} {
		if why, ok := left[part]; !ok || !strings.Contains(why, "the device is lost") {
			t.Errorf("%s is left out since %q", part, why)
		}
	}
}
