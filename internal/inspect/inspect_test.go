package inspect

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drover/kernel"
)

const fixtures = "../../testdata/fixtures"

func TestDemoModel(t *testing.T) {
	r, err := Dir("../../models/tiny-maverick", kernel.BF16, 0)
	if err != nil {
		t.Fatal(err)
	}
	// 4 MoE layers of 128 experts, each with 3 matrices of 128 x 64.
	const expert = 3 * 128 * 64
	if r.Parameters.RoutedExperts != 4*128*expert {
		t.Errorf("%d parameters in routed experts, want %d",
			r.Parameters.RoutedExperts, 4*128*expert)
	}
	if m := millions(r.Parameters.Total); m != "14.82 M" {
		t.Errorf("%s parameters, MODEL_CARD.md says 14.82 M", m)
	}
	p := r.Parameters
	if want := p.Total - p.Vision - 4*127*expert; p.Active != want {
		t.Errorf("%d active parameters, want %d", p.Active, want)
	}
	if r.Architecture != "llama4" || !r.ChatTemplate || r.Tokenizer != "ok" {
		t.Errorf("architecture %s, chat template %v, tokenizer %s",
			r.Architecture, r.ChatTemplate, r.Tokenizer)
	}
	m := r.Model
	if m == nil || m.Layers != 8 || !slices.Equal(m.MoELayers, []int{1, 3, 5, 7}) ||
		m.ExpertsPerLayer != 128 || m.ExpertsPerToken != 1 || m.Vocabulary != 2048 {
		t.Errorf("model %+v", m)
	}
	if d := r.DTypes["BF16"]; d.Bytes != r.WeightBytes || d.Bytes != 2*p.Total {
		t.Errorf("dtypes %v of %d bytes", r.DTypes, r.WeightBytes)
	}
	nodes := r.Memory.Nodes
	if len(nodes) != 8 || nodes[0].Nodes != 1 || nodes[2].Replicas != 4*32 ||
		nodes[2].Bytes != 4*32*r.Memory.ReplicaBytes {
		t.Errorf("nodes %+v", nodes)
	}
	if least := int64(2 * expert); r.Memory.ReplicaBytes < least {
		t.Errorf("a replica of %d bytes cannot hold %d", r.Memory.ReplicaBytes, least)
	}
	for _, want := range []string{"node of 8", "MoE in 4: [1 3 5 7]", "14.82 M"} {
		if !strings.Contains(r.Text(), want) {
			t.Errorf("text lacks %q:\n%s", want, r.Text())
		}
	}
}

func TestNodes(t *testing.T) {
	dir := filepath.Join(fixtures, "models", "llama4_scout_causal")
	r, err := Dir(dir, kernel.BF16, 5)
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Memory.Nodes; len(n) != 1 || n[0].Nodes != 5 || n[0].Replicas != 4*4 {
		t.Errorf("16 experts in 4 layers on 5 nodes: %+v", n)
	}
	if r.Tokenizer != "none" || r.ChatTemplate {
		t.Errorf("tokenizer %q, chat template %v", r.Tokenizer, r.ChatTemplate)
	}
	if _, err := Dir(dir, kernel.BF16, -1); err == nil {
		t.Error("-1 nodes: no error")
	}
}

func TestDense(t *testing.T) {
	r, err := Dir(filepath.Join(fixtures, "models", "llama4_guard_dense"), kernel.BF16, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Memory.Nodes) != 0 || r.Parameters.Active != r.Parameters.Total-r.Parameters.Vision {
		t.Errorf("dense model: %+v, %+v", r.Memory, r.Parameters)
	}
}

func TestUnsupportedAndMalformed(t *testing.T) {
	r, err := Dir(filepath.Join(fixtures, "models", "gpt_oss"), kernel.BF16, 0)
	if err != nil {
		t.Fatal(err)
	}
	if r.Unsupported == "" && r.Model == nil || r.Parameters.Total == 0 {
		t.Errorf("gpt_oss: %+v", r)
	}
	for _, name := range []string{"truncated_data", "config_missing", "config_zero_heads"} {
		if _, err := Dir(filepath.Join(fixtures, "malformed", name), kernel.BF16, 0); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
