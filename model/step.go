package model

import (
	"fmt"
	"slices"
	"time"

	"drover/checkpoint"
	"drover/kernel"
	"drover/moe"
	"drover/tensor"
)

// Timings says where a model's time went since it was opened.
type Timings struct {
	// Attention includes its projections and norms; Gate includes gathering and adding
	// up rows; Shared is the shared experts, which run while rows are away; Experts is
	// sending rows and waiting for them beyond that; Head is the last norm and the
	// logits; Other is embeddings and dense layers.
	Attention, Gate, Shared, Experts, Head, Other time.Duration
	// Steps is the number of Forward calls.
	Steps int
}

// step is the memory of one forward pass, reused from step to step.
type step struct {
	x, h, out tensor.Rows // (tokens, hidden): residual stream, normed, sublayer's result
	q, heads  tensor.Rows // (tokens, heads*headDim)
	k, v      tensor.Rows // (tokens, kvHeads*headDim)

	attend        kernel.Attention
	attendScratch kernel.AttentionScratch
	blocks        sequenceBlocks
	scratch       moe.Scratch
	picked        tensor.Rows // rows that need logits
	memory        [9][]float32
	timings       Timings
	mark          time.Time
}

// begin sizes the buffers for a batch and starts the clock.
func (s *step) begin(b *Batch, hidden, qDim, kvDim int) {
	n := len(b.Tokens)
	for i, r := range []struct {
		rows *tensor.Rows
		dim  int
	}{{&s.x, hidden}, {&s.h, hidden}, {&s.out, hidden}, {&s.q, qDim}, {&s.heads, qDim},
		{&s.k, kvDim}, {&s.v, kvDim}} {
		*r.rows = s.rows(&s.memory[i], n, r.dim)
	}
	s.timings.Steps++
	s.mark = time.Now()
}

// lap adds the time since the last lap to d.
func (s *step) lap(d *time.Duration) {
	now := time.Now()
	*d += now.Sub(s.mark)
	s.mark = now
}

// Timings says where the time went.
func (s *step) Timings() Timings { return s.timings }

func (s *step) rows(memory *[]float32, n, dim int) tensor.Rows {
	*memory = resize(*memory, n*dim)
	return tensor.Rows{Data: *memory, N: n, Dim: dim}
}

// attendAll sets s.heads to the attention of s.q, sequence by sequence, over the
// cache's blocks of a layer.
func (s *step) attendAll(c *Cache, b *Batch, layer int) {
	s.attend.BlockTokens = c.blockTokens
	t := 0
	for i := range b.Sequences {
		seq := &b.Sequences[i]
		s.blocks = sequenceBlocks{cache: c, layer: layer, table: c.table(layer, seq.Tables)}
		s.attend.Run(s.heads.Slice(t, t+seq.Count), s.q.Slice(t, t+seq.Count), seq.Start,
			&s.blocks, &s.attendScratch)
		t += seq.Count
	}
}

// finish computes the logits of the positions that asked for them.
func (s *step) finish(b *Batch, spec *Spec, norm []float32, eps float64, head *kernel.Matrix) {
	n := 0
	for i := range b.Sequences {
		n += b.Sequences[i].Logits
	}
	s.picked = s.rows(&s.memory[7], n, spec.Hidden)
	t, at := 0, 0
	for i := range b.Sequences {
		seq := &b.Sequences[i]
		t += seq.Count
		for j := t - seq.Logits; j < t; j++ {
			copy(s.picked.Row(at), s.x.Row(j))
			at++
		}
	}
	b.Logits = s.rows(&s.memory[8], n, spec.Vocabulary)
	kernel.RMSNorm(s.picked, s.picked, norm, eps)
	head.Mul(b.Logits, s.picked)
	s.lap(&s.timings.Head)
}

// trace reports a layer's routes to the sequences that asked for them.
func (b *Batch) trace(layer int, r *moe.Routes) {
	t := 0
	for i := range b.Sequences {
		seq := &b.Sequences[i]
		if seq.Trace != nil {
			lo, hi := t*r.K, (t+seq.Count)*r.K
			seq.Trace(layer, r.Experts[lo:hi], r.Weights[lo:hi])
		}
		t += seq.Count
	}
}

func resize(s []float32, n int) []float32 {
	return slices.Grow(s[:0], n)[:n]
}

// checkHeads refuses head counts that attention cannot work with.
func checkHeads(heads, kvHeads, headDim int) error {
	if heads%kvHeads != 0 {
		return fmt.Errorf("config.json: num_attention_heads is %d, must be a multiple of "+
			"num_key_value_heads (%d)", heads, kvHeads)
	}
	if headDim%2 != 0 {
		return fmt.Errorf("config.json: head_dim is %d, must be even", headDim)
	}
	return nil
}

// readEnds reads the tokens that begin and end a sequence: generation_config.json
// goes before config.json.
func readEnds(ck *checkpoint.Checkpoint, cfg *checkpoint.Config, s *Spec) error {
	s.BOS = -1
	for _, c := range []*checkpoint.Config{cfg, ck.Generation()} {
		r := c.Reader()
		if c.Has("bos_token_id") {
			s.BOS = int32(r.Int("bos_token_id", 0, s.Vocabulary-1))
		}
		if ids, ok := r.Ints("eos_token_id", 1024, 0, s.Vocabulary-1); ok {
			s.EOS = s.EOS[:0]
			for _, id := range ids {
				s.EOS = append(s.EOS, int32(id))
			}
		}
		if err := r.Err(); err != nil {
			return err
		}
	}
	return nil
}

// head reads the output head: lm_head, or the embedding where the two are tied.
func (l *loader) head(ck *checkpoint.Checkpoint, prefix string, s *Spec) *kernel.Matrix {
	name := "lm_head.weight"
	if !ck.Has(prefix+name) && tied(ck) {
		name = "model.embed_tokens.weight"
	}
	return l.matrix(kernel.RoleHead, name, s.Vocabulary, s.Hidden)
}

func tied(ck *checkpoint.Checkpoint) bool {
	if ck.Config().Reader().Bool("tie_word_embeddings", false) {
		return true
	}
	text, ok := ck.Config().Sub("text_config")
	return ok && text.Reader().Bool("tie_word_embeddings", false)
}
