package model

import (
	"fmt"
	"math"
	"slices"

	"drover/checkpoint"
	"drover/kernel"
	"drover/moe"
)

// llama4Config is what Llama 4's text model reads from config.json.
type llama4Config struct {
	spec                    Spec
	prefix                  string // of tensor names: "language_model." or ""
	heads, kvHeads, headDim int
	width, denseWidth       int // of experts and of dense layers
	eps                     float64
	rope                    rope
	noRope                  []bool // by layer
	chunk                   int
	qkNorm                  bool
	tempTuning              bool
	floorScale, attnScale   float64
}

// limits of config.json's numbers: far beyond any model, and small enough that no
// product of two of them overflows.
const (
	maxDim     = 1 << 20
	maxLayers  = 4096
	maxExperts = 1 << 16
	maxContext = 1 << 28
)

func readLlama4(ck *checkpoint.Checkpoint, mode kernel.Mode) (*llama4Config, error) {
	cfg, c := ck.Config(), &llama4Config{}
	if cfg.ModelType() == "llama4" {
		c.prefix = "language_model."
		text, ok := cfg.Sub("text_config")
		if !ok {
			return nil, fmt.Errorf("%s: config.json: text_config is missing", ck.Dir())
		}
		cfg = text
	}
	r := cfg.Reader()
	s := &c.spec
	s.Architecture = ck.Config().ModelType()
	s.Vocabulary = r.Int("vocab_size", 1, maxDim*16)
	s.Hidden = r.Int("hidden_size", 1, maxDim)
	s.Layers = r.Int("num_hidden_layers", 1, maxLayers)
	s.MaxTokens = r.Int("max_position_embeddings", 1, maxContext)
	c.heads = r.Int("num_attention_heads", 1, maxDim)
	c.kvHeads = r.IntOr("num_key_value_heads", c.heads, 1, maxDim)
	c.headDim = r.IntOr("head_dim", s.Hidden/max(c.heads, 1), 2, maxDim)
	c.width = r.Int("intermediate_size", 1, maxDim)
	c.denseWidth = r.IntOr("intermediate_size_mlp", c.width, 1, maxDim)
	c.eps = r.FloatOr("rms_norm_eps", 1e-5, 0, 1)
	c.chunk = r.IntOr("attention_chunk_size", 8192, 1, maxContext)
	c.qkNorm = r.Bool("use_qk_norm", true)
	c.tempTuning = r.Bool("attn_temperature_tuning", true)
	c.floorScale = r.FloatOr("floor_scale", 8192, 1, 1e12)
	c.attnScale = r.FloatOr("attn_scale", 0.1, 0, 1e3)
	s.MoE.Experts = r.IntOr("num_local_experts", 0, 0, maxExperts)
	s.MoE.TopK = r.IntOr("num_experts_per_tok", 0, 0, maxExperts)
	s.MoE.Hidden, s.MoE.Width = s.Hidden, c.width
	act := r.String("hidden_act", "silu")
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", ck.Dir(), err)
	}
	if act != "silu" {
		return nil, fmt.Errorf("%s: config.json: hidden_act %q: %w", ck.Dir(), act, ErrUnsupported)
	}
	if err := c.readLayers(cfg); err != nil {
		return nil, fmt.Errorf("%s: %w", ck.Dir(), err)
	}
	if err := readEnds(ck, cfg, s); err != nil {
		return nil, fmt.Errorf("%s: %w", ck.Dir(), err)
	}
	s.KV = c.groups(mode)
	return c, c.sizeReplicas(ck, mode)
}

