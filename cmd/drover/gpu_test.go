//go:build cuda && linux

package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"drover/kernel/cuda/standin"
)

// oneReason is a command's last line, when it gives a reason for its end, and nothing else that
// is no log.
var oneReason = regexp.MustCompile(`(?m)^drover: .*\n\z`)

// gaveUp checks how a process ended.
func gaveUp(t *testing.T, p *process, code int, says ...string) {
	t.Helper()
	got, said := p.wait(60*slack*time.Second), p.errors.String()
	reason := oneReason.FindString(said)
	if got != code || reason == "" || strings.Count(said, "drover: ") != 1 {
		t.Errorf("exit code %d, want %d and one line of a reason; said: %s", got, code, said)
	}
	for _, text := range says {
		if !strings.Contains(reason, text) {
			t.Errorf("the reason is %q, want %q in it", reason, text)
		}
	}
}

// TestNodeRefusesGPU starts expert nodes on GPUs that cannot be used: each ends and says why in
// one line. With auto they compute on the CPU.
func TestNodeRefusesGPU(t *testing.T) {
	if !standin.Run(t) {
		return
	}
	r := &roles{etcd: startEtcd(t), model: demoModel(t)}
	for name, tc := range map[string]struct {
		env  string
		more []string
		says []string
		auto bool // computes on the CPU, and says why
	}{
		"no device": {"STANDIN=none", nil, []string{"open GPU 0: cuInit", "CUDA_ERROR_NO_DEVICE"}, true},
		"no such device": {"STANDIN=", []string{"--device", "cuda:7"},
			[]string{"open GPU 7: there are 2, numbered from 0"}, false},
		"tensor cores in exact": {"STANDIN=", []string{"--device", "cuda-tensor:0", "--mode", "exact"},
			[]string{"cuda-tensor:0", "mode exact", "use mode bf16, or cuda:0"}, false},
		"old driver": {"STANDIN=old", nil, []string{"open GPU 0", "CUDA 11.8", "too old",
			"install one for CUDA 12.0 or newer"}, true},
		"old device": {"STANDIN=sm_75", nil, []string{"open GPU 0: load kernels", "sm_75",
			"sm_80 or newer"}, true},
		"damaged kernels": {"STANDIN=damaged", nil, []string{"open GPU 0: load kernels",
			"CUDA_ERROR_INVALID_IMAGE"}, true},
		"computes wrongly": {"STANDIN_WRONG= mul_f32 ", nil, []string{"open GPU 0: self-test",
			"this GPU computes wrongly: kernel mul_f32: row 0", "use another GPU, or cpu"}, true},
		"no room for an expert": {"STANDIN_MEMORY=100000000", nil, []string{"the GPU has",
			"an expert takes", "use another one, or end what else is on it"}, true},
		"no room for so many": {"STANDIN_MEMORY=300000000", []string{"--capacity", "200000000"},
			[]string{"a capacity of", "more than", "that the GPU has room for"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			at := place{dir: t.TempDir(), env: []string{tc.env}}
			device := []string{"--device", "cuda:0"}
			gaveUp(t, r.expertNode(t, at, "gpu", append(device, tc.more...)...), exitFailed, tc.says...)
			if !tc.auto {
				return
			}
			p := r.expertNode(t, at, "auto", "--device", "auto", "--short-lease")
			eventually(t, 60*slack*time.Second, "the node serves", func() (bool, string) {
				return strings.Contains(p.errors.String(), "serving rows"), p.errors.String()
			})
			p.signal(os.Interrupt)
			if code := p.wait(60 * slack * time.Second); code != exitDone {
				t.Errorf("exit code %d after an interrupt, want %d", code, exitDone)
			}
			if said := p.errors.String(); !strings.Contains(said, "no GPU computes here") ||
				!strings.Contains(said, tc.says[len(tc.says)-1]) {
				t.Errorf("with auto it said: %s", said)
			}
		})
	}
}

// TestNodeEndsWithoutGPU loses the GPUs of expert nodes while they compute, and has one whose
// memory others took: each ends with exit code 1 and one line that says what happened, and
// answers stay what they were.
func TestNodeEndsWithoutGPU(t *testing.T) {
	if !standin.Run(t) {
		return
	}
	r := &roles{etcd: startEtcd(t), model: demoModel(t)}
	code, want, said := drover(t, "run", "--model", r.model, "--mode", "exact", story)
	if code != exitDone {
		t.Fatalf("exit code %d: %s", code, said)
	}
	r.expertNode(t, place{dir: t.TempDir()}, "cpu", "--device", "cpu", "--short-lease")
	onGPU := func(name string, env ...string) *process {
		return r.expertNode(t, place{dir: t.TempDir(), env: env}, name, "--device", "cuda:0",
			"--short-lease")
	}
	lost := func(name, error string) *process {
		return onGPU(name, standin.LostAfter(standin.SelfTestKernels+40), "STANDIN_ERROR="+error)
	}
	node := lost("illegal", "700")
	_, endpoint := r.coordinator(t, place{dir: t.TempDir()}, "--grpc", "127.0.0.1:0", "--device",
		"cpu", "--expert-device", "any")
	c := connectTo(t, endpoint)
	for i, tc := range []struct{ name, error, says string }{
		{"illegal", "700", "CUDA_ERROR_ILLEGAL_ADDRESS"},
		{"memory", "214", "CUDA_ERROR_ECC_UNCORRECTABLE"},
		{"gone", "46", "CUDA_ERROR_DEVICE_UNAVAILABLE"},
	} {
		if i > 0 {
			node = lost(tc.name, tc.error)
		}
		eventually(t, 120*slack*time.Second, "the node with a GPU ends", func() (bool, string) {
			if got := c.mustAsk(t, story); got+"\n" != want {
				t.Fatalf("the nodes answer %q, want %q", got, want)
			}
			select {
			case <-node.ended:
				return true, ""
			default:
				return false, node.errors.String()
			}
		})
		gaveUp(t, node, exitFailed, "GPU 0: the device is lost", tc.says)
		if !strings.Contains(node.errors.String(), "this node takes no more rows") {
			t.Errorf("%s: it did not say that it takes no more rows: %s", tc.name, &node.errors)
		}
	}
	gaveUp(t, onGPU("full", "STANDIN_MEMORY=8000000", "STANDIN_CLAIM=2000000000"), exitFailed,
		"CUDA_ERROR_OUT_OF_MEMORY", "end what else is on it, or set --capacity")
	if got := c.mustAsk(t, story); got+"\n" != want {
		t.Fatalf("the nodes answer %q, want %q", got, want)
	}
}
