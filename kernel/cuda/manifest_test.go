package cuda

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Budgets of a kernel. 64 registers let a multiprocessor hold 1024 threads.
const (
	maxRegisters   = 64
	maxSharedBytes = 48 << 10
)

// allowances are those of kernels that need more registers: 80 let a multiprocessor hold
// three blocks of attention's 256 threads, 255 two of mul_tensor's 128 and one of mul_wide's 256,
// which have sums of spans as well, and 128 two of the 256 that mul_tensor has for bfloat16. Of the
// blocks of mul_few and mul_narrow, 32 threads each, it holds as many as its shared memory does,
// seven at most. Of mul_hopper's blocks, 256 threads with 255 registers, it holds one.
var allowances = map[string]int{"attend_f32": 80, "attend_bf16": 80, "attend_int8": 80,
	"attend_tensor_bf16": 80,
	"mul_few_f32":        144, "mul_few_bf16": 144, "mul_few_int8": 144, "mul_few_int4": 144, "mul_few_fp8": 144,
	"mul_narrow_bf16": 128, "mul_narrow_fp8": 128, "mul_narrow_int8": 128, "mul_narrow_int4": 128, "mul_tensor_bf16": 128,
	"mul_tensor_fp8": 128,
	"mul_wide_int8":  255, "mul_tensor_int8": 255, "mul_tensor_int4": 255,
	"mul_hopper_int8": 255, "mul_hopper_int4": 255, "mul_hopper_bf16": 255, "mul_hopper_fp8": 255,
	"measure_hopper_bf16": 128, "measure_hopper_int8": 128}

type manifest struct {
	Source  string
	Targets map[string]struct {
		SHA256  string
		Bytes   int
		Kernels map[string]struct{ Registers, Shared, Spills, Stack int }
	}
}

// TestImages checks that the checked-in machine code is of the sources beside it, whole,
// for every target, and within the budgets.
func TestImages(t *testing.T) {
	raw, err := os.ReadFile("images/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	source, kernels := sourceOf(t)
	if m.Source != source {
		t.Errorf("images are of other sources (%s, here %s): run scripts/gpu-kernels", m.Source, source)
	}
	for _, target := range []string{"sm_80", "sm_90a", "sm_100", "compute_80"} {
		image := imageBytes(t, target)
		sum := sha256.Sum256(image)
		want := m.Targets[target]
		if hex.EncodeToString(sum[:]) != want.SHA256 || len(image) != want.Bytes {
			t.Errorf("%s: %d bytes with hash %x, want %d with %s", target, len(image), sum, want.Bytes,
				want.SHA256)
		}
		for _, name := range kernels {
			hopper := strings.Contains(name, "_hopper_") && target != "sm_90a"
			if bytes.Contains(image, []byte(name)) == hopper {
				t.Errorf("%s has kernel %s: %v", target, name, hopper)
			}
			if target == "compute_80" || hopper {
				continue // PTX has no registers yet
			}
			use, ok := want.Kernels[name]
			most := max(maxRegisters, allowances[name])
			if !ok || use.Registers < 1 || use.Registers > most || use.Spills != 0 ||
				use.Stack != 0 || use.Shared > maxSharedBytes {
				t.Errorf("%s: %s uses %+v, allowed are %d registers, %d bytes shared, no spills", target,
					name, use, most, maxSharedBytes)
			}
		}
	}
	if image := imageBytes(t, "compute_80"); image[len(image)-1] != 0 {
		t.Error("PTX does not end on a zero byte")
	}
}

// sourceOf is the hash of all sources, as scripts/gpu-kernels computes it, and the names
// of their kernels.
func sourceOf(t *testing.T) (hash string, kernels []string) {
	t.Helper()
	files, err := filepath.Glob("src/*")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	h := sha256.New()
	kernel := regexp.MustCompile(`__global__[^(]*(?:__launch_bounds__\([^)]*\)\s*)?\b(\w+)\(\w+ `)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(h, "%s %d\n", filepath.Base(f), len(b))
		h.Write(b)
		for _, found := range kernel.FindAllSubmatch(b, -1) {
			kernels = append(kernels, string(found[1]))
		}
	}
	if len(kernels) < 5 {
		t.Fatalf("found only the kernels %v", kernels)
	}
	return hex.EncodeToString(h.Sum(nil)), kernels
}

func imageBytes(t *testing.T, target string) []byte {
	t.Helper()
	packed, err := os.ReadFile("images/" + target + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	image, err := io.ReadAll(r)
	if err != nil || len(image) == 0 {
		t.Fatalf("%s: %d bytes, %v", target, len(image), err)
	}
	return image
}