// readLayers reads which layers rotate, which hold experts, and the frequencies.
func (c *llama4Config) readLayers(cfg *checkpoint.Config) error {
	if err := checkHeads(c.heads, c.kvHeads, c.headDim); err != nil {
		return err
	}
	r, s := cfg.Reader(), &c.spec
	interval := r.IntOr("no_rope_layer_interval", 4, 1, maxLayers)
	step := r.IntOr("interleave_moe_layer_step", 1, 0, maxLayers)
	rotates, _ := r.Ints("no_rope_layers", maxLayers, 0, 1)
	moeLayers, listed := r.Ints("moe_layers", maxLayers, 0, s.Layers-1)
	if err := r.Err(); err != nil {
		return err
	}
	if len(rotates) > 0 && len(rotates) != s.Layers {
		return fmt.Errorf("config.json: no_rope_layers has %d entries for %d layers",
			len(rotates), s.Layers)
	}
	for i := range s.Layers {
		// The list is 1 where a layer does rotate; an empty one means the default.
		no := (i+1)%interval == 0
		if len(rotates) > 0 {
			no = rotates[i] == 0
		}
		c.noRope = append(c.noRope, no)
	}
	if !listed && step > 0 {
		for i := step - 1; i < s.Layers; i += step {
			moeLayers = append(moeLayers, i)
		}
	}
	slices.Sort(moeLayers)
	s.MoE.Layers = slices.Compact(moeLayers)
	if m := s.MoE; len(m.Layers) > 0 && (m.TopK < 1 || m.TopK > m.Experts) {
		return fmt.Errorf("config.json: num_experts_per_tok is %d, must be 1 to num_local_experts (%d)",
			m.TopK, m.Experts)
	}
	var err error
	c.rope, err = ropeReader(cfg, c.headDim)
	return err
}

// groups puts the rotating layers, which attend within chunks, and the others,
// which see everything, into KV groups of their own.
func (c *llama4Config) groups(mode kernel.Mode) []KVGroup {
	var full, chunked KVGroup
	chunked.Chunk = c.chunk
	for i, no := range c.noRope {
		if no {
			full.Layers = append(full.Layers, i)
		} else {
			chunked.Layers = append(chunked.Layers, i)
		}
	}
	var groups []KVGroup
	for _, g := range []KVGroup{full, chunked} {
		if len(g.Layers) > 0 {
			g.RowBytes = len(g.Layers) * c.layout(mode).TileBytes() / kernel.KVTokens
			groups = append(groups, g)
		}
	}
	return groups
}

// expert is the weights of one of a layer's experts, not yet loaded: slices of two tensors that
// fuse all experts, gate_up_proj [E, hidden, 2*width] with gate's columns first and down_proj
// [E, width, hidden]; or, as in F8_E4M3, tensors of its own, with an output a row.
func (c *llama4Config) expert(l *loader, layer, expert int) (gateUp, down linear) {
	m := &c.spec.MoE
	p := fmt.Sprintf("%smodel.layers.%d.feed_forward.experts.", c.prefix, layer)
	own := fmt.Sprintf("%s%d.", p, expert)
	if l.ck.Has(own + "down_proj.weight") {
		return l.rows(kernel.RoleExperts, m.Hidden, m.Width, own+"gate_proj.weight",
				own+"up_proj.weight"),
			l.rows(kernel.RoleExperts, m.Width, m.Hidden, own+"down_proj.weight")
	}
	return l.columns(p+"gate_up_proj", expert, m.Experts, m.Hidden, 2*m.Width),
		l.columns(p+"down_proj", expert, m.Experts, m.Width, m.Hidden)
}

// sizeReplicas computes the size of a packed expert from the headers: of the largest, since
// layers may be of different types.
func (c *llama4Config) sizeReplicas(ck *checkpoint.Checkpoint, mode kernel.Mode) error {
	m := &c.spec.MoE
	for _, layer := range m.Layers {
		l := &loader{Options: Options{Mode: mode}, ck: ck}
		gateUp, down := c.expert(l, layer, 0)
		if l.err != nil {
			return l.err
		}
		size := kernel.MatrixBytes(gateUp.N, gateUp.K, gateUp.Format) +
			kernel.MatrixBytes(down.N, down.K, down.Format)
		m.ReplicaBytes = max(m.ReplicaBytes, int64(size))
	}
	return nil
}

// layout is how a mode keeps keys and values.
func (c *llama4Config) layout(mode kernel.Mode) kernel.KVLayout {
	return kernel.KVLayout{Heads: c.kvHeads, HeadDim: c.headDim,
		Precision: mode.Precision(kernel.RoleKV)}
}

func llama4Spec(ck *checkpoint.Checkpoint, mode kernel.Mode) (Spec, error) {
	c, err := readLlama4(ck, mode)
	if err != nil {
		return Spec{}, err
	}
	return c.spec, nil
}

// llama4Experts reads Llama 4's routed experts.
type llama4Experts struct {
	ck   *checkpoint.Checkpoint
	opts Options
	cfg  *llama4Config
}

func openLlama4Experts(ck *checkpoint.Checkpoint, opts Options) (moe.Source, error) {
	c, err := readLlama4(ck, opts.Mode)
	if err != nil {
		return nil, err
	}
	return &llama4Experts{ck, opts, c}, nil
}

