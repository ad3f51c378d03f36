package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync"

	"drover/checkpoint"
	"drover/kernel"
	"drover/model"
)

// randomShape is the form of a model whose weights are random.
type randomShape struct {
	name                    string
	hidden, width, dense    int
	heads, kvHeads, headDim int
	experts, step           int // every so many layers have experts
	layers, vocabulary      int
}

// randomShapes are those that are known.
var randomShapes = []randomShape{
	{"scout", 5120, 8192, 16384, 40, 8, 128, 16, 1, 48, 202048},
	{"maverick", 5120, 8192, 16384, 40, 8, 128, 128, 2, 48, 202048},
	{"small", 128, 256, 512, 4, 2, 32, 16, 1, 4, 512},
}

// RandomShapes names the shapes that Random knows.
func RandomShapes() []string {
	var names []string
	for _, s := range randomShapes {
		names = append(names, s.name)
	}
	return names
}

func findShape(name string) (randomShape, error) {
	for _, s := range randomShapes {
		if s.name == name {
			return s, nil
		}
	}
	return randomShape{}, fmt.Errorf("there is no shape %q, only %v", name, RandomShapes())
}

// config is config.json.
func (s *randomShape) config(layers int) ([]byte, error) {
	return json.Marshal(map[string]any{"model_type": "llama4_text", "vocab_size": s.vocabulary,
		"hidden_size": s.hidden, "num_hidden_layers": layers, "max_position_embeddings": 1 << 20,
		"num_attention_heads": s.heads, "num_key_value_heads": s.kvHeads, "head_dim": s.headDim,
		"intermediate_size": s.width, "intermediate_size_mlp": s.dense, "num_local_experts": s.experts,
		"num_experts_per_tok": 1, "interleave_moe_layer_step": s.step, "rope_theta": 500000,
		"tie_word_embeddings": false, "torch_dtype": "bfloat16"})
}

// randomTensor is a tensor of bfloat16. Its bytes are random, or ones, if it is not a matrix:
// matrices come from a patternStore, and have a hole in the file.
type randomTensor struct {
	name  string
	shape []int
}

func (t *randomTensor) bytes() int64 {
	n := int64(2)
	for _, d := range t.shape {
		n *= int64(d)
	}
	return n
}

const embedName = "model.embed_tokens.weight"

// tensors lists the checkpoint's.
func (s *randomShape) tensors(layers int) []randomTensor {
	all := []randomTensor{{embedName, []int{s.vocabulary, s.hidden}},
		{"lm_head.weight", []int{s.vocabulary, s.hidden}}, {"model.norm.weight", []int{s.hidden}}}
	for i := range layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		add := func(name string, shape ...int) { all = append(all, randomTensor{p + name, shape}) }
		ffn := func(name string, width int) {
			add(name+"gate_proj.weight", width, s.hidden)
			add(name+"up_proj.weight", width, s.hidden)
			add(name+"down_proj.weight", s.hidden, width)
		}
		add("input_layernorm.weight", s.hidden)
		add("post_attention_layernorm.weight", s.hidden)
		add("self_attn.q_proj.weight", s.heads*s.headDim, s.hidden)
		add("self_attn.k_proj.weight", s.kvHeads*s.headDim, s.hidden)
		add("self_attn.v_proj.weight", s.kvHeads*s.headDim, s.hidden)
		add("self_attn.o_proj.weight", s.hidden, s.heads*s.headDim)
		if (i+1)%s.step != 0 {
			ffn("feed_forward.", s.dense)
			continue
		}
		add("feed_forward.router.weight", s.experts, s.hidden)
		ffn("feed_forward.shared_expert.", s.width)
		add("feed_forward.experts.gate_up_proj", s.experts, s.hidden, 2*s.width)
		add("feed_forward.experts.down_proj", s.experts, s.width, s.hidden)
	}
	return all
}

// write makes the checkpoint in a folder. Matrices are holes, which take no disk; without
// whole, so is everything else.
func (s *randomShape) write(dir string, layers int, whole bool) error {
	config, err := s.config(layers)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
		return err
	}
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	header, end := map[string]entry{}, int64(0)
	tensors := s.tensors(layers)
	for _, t := range tensors {
		header[t.name] = entry{"BF16", t.shape, [2]int64{end, end + t.bytes()}}
		end += t.bytes()
	}
	text, err := json.Marshal(header)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		return err
	}
	start := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	if _, err = f.Write(append(start, text...)); err == nil {
		err = f.Truncate(int64(len(start)+len(text)) + end)
	}
	for _, t := range tensors {
		if whole && err == nil && (t.name == embedName || len(t.shape) == 1) {
			at := int64(len(start)+len(text)) + header[t.name].Offsets[0]
			err = t.fill(io.NewOffsetWriter(f, at))
		}
	}
	return errors.Join(err, f.Close())
}

// patternRows is after how many rows the embeddings repeat.
const patternRows = 4099

