package role

import (
	"strings"
	"testing"

	"drover/kernel"
	"drover/kernel/cuda"
)

func TestParseDevice(t *testing.T) {
	for name, want := range map[string]GPU{"": {}, "cpu": {}, "auto": {}, "cuda": {cuda.Kind, 0},
		"cuda:7": {cuda.Kind, 7}, "cuda-tensor": {cuda.TensorKind, 0},
		"cuda-tensor:3": {cuda.TensorKind, 3}} {
		if got, err := ParseDevice(name); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", name, got, err, want)
		}
	}
	for _, name := range []string{"gpu", "cuda:", "cuda:-1", "cuda:1024", "cuda:x", "tensor:0", "cpu:0",
		"cuda-tensor:", "cuda-tensor:0:1"} {
		if got, err := ParseDevice(name); err == nil || !strings.Contains(err.Error(), "use cpu") {
			t.Errorf("%q: %+v, %v, want an error", name, got, err)
		}
	}
}

// TestTensorModes checks that devices which keep less of rows refuse modes that promise float32,
// before they are looked for.
func TestTensorModes(t *testing.T) {
	for mode, refused := range map[string]bool{"exact": true, "bf16": false, "int4": false,
		"int8,head=exact": true, "exact,kv=bf16": true, "bf16,kv=exact,rows=exact": false} {
		m, err := kernel.ParseMode(mode)
		if err != nil {
			t.Fatal(err)
		}
		_, done, err := OpenDevice(Compute{Device: "cuda-tensor:1023"}, m, nil)
		done()
		if err == nil || refused != strings.Contains(err.Error(), "use mode bf16, or cuda:1023") {
			t.Errorf("%s: %v, refused is to be %v", mode, err, refused)
		}
	}
}

// TestExpertClass checks which nodes a coordinator takes, and what it tells of itself.
func TestExpertClass(t *testing.T) {
	m := &Model{Mode: kernel.BF16}
	for kind, want := range map[string]string{"": "cpu4-bf16", "cpu": "cpu4-bf16", "cuda": "cuda4-bf16",
		"cuda-tensor": "cuda-tensor4-bf16", "any": ""} {
		o := CoordinatorOptions{Mode: kernel.BF16, ExpertDevice: kind}
		if got := o.expertClass(m); got != want {
			t.Errorf("experts of %q: class %q, want %q", kind, got, want)
		}
	}
}