func (e *llama4Experts) Spec() moe.Spec { return e.cfg.spec.MoE }

func (e *llama4Experts) Load(layer, expert int) (*moe.Expert, error) {
	m := e.cfg.spec.MoE
	if !slices.Contains(m.Layers, layer) || expert < 0 || expert >= m.Experts {
		return nil, fmt.Errorf("load expert %d.%d: the model has no such expert", layer, expert)
	}
	l := &loader{Options: e.opts, ck: e.ck}
	loaded := l.expert(e.cfg.expert(l, layer, expert))
	if l.err != nil {
		return nil, fmt.Errorf("load expert %d.%d: %w", layer, expert, l.err)
	}
	return loaded, nil
}

// llama4 is Llama 4's text model (Scout, Maverick and dense relatives).
type llama4 struct {
	cfg     *llama4Config
	mode    kernel.Mode
	device  kernel.Device
	experts moe.Experts

	embed  kernel.Table
	layers []llama4Layer
	norm   kernel.Rows
	head   kernel.Weights

	attend kernel.Attention
	clock  clock
	passes []*llama4Pass // one for each micro-batch, made when first needed
	splits []Batch       // scratch: what each pass runs
}

type llama4Layer struct {
	inputNorm, postNorm kernel.Rows
	attention
	dense  *moe.Expert    // nil in MoE layers
	gate   kernel.Weights // (experts, hidden); nil in dense layers
	shared *moe.Expert
}

func openLlama4(ck *checkpoint.Checkpoint, opts Options, experts moe.Experts) (Model, error) {
	c, err := readLlama4(ck, opts.Mode)
	if err != nil {
		return nil, err
	}
	s := &c.spec
	if len(s.MoE.Layers) > 0 && experts == nil {
		return nil, fmt.Errorf("%s: the model has routed experts and none are given", ck.Dir())
	}
	m := &llama4{cfg: c, mode: opts.Mode, device: opts.Device, experts: experts}
	l := &loader{Options: opts, ck: ck, prefix: c.prefix}
	m.embed = l.embedding("model.embed_tokens.weight", s.Vocabulary, s.Hidden)
	m.layers = make([]llama4Layer, s.Layers)
	for i := range m.layers {
		m.layers[i] = c.load(l, i)
	}
	m.norm = l.norm("model.norm.weight", s.Hidden)
	m.head = l.head(ck, c.prefix, s)
	if l.err != nil {
		return nil, l.err
	}
	m.attend = kernel.Attention{
		Heads: c.heads, KV: c.layout(opts.Mode),
		Scale: float32(1 / math.Sqrt(float64(c.headDim))),
	}
	return m, nil
}

func (c *llama4Config) load(l *loader, i int) llama4Layer {
	s, p := &c.spec, fmt.Sprintf("model.layers.%d.", i)
	layer := llama4Layer{
		inputNorm: l.norm(p+"input_layernorm.weight", s.Hidden),
		postNorm:  l.norm(p+"post_attention_layernorm.weight", s.Hidden),
		attention: l.attention(p+"self_attn", s.Hidden, c.heads, c.kvHeads, c.headDim),
	}
	if _, ok := slices.BinarySearch(s.MoE.Layers, i); !ok {
		layer.dense = l.ffn(p+"feed_forward", s.Hidden, c.denseWidth)
		return layer
	}
	layer.gate = l.upload(l.gate(p+"feed_forward.router.weight", s.MoE.Experts, s.Hidden))
	layer.shared = l.ffn(p+"feed_forward.shared_expert", s.Hidden, c.width)
	return layer
}

// Spec describes the model.
func (m *llama4) Spec() Spec { return m.cfg.spec }

// NewCache makes a KV cache for the model.
func (m *llama4) NewCache(blocks []int, blockTokens int) (*Cache, error) {
	return newCache(m.device, m.cfg.spec.KV, m.attend.KV, blocks, blockTokens)
}

// Timings says where the time went.
func (m *llama4) Timings() Timings { return m.clock.timings }

// temperature scales queries of layers without rotary embedding by
// 1 + attn_scale ln(1 + floor((pos+1) / floor_scale)).
func (c *llama4Config) temperature(pos int) float32 {
	return float32(1 + c.attnScale*math.Log(1+math.Floor(float64(pos+1)/c.floorScale)))
}
