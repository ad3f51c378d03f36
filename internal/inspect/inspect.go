// Package inspect tells what a model directory holds and what serving it takes, from its
// configuration and the headers of its files: of the weights only the digest's samples are read.
package inspect

import (
	"errors"
	"fmt"
	"io/fs"

	"drover/checkpoint"
	"drover/kernel"
	"drover/model"
	"drover/tokenizer"
)

// Report is what a model directory holds.
type Report struct {
	Directory string `json:"directory"`
	// Architecture is config.json's model_type.
	Architecture string `json:"architecture"`
	// Unsupported says why this build cannot serve the model; empty if it can. Model and Memory
	// are then absent.
	Unsupported string `json:"unsupported,omitempty"`
	// Digest identifies the checkpoint, in hexadecimal digits; empty if its files hold no
	// weights. Form identifies it without its weights: other trainings have the same.
	Digest string `json:"digest"`
	Form   string `json:"form"`
	// WeightBytes is the size of all tensors in their files.
	WeightBytes int64      `json:"weight_bytes"`
	Parameters  Parameters `json:"parameters"`
	// DTypes says how many tensors and bytes there are of each element type.
	DTypes map[string]DType `json:"dtypes"`
	// Tokenizer is "ok", "none", or why it cannot be used.
	Tokenizer    string  `json:"tokenizer"`
	ChatTemplate bool    `json:"chat_template"`
	Model        *Model  `json:"model,omitempty"`
	Memory       *Memory `json:"memory,omitempty"`
}

// Parameters counts numbers in tensors.
type Parameters struct {
	Total int64 `json:"total"`
	// RoutedExperts is the part in routed experts, Vision that in the vision tower.
	RoutedExperts int64 `json:"routed_experts"`
	Vision        int64 `json:"vision"`
	// Active is what one token of text goes through: all but vision and the experts that the
	// gate does not choose.
	Active int64 `json:"active"`
}

// DType is the share of one element type.
type DType struct {
	Tensors int   `json:"tensors"`
	Bytes   int64 `json:"bytes"`
}

// Model is the model's shape.
type Model struct {
	Layers          int   `json:"layers"`
	Hidden          int   `json:"hidden"`
	Vocabulary      int   `json:"vocabulary"`
	ContextTokens   int   `json:"context_tokens"`
	MoELayers       []int `json:"moe_layers"`
	ExpertsPerLayer int   `json:"experts_per_layer"`
	ExpertsPerToken int   `json:"experts_per_token"`
	ExpertWidth     int   `json:"expert_width"`
}

// Memory is what processes need for weights beside their working memory, and what a token
// costs the network.
type Memory struct {
	// Mode is the numeric mode.
	Mode string `json:"mode"`
	// CoordinatorBytes holds everything but the routed experts.
	CoordinatorBytes int64 `json:"coordinator_bytes"`
	// KVBytesPerToken is added for each token of a sequence's context, at most: layers of
	// chunked attention free what lies before their chunk.
	KVBytesPerToken int64 `json:"kv_bytes_per_token"`
	// ReplicaBytes is the size of one expert.
	ReplicaBytes int64 `json:"replica_bytes"`
	// WireBytesPerToken is what travels for a token between a coordinator and the expert nodes,
	// both ways together, without headers: a row there and back for each expert.
	WireBytesPerToken int64 `json:"wire_bytes_per_token"`
	// Nodes says what the fullest of so many expert nodes holds, one replica of each expert.
	Nodes []NodeMemory `json:"nodes"`
}

// NodeMemory is the need of one expert node of several.
type NodeMemory struct {
	Nodes    int   `json:"nodes"`
	Replicas int   `json:"replicas"`
	Bytes    int64 `json:"bytes"`
}