// fill writes a vector's ones, or a table of random rows.
func (t *randomTensor) fill(to io.Writer) error {
	w := bufio.NewWriterSize(to, 1<<20)
	n := t.shape[len(t.shape)-1]
	if len(t.shape) == 1 {
		for range n {
			_, _ = w.Write([]byte{0x80, 0x3f}) // Flush has the error
		}
		return w.Flush()
	}
	x := make([]float32, min(patternRows, t.shape[0])*n)
	fillRandom(x, 7)
	pattern := make([]byte, 0, 2*len(x))
	for _, v := range x {
		pattern = binary.LittleEndian.AppendUint16(pattern, uint16(math.Float32bits(v)>>16))
	}
	for left := t.bytes(); left > 0; left -= int64(len(pattern)) {
		_, _ = w.Write(pattern[:min(left, int64(len(pattern)))]) // as above
	}
	return w.Flush()
}

// patternStore gives all matrices of a shape the same random weights, whatever the
// checkpoint has: packing what nobody wants to know would take far longer than measuring.
// Devices with memory of their own still have each by itself.
type patternStore struct {
	mu   sync.Mutex // guards made, and is held while one is made
	made map[kernel.Shape]*kernel.Matrix
}

// Matrices implements model.Store.
func (p *patternStore) Matrices(_ string, shapes []kernel.Shape,
	_ func([]*kernel.Matrix) error) ([]*kernel.Matrix, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*kernel.Matrix
	for _, s := range shapes {
		if p.made[s] == nil {
			m, err := makeMatrices(1, s.N, s.K, s.Format)
			if err != nil {
				return nil, err
			}
			p.made[s] = m[0]
		}
		out = append(out, p.made[s])
	}
	return out, nil
}

// randomSizes are the packed weights of a shape.
type randomSizes struct{ ends, layers int64 } // beside layers, and of step layers

// sizes measures a shape in a mode by its headers.
func (s *randomShape) sizes(dir string, mode kernel.Mode) (randomSizes, error) {
	var sizes [2]int64
	for i := range sizes {
		if err := s.write(dir, (i+1)*s.step, false); err != nil {
			return randomSizes{}, err
		}
		ck, err := checkpoint.Open(dir)
		if err != nil {
			return randomSizes{}, err
		}
		sizes[i] = model.PackedBytes(ck, mode)
		if err := ck.Close(); err != nil {
			return randomSizes{}, err
		}
	}
	embed := 2 * int64(s.vocabulary) * int64(s.hidden)
	return randomSizes{2*sizes[0] - sizes[1] + embed, sizes[1] - sizes[0]}, nil
}

// fitting is how many layers of a shape, at most all of its model, have room in so much
// memory, with the cache for the most positions that are measured.
func (s *randomShape) fitting(dir string, mode kernel.Mode, memory, positions int64) (int, error) {
	sizes, err := s.sizes(dir, mode)
	if err != nil {
		return 0, err
	}
	layout := kernel.KVLayout{Heads: s.kvHeads, HeadDim: s.headDim,
		Precision: mode.Precision(kernel.RoleKV)}
	cache := positions * int64(layout.TileBytes()/kernel.KVTokens) * int64(s.step)
	computing := min(1<<30, memory/8) // rows, scratch and staging
	room := memory - computing - sizes.ends
	// A twentieth is for what allocations are rounded up by.
	n := int(room/20*19/(sizes.layers+cache)) * s.step
	if n < s.step {
		return 0, fmt.Errorf("%d MiB are free: not enough for a layer of %d MiB beside %d MiB",
			memory>>20, (sizes.layers+cache)>>20, (computing+sizes.ends)>>20)
	}
	return min(n, s.layers), nil
}

// mostPositions is how many positions the largest measurement keeps.
func (o *Options) mostPositions() int64 {
	most := 0
	for _, c := range o.plan(1<<20, maxSteps) {
		most = max(most, c.batch*blocksFor(c.prompt+maxSteps)*blockTokens)
	}
	return int64(most)
}

// makeRandom writes a model of a shape to a folder of its own, which remove removes.
func makeRandom(ctx context.Context, s randomShape, layers int, fit func(dir string) (int, error)) (
	dir string, remove func(), err error) {
	root, err := os.MkdirTemp("", "drover-random-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { _ = os.RemoveAll(root) } // a folder of the system's for such
	dir = filepath.Join(root, s.name)
	if err = os.Mkdir(dir, 0o700); err == nil && layers == 0 {
		layers, err = fit(dir)
	}
	if err == nil {
		err = s.write(dir, layers, true)
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		remove()
		return "", nil, err
	}
	return dir, remove, nil
}

// checkLayers refuses numbers of layers that a shape cannot have.
func (s *randomShape) checkLayers(n int) error {
	if n < 0 || n > 4*s.layers || n%s.step != 0 {
		return fmt.Errorf("%d layers: %s has up to %d, a multiple of %d", n, s.name, 4*s.layers, s.step)
	}
	return nil
}
