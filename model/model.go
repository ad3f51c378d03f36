// Package model holds the architectures, one file each, and runs them forward.
//
// A Model turns a Batch of tokens, mixed from many sequences and from prefill and
// decode, into logits. It owns no sequence: keys and values live in a Cache, in
// blocks that the scheduler numbers. Every output of a token depends only on that
// token's own sequence up to its position, whatever else is in the batch and
// however a prompt was cut into steps (promise P2).
package model

import (
	"context"

	"drover/moe"
	"drover/tensor"
)

// Spec describes a model to whoever schedules and serves it.
type Spec struct {
	// Architecture is config.json's model_type.
	Architecture string
	// Vocabulary is the number of logits.
	Vocabulary int
	// Hidden is the width of the residual stream.
	Hidden int
	// Layers is the number of transformer layers.
	Layers int
	// MaxTokens is the longest sequence, prompt and answer together.
	MaxTokens int
	// BOS is the beginning-of-sequence token, or -1. EOS lists the tokens that end an answer.
	BOS int32
	EOS []int32
	// MoE describes the routed experts; MoE.Layers is empty for a dense model.
	MoE moe.Spec
	// KV lists the groups of layers that share a block table.
	KV []KVGroup
}

// KVGroup is a set of layers whose keys and values are kept for the same positions.
type KVGroup struct {
	// Layers lists the model's layers in this group, ascending.
	Layers []int
	// Chunk is the attention chunk: a token at position p sees only positions from
	// p - p%Chunk on, so earlier blocks may be freed. 0 keeps everything.
	Chunk int
	// RowBytes is the size of one position's keys and values, over the group's layers.
	RowBytes int
}

// Model is a loaded model.
type Model interface {
	// Spec describes the model.
	Spec() Spec
	// NewCache makes a cache of the given numbers of blocks, one for each KV group,
	// of blockTokens positions each.
	NewCache(blocks []int, blockTokens int) (*Cache, error)
	// Forward runs one step: it writes the step's keys and values to the cache and
	// fills b.Logits. On an error the step has no effect that matters: it may be
	// run again. Forward is not safe for concurrent use.
	Forward(ctx context.Context, c *Cache, b *Batch) error
}

// Batch is one step's work.
type Batch struct {
	// Tokens holds the tokens of all sequences, one sequence after the other.
	Tokens []int32
	// Sequences says which of Tokens belong to which sequence.
	Sequences []Sequence
	// MicroBatches cuts the step into so many parts of similar size: while the rows of
	// one are at the experts, the others compute. Zero and 1 are one part; fewer are made
	// where there are fewer tokens, and one where a sequence has a Trace. The experts
	// must then serve as many calls at a time.
	MicroBatches int
	// Logits is set by Forward: one row for each position that asked for logits, in
	// order, (sum of Sequences[i].Logits, Vocabulary). It is valid until the next Forward.
	Logits tensor.Rows
}

// Sequence is one sequence's part of a step.
type Sequence struct {
	// Start is the position of the first token; Count is the number of tokens.
	Start, Count int
	// Tables holds the block table of each KV group: entry i is the number of the
	// block for positions i*blockTokens and on. Blocks before the current chunk of a
	// chunked group may be -1.
	Tables [][]int32
	// Logits is how many of the last tokens need logits: 0 inside a prefill, 1 at its
	// end and in decode, Count for scoring.
	Logits int
	// Trace, if not nil, is called with the experts that each token of this sequence
	// visits: once a MoE layer, with (Count, TopK) entries, valid during the call.
	Trace func(layer int, experts []int32, weights []float32)
}
