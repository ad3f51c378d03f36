package model

import (
	"context"
	"fmt"
	"math"

	"drover/checkpoint"
	"drover/kernel"
	"drover/moe"
)

// llama is the dense Llama 2 and 3 family: full attention with rotary embedding in
// halves, SwiGLU, no experts.
type llama struct {
	cfg    *llamaConfig
	embed  kernel.Table
	layers []llamaLayer
	norm   kernel.Rows
	head   kernel.Weights
	step
}

type llamaConfig struct {
	spec                    Spec
	heads, kvHeads, headDim int
	width                   int
	eps                     float64
	rope                    rope
}

type llamaLayer struct {
	inputNorm, postNorm kernel.Rows
	attention
	ffn *moe.Expert
}

func readLlama(ck *checkpoint.Checkpoint, mode kernel.Mode) (*llamaConfig, error) {
	cfg, c := ck.Config(), &llamaConfig{}
	r, s := cfg.Reader(), &c.spec
	s.Architecture = cfg.ModelType()
	s.Vocabulary = r.Int("vocab_size", 1, maxDim*16)
	s.Hidden = r.Int("hidden_size", 1, maxDim)
	s.Layers = r.Int("num_hidden_layers", 1, maxLayers)
	s.MaxTokens = r.Int("max_position_embeddings", 1, maxContext)
	c.heads = r.Int("num_attention_heads", 1, maxDim)
	c.kvHeads = r.IntOr("num_key_value_heads", c.heads, 1, maxDim)
	c.headDim = r.IntOr("head_dim", s.Hidden/max(c.heads, 1), 2, maxDim)
	c.width = r.Int("intermediate_size", 1, maxDim)
	c.eps = r.FloatOr("rms_norm_eps", 1e-6, 0, 1)
	act := r.String("hidden_act", "silu")
	bias := r.Bool("attention_bias", false) || r.Bool("mlp_bias", false)
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", ck.Dir(), err)
	}
	if act != "silu" || bias {
		return nil, fmt.Errorf("%s: config.json: hidden_act %q, biases %t: %w",
			ck.Dir(), act, bias, ErrUnsupported)
	}
	if err := checkHeads(c.heads, c.kvHeads, c.headDim); err != nil {
		return nil, fmt.Errorf("%s: %w", ck.Dir(), err)
	}
	if err := readEnds(ck, cfg, s); err != nil {
		return nil, fmt.Errorf("%s: %w", ck.Dir(), err)
	}
	group := KVGroup{RowBytes: s.Layers * c.layout(mode).TileBytes() / kernel.KVTokens}
	for i := range s.Layers {
		group.Layers = append(group.Layers, i)
	}
	s.KV = []KVGroup{group}
	var err error
	if c.rope, err = ropeReader(cfg, c.headDim); err != nil {
		return nil, fmt.Errorf("%s: %w", ck.Dir(), err)
	}
	return c, nil
}

// layout is how a mode keeps keys and values.
func (c *llamaConfig) layout(mode kernel.Mode) kernel.KVLayout {
	return kernel.KVLayout{Heads: c.kvHeads, HeadDim: c.headDim,
		Precision: mode.Precision(kernel.RoleKV)}
}

func llamaSpec(ck *checkpoint.Checkpoint, mode kernel.Mode) (Spec, error) {
	c, err := readLlama(ck, mode)
	if err != nil {
		return Spec{}, err
	}
	return c.spec, nil
}

func openLlama(ck *checkpoint.Checkpoint, opts Options, _ moe.Experts) (Model, error) {
	c, err := readLlama(ck, opts.Mode)
	if err != nil {
		return nil, err
	}
	s := &c.spec
	m := &llama{cfg: c}
	m.device, m.clock = opts.Device, new(clock)
	l := &loader{Options: opts, ck: ck}
	m.embed = l.embedding("model.embed_tokens.weight", s.Vocabulary, s.Hidden)
	m.layers = make([]llamaLayer, s.Layers)
	for i := range m.layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		m.layers[i] = llamaLayer{
			inputNorm: l.norm(p+"input_layernorm.weight", s.Hidden),
			postNorm:  l.norm(p+"post_attention_layernorm.weight", s.Hidden),
			attention: l.attention(p+"self_attn", s.Hidden, c.heads, c.kvHeads, c.headDim),
			ffn:       l.ffn(p+"mlp", s.Hidden, c.width),
		}
	}
	m.norm = l.norm("model.norm.weight", s.Hidden)
	m.head = l.head(ck, "", s)
	if l.err != nil {
		return nil, l.err
	}
	m.attend = kernel.Attention{
		Heads: c.heads, KV: c.layout(opts.Mode),
		Scale: float32(1 / math.Sqrt(float64(c.headDim))),
	}
	return m, nil
}

// Spec describes the model.
func (m *llama) Spec() Spec { return m.cfg.spec }

// NewCache makes a KV cache for the model.
func (m *llama) NewCache(blocks []int, blockTokens int) (*Cache, error) {
	return newCache(m.device, m.cfg.spec.KV, m.attend.KV, blocks, blockTokens)
}

// Forward runs one step.
func (m *llama) Forward(_ context.Context, c *Cache, b *Batch) error {
	s := &m.cfg.spec
	if err := b.check(c, s); err != nil {
		return err
	}
	m.start()
	err := m.begin(b, s.Hidden, m.cfg.heads*m.cfg.headDim, m.cfg.kvHeads*m.cfg.headDim)
	if err != nil {
		return err
	}
	if err := m.cfg.rope.prepare(m.device, b); err != nil {
		return err
	}
	m.device.Embed(m.x, m.embed, b.Tokens)
	m.lap(&m.timings.Other)
	for i := range m.layers {
		layer := &m.layers[i]
		m.device.Norm(m.h, m.x, layer.inputNorm, m.cfg.eps)
		m.attention(c, b, i)
		m.device.Add(m.x, m.out)
		m.lap(&m.timings.Attention)

		m.device.Norm(m.h, m.x, layer.postNorm, m.cfg.eps)
		m.feedForward(layer.ffn)
		m.device.Add(m.x, m.out)
		m.lap(&m.timings.Other)
	}
	if err := m.sizeLogits(m.pickRows(b), s); err != nil {
		return err
	}
	m.gatherPicked(m.picked)
	return m.computeLogits(b, m.norm, m.cfg.eps, m.head)
}

// Timings says where the time went.
func (m *llama) Timings() Timings { return m.timings }

// attention sets m.out to layer i's attention for the rows of m.h.
func (m *llama) attention(c *Cache, b *Batch, i int) {
	layer, rope := &m.layers[i], &m.cfg.rope
	m.project(&layer.attention)
	m.device.Rotate(m.q, rope.cos, rope.sin, kernel.RotaryHalves)
	m.device.Rotate(m.k, rope.cos, rope.sin, kernel.RotaryHalves)
	m.attendAll(c, b, i, layer.o)
}
