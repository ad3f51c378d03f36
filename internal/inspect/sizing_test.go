package inspect

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drover/kernel"
)

// published is the shape of a published Llama 4 model, as its config.json has it.
type published struct {
	name    string
	experts int
	step    int // a layer of so many is MoE
}

// What both have in common.
const (
	hidden, width, denseWidth = 5120, 8192, 16384
	layers, heads, kvHeads    = 48, 40, 8
	headDim, vocabulary       = 128, 202048
)

// tensors lists the text model's tensors with their dimensions.
func (p published) tensors() map[string][]int {
	const prefix = "language_model.model."
	all := map[string][]int{
		prefix + "embed_tokens.weight":  {vocabulary, hidden},
		prefix + "norm.weight":          {hidden},
		"language_model.lm_head.weight": {vocabulary, hidden},
	}
	for i := range layers {
		l := fmt.Sprintf("%slayers.%d.", prefix, i)
		all[l+"input_layernorm.weight"] = []int{hidden}
		all[l+"post_attention_layernorm.weight"] = []int{hidden}
		all[l+"self_attn.q_proj.weight"] = []int{heads * headDim, hidden}
		all[l+"self_attn.k_proj.weight"] = []int{kvHeads * headDim, hidden}
		all[l+"self_attn.v_proj.weight"] = []int{kvHeads * headDim, hidden}
		all[l+"self_attn.o_proj.weight"] = []int{hidden, heads * headDim}
		ffn, w := l+"feed_forward.", denseWidth
		if i%p.step == p.step-1 {
			all[ffn+"router.weight"] = []int{p.experts, hidden}
			all[ffn+"experts.gate_up_proj"] = []int{p.experts, hidden, 2 * width}
			all[ffn+"experts.down_proj"] = []int{p.experts, width, hidden}
			ffn, w = ffn+"shared_expert.", width
		}
		all[ffn+"gate_proj.weight"] = []int{w, hidden}
		all[ffn+"up_proj.weight"] = []int{w, hidden}
		all[ffn+"down_proj.weight"] = []int{hidden, w}
	}
	return all
}

// write makes a model directory of the shape whose weights are holes.
func (p published) write(t *testing.T, dir string) {
	t.Helper()
	config := map[string]any{"model_type": "llama4", "torch_dtype": "bfloat16",
		"text_config": map[string]any{
			"model_type": "llama4_text", "hidden_size": hidden, "intermediate_size": width,
			"intermediate_size_mlp": denseWidth, "num_hidden_layers": layers,
			"num_attention_heads": heads, "num_key_value_heads": kvHeads, "head_dim": headDim,
			"num_local_experts": p.experts, "num_experts_per_tok": 1,
			"interleave_moe_layer_step": p.step, "vocab_size": vocabulary,
			"max_position_embeddings": 1 << 20, "attention_chunk_size": 8192,
			"rms_norm_eps": 1e-5, "rope_theta": 500000, "use_qk_norm": false,
			"hidden_act": "silu",
		}}
	header, end := map[string]any{}, int64(0)
	all := p.tensors()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		size := int64(2)
		for _, n := range all[name] {
			size *= int64(n)
		}
		header[name] = map[string]any{"dtype": "BF16", "shape": all[name],
			"data_offsets": []int64{end, end + size}}
		end += size
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err = json.Marshal(header); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "model.safetensors")
	head := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	if err := os.WriteFile(file, append(head, text...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, int64(len(head)+len(text))+end); err != nil {
		t.Skipf("no sparse files of %d GiB here: %v", end>>30, err)
	}
}

// TestSizingTable compares the table of docs/operations.md with what inspect tells of models
// in the shapes of Llama 4 Scout and Maverick.
func TestSizingTable(t *testing.T) {
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []published{{"Scout", 16, 1}, {"Maverick", 128, 2}} {
		dir := t.TempDir()
		p.write(t, dir)
		for _, mode := range []kernel.Mode{kernel.BF16, kernel.Int8, kernel.Int4, kernel.FP8} {
			r, err := Dir(dir, mode, 0)
			if err != nil {
				t.Fatal(err)
			}
			if r.Unsupported != "" || r.Digest != "" {
				t.Fatalf("%s: unsupported %q, digest %q", p.name, r.Unsupported, r.Digest)
			}
			if row := sizingRow(p, r); !strings.Contains(string(doc), row+"\n") {
				t.Errorf("docs/operations.md lacks the row\n%s", row)
			}
		}
	}
}

// sizingRow is a row of the table: all by one replica of each expert.
func sizingRow(p published, r Report) string {
	m := r.Memory
	gb := func(n int64) string { return fmt.Sprintf("%.1f", float64(n)/1e9) }
	row := fmt.Sprintf("| %s | %s | %s | %.2f | %.0f |", p.name, m.Mode, gb(m.CoordinatorBytes),
		float64(m.KVBytesPerToken)*8192/1e9, float64(m.ReplicaBytes)/1e6)
	for _, n := range m.Nodes {
		if n.Nodes == 1 || n.Nodes == 4 || n.Nodes == 8 || n.Nodes == 16 {
			row += " " + gb(n.Bytes) + " |"
		}
	}
	return row + fmt.Sprintf(" %.2f |", float64(m.WireBytesPerToken)/1e6)
}