// Dir inspects a model directory. Memory is told for a numeric mode and for so many expert
// nodes; 0 stands for 1, 2, 4, 8 and so on.
func Dir(dir string, mode kernel.Mode, nodes int) (Report, error) {
	if nodes < 0 {
		return Report{}, fmt.Errorf("number of nodes is %d, must not be negative", nodes)
	}
	ck, err := checkpoint.Open(dir)
	if err != nil {
		return Report{}, err
	}
	defer ck.Close()
	r := Report{
		Directory:    dir,
		Architecture: ck.Config().ModelType(),
		Form:         fmt.Sprintf("%x", ck.Form()),
		WeightBytes:  ck.Bytes(),
		DTypes:       map[string]DType{},
	}
	if !ck.Hollow() {
		r.Digest = fmt.Sprintf("%x", ck.Digest())
	}
	if err := r.countTensors(ck); err != nil {
		return Report{}, err
	}
	r.readTokenizer(dir)
	spec, err := model.Describe(ck, mode)
	if errors.Is(err, model.ErrUnsupported) {
		r.Unsupported = err.Error()
		return r, nil
	}
	if err != nil {
		return Report{}, err
	}
	r.describe(spec, mode, model.CoordinatorBytes(ck, mode), nodes)
	return r, nil
}

// countTensors adds up the headers.
func (r *Report) countTensors(ck *checkpoint.Checkpoint) error {
	for _, name := range ck.Names() {
		t, err := ck.Tensor(name)
		if err != nil {
			return err
		}
		n := int64(t.Elements())
		d := r.DTypes[t.DType.String()]
		d.Tensors++
		d.Bytes += n * int64(t.DType.Size())
		r.DTypes[t.DType.String()] = d
		r.Parameters.Total += n
		switch model.PartOf(name) {
		case model.ExpertPart:
			r.Parameters.RoutedExperts += n
		case model.VisionPart:
			r.Parameters.Vision += n
		}
	}
	r.Parameters.Active = r.Parameters.Total - r.Parameters.Vision
	return nil
}

func (r *Report) readTokenizer(dir string) {
	t, err := tokenizer.Load(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.Tokenizer = "none"
	case err != nil:
		r.Tokenizer = err.Error()
	default:
		r.Tokenizer = "ok"
		r.ChatTemplate = t.ChatTemplate() != ""
	}
}

// describe adds what the model's specification tells.
func (r *Report) describe(spec model.Spec, mode kernel.Mode, coordinatorBytes int64,
	nodes int) {
	m := spec.MoE
	r.Model = &Model{
		Layers: spec.Layers, Hidden: spec.Hidden, Vocabulary: spec.Vocabulary,
		ContextTokens: spec.MaxTokens, MoELayers: append([]int{}, m.Layers...),
		ExpertsPerLayer: m.Experts, ExpertsPerToken: m.TopK, ExpertWidth: m.Width,
	}
	if m.Experts > 0 {
		one := r.Parameters.RoutedExperts / int64(m.Experts)
		r.Parameters.Active -= r.Parameters.RoutedExperts - one*int64(m.TopK)
	}
	r.Memory = &Memory{Mode: mode.String(), CoordinatorBytes: coordinatorBytes,
		ReplicaBytes: m.ReplicaBytes, Nodes: []NodeMemory{},
		WireBytesPerToken: int64(2 * len(m.Layers) * m.TopK * m.Hidden * mode.RowType().Size())}
	for _, g := range spec.KV {
		r.Memory.KVBytesPerToken += int64(g.RowBytes)
	}
	counts := []int{nodes}
	if nodes == 0 {
		counts = nil
		for n := 1; n <= m.Experts; n *= 2 {
			counts = append(counts, n)
		}
	}
	if len(m.Layers) == 0 {
		return
	}
	for _, n := range counts {
		replicas := len(m.Layers) * ((m.Experts + n - 1) / n)
		r.Memory.Nodes = append(r.Memory.Nodes,
			NodeMemory{n, replicas, int64(replicas) * m.ReplicaBytes})
	}
}
