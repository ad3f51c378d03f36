//go:build cuda && linux

package role

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"drover/coordinator"
	"drover/internal/answer"
	"drover/internal/verify"
	"drover/kernel"
	"drover/kernel/cuda/standin"
	droverv1 "drover/proto/drover/v1"
)

// onTensorCores opens models on the first GPU, with products of bfloat16 on tensor cores.
func onTensorCores(ctx context.Context, dir string, mode kernel.Mode) (
	droverv1.CoordinatorServiceClient, func(), error) {
	conn, stop, err := InProcess(ctx, dir, InProcessOptions{Mode: mode,
		Compute: Compute{Device: "cuda-tensor:0"}, Engine: coordinator.Options{KVBytes: 32 << 20}})
	if err != nil {
		return nil, nil, err
	}
	return droverv1.NewCoordinatorServiceClient(conn), stop, nil
}

// TestVerifyOnGPUTensorCores compares whole models on the stand-in with what was recorded of the
// reference, within the tolerance of bf16, and answers of different batches with each other.
func TestVerifyOnGPUTensorCores(t *testing.T) {
	if !standin.Run(t) {
		return
	}
	opts := verify.Options{Mode: "bf16", Open: onTensorCores, Report: func(r verify.Result) {
		if r.Status == verify.Failed {
			t.Errorf("%s: %s", r.Name, r.Detail)
		}
	}}
	sum, err := verify.Run(t.Context(), []string{filepath.Join("..", "..", "testdata", "fixtures",
		"models", "llama4_scout_causal")}, opts)
	if err != nil || sum.Passed < 7 {
		t.Errorf("fixtures: %+v, %v", sum, err)
	}
	client, stop, err := onTensorCores(t.Context(), demo, kernel.BF16)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	ask := func(i int) []int32 {
		got, err := answer.Ask(t.Context(), client, &droverv1.GenerateRequest{MaxTokens: 6,
			IgnoreEos: true, Prompt: &droverv1.GenerateRequest_Tokens{
				Tokens: &droverv1.Tokens{Ids: []int32{int32(10 + i), 20, 30}}}})
		if err != nil {
			t.Error(err)
			return nil
		}
		return got.Tokens
	}
	const requests = 6
	var alone [requests][]int32
	for i := range alone {
		alone[i] = ask(i)
	}
	together := make(chan int, requests)
	for i := range requests {
		go func() {
			if got := ask(i); !slices.Equal(got, alone[i]) {
				t.Errorf("request %d: %v with others, %v alone", i, got, alone[i])
			}
			together <- i
		}()
	}
	for range requests {
		<-together
	}
}
