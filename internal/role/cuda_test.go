//go:build cuda && linux

package role

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"drover/cluster"
	"drover/coordinator"
	"drover/internal/answer"
	"drover/internal/verify"
	"drover/kernel"
	"drover/kernel/cuda/standin"
	droverv1 "drover/proto/drover/v1"
)

// onGPU opens models for verify on the first GPU.
func onGPU(ctx context.Context, dir string, mode kernel.Mode) (
	droverv1.CoordinatorServiceClient, func(), error) {
	conn, stop, err := InProcess(ctx, dir, InProcessOptions{Mode: mode,
		Compute: Compute{Device: "cuda:0"}, Engine: coordinator.Options{KVBytes: 32 << 20}})
	if err != nil {
		return nil, nil, err
	}
	return droverv1.NewCoordinatorServiceClient(conn), stop, nil
}

// TestVerifyOnGPU compares whole models on the stand-in with what was recorded of the
// reference: all fixtures, and some prompts of the demo model.
func TestVerifyOnGPU(t *testing.T) {
	if !standin.Run(t) {
		return
	}
	opts := verify.Options{Open: onGPU, Report: func(r verify.Result) {
		if r.Status == verify.Failed {
			t.Errorf("%s: %s", r.Name, r.Detail)
		}
	}}
	sum, err := verify.Run(t.Context(), []string{filepath.Join("..", "..", "testdata", "fixtures",
		"models")}, opts)
	if err != nil || sum.Passed < 30 {
		t.Errorf("fixtures: %+v, %v", sum, err)
	}
	all, err := os.ReadFile(filepath.Join(demo, "golden.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	some := filepath.Join(t.TempDir(), "golden.jsonl")
	lines := slices.Collect(bytes.Lines(all))
	if err := os.WriteFile(some, bytes.Join(lines[len(lines)-2:], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	sum, err = verify.Recorded(t.Context(), some, demo, opts)
	if err != nil || sum.Passed != 2 {
		t.Errorf("recorded prompts: %+v, %v", sum, err)
	}
}

// lines is a log that keeps what is written.
type lines struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestNodeLosesGPU loses the GPU of one of two nodes in the middle of answers. The node says
// why and ends, the other one takes its experts, and the answers go on, with the bytes that
// a CPU alone gives.
func TestNodeLosesGPU(t *testing.T) {
	if !standin.Run(t, standin.LostAfter(standin.SelfTestKernels+60)) {
		return
	}
	const mode, tokens, rounds = kernel.BF16, 12, 4
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	store, said := &cluster.Memory{}, &lines{}
	log := slog.New(slog.NewTextHandler(said, nil))
	start := func(id, device string) *ExpertNode {
		n, err := StartExpertNode(ctx, ExpertNodeOptions{ModelDir: demo, Mode: mode, Store: store,
			Compute: Compute{Device: device}, ID: id, Epoch: NewEpoch(), Listen: "127.0.0.1:0",
			Domain: id, ShortLease: true, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Close)
		return n
	}
	gpu, ended := start("gpu", "cuda:0"), make(chan struct{})
	start("cpu", "cpu")
	go func() { // as the command does
		defer close(ended)
		select {
		case <-gpu.Lost():
			await(t, "that the node takes no more rows", func() (bool, string) {
				return gpu.unready() != nil, "it is ready"
			})
			gpu.Close()
		case <-ctx.Done():
		}
	}()
	c, err := StartCoordinator(ctx, CoordinatorOptions{ModelDir: demo, Mode: mode, Store: store,
		MinNodes: 2, ExpertDevice: AnyDevice, GRPC: loopback(t), ShortLease: true,
		LastResort: LastResort{Wait: within}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	alone, stop, err := InProcess(ctx, demo, InProcessOptions{Mode: mode})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	reference := droverv1.NewCoordinatorServiceClient(alone)
	served := droverv1.NewCoordinatorServiceClient(c.Conn)
	for i := range rounds {
		request := &droverv1.GenerateRequest{MaxTokens: tokens, IgnoreEos: true,
			Prompt: &droverv1.GenerateRequest_Tokens{Tokens: &droverv1.Tokens{
				Ids: []int32{int32(10 + i), 20, 30}}}}
		want, err := answer.Ask(ctx, reference, request)
		if err != nil {
			t.Fatal(err)
		}
		got, err := answer.Ask(ctx, served, request)
		if err != nil || !slices.Equal(got.Tokens, want.Tokens) {
			t.Fatalf("round %d: %v, %v, want %v", i, got, err, want.Tokens)
		}
	}
	if <-ended; gpu.Err() == nil {
		t.Fatalf("the GPU was not lost in %d rounds", rounds)
	}
	for _, want := range []string{"the device is lost: this node takes no more rows",
		"CUDA_ERROR_ILLEGAL_ADDRESS"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, said)
		}
	}
}

// TestGPUDistrusted opens a GPU whose tensor cores multiply integers wrongly, which the log is
// told, and answers have a CPU's bytes; and one that nothing can be done without, which is
// refused by name.
func TestGPUDistrusted(t *testing.T) {
	if !standin.Run(t, "STANDIN_WRONG= mul_narrow_int8 mul_tensor_bf16 ") {
		return
	}
	said := &lines{}
	log := slog.New(slog.NewTextHandler(said, nil))
	_, done, err := OpenDevice(Compute{Device: "cuda-tensor:0"}, kernel.BF16, log)
	if done(); err == nil || !strings.Contains(err.Error(), "kernel mul_tensor_bf16: row 0") ||
		!strings.Contains(err.Error(), "use cuda:0") || said.String() != "" {
		t.Errorf("cuda-tensor: %v, and said %q", err, said)
	}
	var answers [2]string
	for i, device := range []string{"cpu", "cuda:0"} {
		conn, stop, err := InProcess(t.Context(), demo, InProcessOptions{Mode: kernel.Int8,
			Compute: Compute{Device: device}, Engine: coordinator.Options{KVBytes: 32 << 20},
			Weights: Weights{Log: log}})
		if err != nil {
			t.Fatal(err)
		}
		answers[i] = askLong(t, droverv1.NewCoordinatorServiceClient(conn), 12)
		stop()
	}
	if answers[0] != answers[1] {
		t.Errorf("a CPU answers %s, the GPU %s", answers[0], answers[1])
	}
	if !strings.Contains(said.String(), "level=WARN") ||
		!strings.Contains(said.String(), "kernels=mul_narrow_int8\n") {
		t.Errorf("the log says %q", said)
	}
}
