package scheduler

import "fmt"

// Options sizes a Scheduler. Groups has no default.
type Options struct {
	// Groups lists the KV groups, each with a pool of blocks of its own.
	Groups []Group
	// BlockTokens is the number of positions in a block. Small blocks waste less,
	// large ones make shorter tables. Zero means 16.
	BlockTokens int
	// MaxSequences bounds the sequences that run at once. Zero means 64.
	MaxSequences int
	// MaxWaiting bounds the sequences that wait beside them; one more is refused
	// with ErrFull. Zero means 1024.
	MaxWaiting int
	// MaxBatchTokens bounds the tokens of one step. It is at least MaxSequences, so that
	// every running sequence can decode in every step. Large steps delay the decoding
	// sequences in them, small ones slow prefill. Zero means 512 or MaxSequences, if
	// that is more.
	MaxBatchTokens int
	// MaxPrefillTokens bounds one sequence's tokens in one step, so that a long
	// prompt leaves room for a short one. Zero means half of MaxBatchTokens.
	MaxPrefillTokens int
	// MaxScoreTokens bounds the positions of one scored sequence whose logits one step
	// returns. Zero means 16.
	MaxScoreTokens int
}

// Group describes the pool of one KV group.
type Group struct {
	// Blocks is the number of blocks.
	Blocks int
	// Chunk is the attention chunk, or 0: a token at position p needs only the blocks
	// of positions from p - p%Chunk on.
	Chunk int
}

func (o *Options) setDefaults() {
	setDefault(&o.BlockTokens, 16)
	setDefault(&o.MaxSequences, 64)
	setDefault(&o.MaxWaiting, 1024)
	setDefault(&o.MaxBatchTokens, max(512, o.MaxSequences))
	setDefault(&o.MaxPrefillTokens, max(1, o.MaxBatchTokens/2))
	setDefault(&o.MaxScoreTokens, 16)
}

func setDefault(v *int, d int) {
	if *v == 0 {
		*v = d
	}
}

func (o *Options) validate() error {
	for _, f := range []struct {
		name  string
		value int
	}{
		{"BlockTokens", o.BlockTokens},
		{"MaxSequences", o.MaxSequences},
		{"MaxWaiting", o.MaxWaiting},
		{"MaxBatchTokens", o.MaxBatchTokens},
		{"MaxPrefillTokens", o.MaxPrefillTokens},
		{"MaxScoreTokens", o.MaxScoreTokens},
	} {
		if f.value < 1 || f.value > 1<<30 {
			return fmt.Errorf("scheduler: %s is %d, want 1 to %d", f.name, f.value, 1<<30)
		}
	}
	if o.MaxBatchTokens < o.MaxSequences {
		return fmt.Errorf("scheduler: MaxBatchTokens %d is below MaxSequences %d",
			o.MaxBatchTokens, o.MaxSequences)
	}
	if len(o.Groups) == 0 {
		return fmt.Errorf("scheduler: no KV groups")
	}
	for i, g := range o.Groups {
		if g.Blocks < 1 || g.Blocks > 1<<31-1 || g.Chunk < 0 {
			return fmt.Errorf("scheduler: KV group %d has %d blocks and chunk %d",
				i, g.Blocks, g.Chunk)
		}
	}
	return nil
}
