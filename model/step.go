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

// clock adds up where a model's time goes.
type clock struct {
	timings Timings
	mark    time.Time // the last lap
}

func (c *clock) start() {
	c.timings.Steps++
	c.mark = time.Now()
}

// lap adds the time since the last lap to d.
func (c *clock) lap(d *time.Duration) {
	now := time.Now()
	*d += now.Sub(c.mark)
	c.mark = now
}

// step is the memory of one forward pass, reused from step to step.
type step struct {
	device    kernel.Device
	x, h, out kernel.Rows // (tokens, hidden): residual stream, normed, sublayer's result
	q, heads  kernel.Rows // (tokens, heads*headDim)
	k, v      kernel.Rows // (tokens, kvHeads*headDim)

	attend   kernel.Attention
	kv       kernel.KV
	products [3]kernel.Product
	parts    [1]kernel.FeedForwardPart
	picked   kernel.Rows // rows that need logits
	pick     []int32     // which they are
	logits   kernel.Rows
	*clock
}

// begin sizes the buffers for a batch.
func (s *step) begin(b *Batch, hidden, qDim, kvDim int) error {
	for _, r := range [...]struct {
		rows *kernel.Rows
		dim  int
	}{{&s.x, hidden}, {&s.h, hidden}, {&s.out, hidden}, {&s.q, qDim}, {&s.heads, qDim},
		{&s.k, kvDim}, {&s.v, kvDim}} {
		if err := kernel.Resize(s.device, r.rows, len(b.Tokens), r.dim); err != nil {
			return fmt.Errorf("step of %d tokens: %w", len(b.Tokens), err)
		}
	}
	return nil
}

// multiply sets y to the rows x times one matrix.
func (s *step) multiply(y, x kernel.Rows, w kernel.Weights) {
	s.products[0] = kernel.Product{Y: y, W: w}
	s.device.Mul(x, s.products[:1])
}

// project sets s.q, s.k and s.v to a layer's projections of s.h.
func (s *step) project(a *attention) {
	s.products = [3]kernel.Product{{Y: s.q, W: a.q}, {Y: s.k, W: a.k}, {Y: s.v, W: a.v}}
	s.device.Mul(s.h, s.products[:])
}

// feedForward sets s.out to a feed-forward network's output for the rows of s.h.
func (s *step) feedForward(e *moe.Expert) {
	s.parts[0] = e.Part(0, s.h.N)
	s.device.FeedForward(s.out, s.h, s.parts[:])
}

// attendAll sets s.out to the attention of s.q, sequence by sequence, over the keys and
// values of a layer, to which it adds s.k and s.v first.
func (s *step) attendAll(c *Cache, b *Batch, layer int, o kernel.Weights) {
	c.layer(&s.kv, b, layer)
	s.device.Attend(&s.attend, s.heads, s.q, s.k, s.v, &s.kv)
	s.multiply(s.out, s.heads, o)
}

// pickRows notes which rows of a batch ask for logits and returns how many.
func (s *step) pickRows(b *Batch) int {
	s.pick = s.pick[:0]
	t := 0
	for i := range b.Sequences {
		seq := &b.Sequences[i]
		t += seq.Count
		for j := t - seq.Logits; j < t; j++ {
			s.pick = append(s.pick, int32(j))
		}
	}
	return len(s.pick)
}

// sizeLogits makes room for the logits of n tokens.
func (s *step) sizeLogits(n int, spec *Spec) error {
	if err := kernel.Resize(s.device, &s.picked, n, spec.Hidden); err != nil {
		return fmt.Errorf("logits of %d tokens: %w", n, err)
	}
	if err := kernel.Resize(s.device, &s.logits, n, spec.Vocabulary); err != nil {
		return fmt.Errorf("logits of %d tokens: %w", n, err)
	}
	return nil
}

// gatherPicked copies the rows of s.x that ask for logits.
func (s *step) gatherPicked(to kernel.Rows) {
	s.device.Gather(to, s.x, kernel.Picks{Rows: s.pick}, tensor.F32)
}

// computeLogits computes the logits of the picked rows. It also waits for steps without
// any, so that what went wrong is this step's error.
func (s *step) computeLogits(b *Batch, norm kernel.Rows, eps float64, head kernel.Weights) (
	err error) {
	s.device.Norm(s.picked, s.picked, norm, eps)
	s.multiply(s.logits, s.picked, head)
	b.Logits, err = s.device.Read(s.logits)
	s.lap(&s.timings.Head)
	return err
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
	if headDim%2 != 0 || headDim > kernel.MaxHeadDim {
		return fmt.Errorf("config.json: head_dim is %d, must be even and at most %d",
			headDim, kernel.MaxHeadDim)
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
func (l *loader) head(ck *checkpoint.Checkpoint, prefix string, s *Spec) kernel.Weights {
	name := "lm_head.weight"
	if !ck.Has(prefix+name) && tied(ck) {
		name = "model.embed_tokens.weight"
	}
	return l.upload(l.matrix(kernel.RoleHead, name, s.Vocabulary, s.Hidden))
}

func tied(ck *checkpoint.Checkpoint) bool {
	if ck.Config().Reader().Bool("tie_word_embeddings", false) {
		return true
	}
	text, ok := ck.Config().Sub("text_config")
	return ok && text.Reader().Bool("tie_word_embeddings", false)
}
