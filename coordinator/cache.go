package coordinator

import (
	"fmt"
	"math"

	"drover/model"
	"drover/scheduler"
)

// cacheBlocks divides kvBytes over the KV groups. Every group gets the same number of
// blocks, but none more than it could use: a chunked group needs its window only. The
// answer is the largest such division, or what all sequences at full length would need.
func cacheBlocks(spec model.Spec, o scheduler.Options, kvBytes int64) ([]int, error) {
	if len(spec.KV) == 0 || spec.MaxTokens < 1 {
		return nil, fmt.Errorf("size KV cache: the model has %d KV groups and %d context tokens",
			len(spec.KV), spec.MaxTokens)
	}
	want := make([]int, len(spec.KV))
	for i, g := range spec.KV {
		if g.RowBytes < 1 || g.Chunk < 0 || g.RowBytes > math.MaxInt32 {
			return nil, fmt.Errorf("size KV cache: group %d has rows of %d bytes and chunk %d",
				i, g.RowBytes, g.Chunk)
		}
		tokens := spec.MaxTokens
		if g.Chunk > 0 && g.Chunk < tokens-o.MaxPrefillTokens {
			tokens = g.Chunk + o.MaxPrefillTokens + o.BlockTokens
		}
		perSequence := (tokens-1)/o.BlockTokens + 1
		want[i] = min(perSequence, math.MaxInt32/o.MaxSequences) * o.MaxSequences
	}
	bytes := func(n int) (sum int64) {
		for i, g := range spec.KV {
			sum += int64(min(n, want[i])) * int64(o.BlockTokens) * int64(g.RowBytes)
			if sum < 0 || sum > kvBytes {
				return math.MaxInt64
			}
		}
		return sum
	}
	if bytes(1) > kvBytes {
		return nil, fmt.Errorf("size KV cache: %d bytes do not hold one block of %d tokens; "+
			"raise KVBytes", kvBytes, o.BlockTokens)
	}
	low, high := 1, math.MaxInt32 // bytes(low) fits
	for low < high {
		if mid := low + (high-low+1)/2; bytes(mid) <= kvBytes {
			low = mid
		} else {
			high = mid - 1
		}
	}
	blocks := make([]int, len(want))
	for i := range blocks {
		blocks[i] = min(low, want[i])
	}
	return blocks, nil
}
