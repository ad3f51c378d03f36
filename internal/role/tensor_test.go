//go:build cuda && linux

package role

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"drover/coordinator"
	"drover/internal/answer"
	"drover/internal/verify"
	"drover/kernel"
	"drover/kernel/cuda/standin"
	droverv1 "drover/proto/drover/v1"
)

// openOn opens a model on a device.
func openOn(device string) verify.Opener {
	return func(ctx context.Context, dir string, mode kernel.Mode) (
		droverv1.CoordinatorServiceClient, func(), error) {
		conn, stop, err := InProcess(ctx, dir, InProcessOptions{Mode: mode,
			Compute: Compute{Device: device}, Engine: coordinator.Options{KVBytes: 32 << 20}})
		if err != nil {
			return nil, nil, err
		}
		return droverv1.NewCoordinatorServiceClient(conn), stop, nil
	}
}

// askLong asks for some tokens after a prompt of so many, and returns them with their
// probabilities.
func askLong(t *testing.T, client droverv1.CoordinatorServiceClient, prompt int) string {
	ids := make([]int32, prompt)
	for i := range ids {
		ids[i] = int32(10 + (i*i+7*prompt)%200)
	}
	got, err := answer.Ask(t.Context(), client, &droverv1.GenerateRequest{MaxTokens: 6,
		IgnoreEos: true, TopLogprobs: new(uint32(3)), Prompt: &droverv1.GenerateRequest_Tokens{
			Tokens: &droverv1.Tokens{Ids: ids}}})
	if err != nil {
		t.Error(err)
		return ""
	}
	return fmt.Sprint(got.Tokens, got.Logprobs)
}

// TestGPUIntegers compares answers in 8 and 4 bits with a CPU's, to the last bit of
// probabilities, with prompts as long as the kernels for many rows want them.
func TestGPUIntegers(t *testing.T) {
	if !standin.Run(t) {
		return
	}
	for _, mode := range []kernel.Mode{kernel.Int8, kernel.Int4} {
		var clients [2]droverv1.CoordinatorServiceClient
		for i, device := range []string{"cpu", "cuda:0"} {
			client, stop, err := openOn(device)(t.Context(), demo, mode)
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			clients[i] = client
		}
		for _, prompt := range []int{3, 30, 150} {
			want := askLong(t, clients[0], prompt)
			if got := askLong(t, clients[1], prompt); got != want {
				t.Errorf("%v, %d tokens on a GPU: %s, want %s", mode, prompt, got, want)
			}
		}
	}
}

// TestVerifyOnGPUTensorCores compares whole models on the stand-in with what was recorded of the
// reference, within the tolerance of bf16, and answers of different batches with each other.
func TestVerifyOnGPUTensorCores(t *testing.T) {
	if !standin.Run(t) {
		return
	}
	opts := verify.Options{Mode: "bf16", Open: openOn("cuda-tensor:0"), Report: func(r verify.Result) {
		if r.Status == verify.Failed {
			t.Errorf("%s: %s", r.Name, r.Detail)
		}
	}}
	sum, err := verify.Run(t.Context(), []string{filepath.Join("..", "..", "testdata", "fixtures",
		"models", "llama4_scout_causal")}, opts)
	if err != nil || sum.Passed < 7 {
		t.Errorf("fixtures: %+v, %v", sum, err)
	}
	for _, mode := range []kernel.Mode{kernel.BF16, kernel.FP8} {
		askTogether(t, mode)
	}
}

// askTogether compares answers on tensor cores of prompts that are asked alone and together.
func askTogether(t *testing.T, mode kernel.Mode) {
	client, stop, err := openOn("cuda-tensor:0")(t.Context(), demo, mode)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	prompts := []int{3, 5, 20, 40, 1, 9}
	var alone []string
	for _, n := range prompts {
		alone = append(alone, askLong(t, client, n))
	}
	together := make(chan struct{}, len(prompts))
	for i, n := range prompts {
		go func() {
			if got := askLong(t, client, n); got != alone[i] {
				t.Errorf("%v, a prompt of %d tokens: %v with others, %v alone", mode, n, got, alone[i])
			}
			together <- struct{}{}
		}()
	}
	for range prompts {
		<-together
	}
}
