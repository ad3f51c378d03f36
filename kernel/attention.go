package kernel

import (
	"math"

	"drover/tensor"
)

// Attention is the attention of one sequence's new tokens in one layer, over keys
// and values in blocks: softmax(q kᵀ scale) v for each query head, query heads
// sharing key heads in groups (GQA).
//
// It is computed by online softmax (Milakov and Gimelshein, 2018) over blocks that
// start at multiples of BlockTokens, in ascending order. What a query sees and the
// order of its sums depend on its position alone, so prefill in any pieces and
// decode give the same bytes.
type Attention struct {
	Heads, KVHeads, HeadDim int
	// BlockTokens is the number of positions in a block.
	BlockTokens int
	// Chunk restricts a query at position p to positions from p - p%Chunk on; 0 does not.
	Chunk int
	// Scale multiplies q·k.
	Scale float32
}

// Blocks gives the keys and values of a block: each (BlockTokens, KVHeads*HeadDim).
type Blocks interface {
	Block(i int) (keys, values []float32)
}

// AttentionScratch is the memory that one Run needs; it grows to the largest use.
type AttentionScratch struct {
	max, sum []float32 // (rows, heads)
	scores   []float32 // (blockTokens)
}

// Run sets out, (rows, Heads*HeadDim), for queries q of the same shape whose first
// row stands at position start. blocks.Block(i) holds positions i*BlockTokens and
// on; it is asked for each block that a query sees, once, in ascending order.
func (a *Attention) Run(out, q tensor.Rows, start int, blocks Blocks, s *AttentionScratch) {
	n := q.N * a.Heads
	s.max = grow(s.max, n)
	s.sum = grow(s.sum, n)
	s.scores = grow(s.scores, a.BlockTokens)
	for i := range s.max {
		s.max[i] = float32(math.Inf(-1))
	}
	clear(s.sum)
	clear(out.Data[:out.N*out.Dim])
	first := a.from(start) / a.BlockTokens
	last := (start + q.N - 1) / a.BlockTokens
	for b := first; b <= last; b++ {
		keys, values := blocks.Block(b)
		for i := range q.N {
			pos := start + i
			lo := max(a.from(pos), b*a.BlockTokens) - b*a.BlockTokens
			hi := min(pos+1-b*a.BlockTokens, a.BlockTokens)
			if lo >= hi {
				continue
			}
			kvDim := a.KVHeads * a.HeadDim
			a.row(out.Row(i), q.Row(i), keys[lo*kvDim:hi*kvDim], values[lo*kvDim:hi*kvDim],
				s.of(i, a.Heads, hi-lo))
		}
	}
	for i := range q.N {
		row := out.Row(i)
		for h := range a.Heads {
			Scale(row[h*a.HeadDim:(h+1)*a.HeadDim], 1/s.sum[i*a.Heads+h])
		}
	}
}

// from is the first position that a query at pos sees.
func (a *Attention) from(pos int) int {
	if a.Chunk == 0 {
		return 0
	}
	return pos - pos%a.Chunk
}

// rowState is what online softmax keeps for one query row: the largest score and
// the sum of exponentials by head; scores has room for the positions of a part.
type rowState struct {
	max, sum, scores []float32
}

func (s *AttentionScratch) of(row, heads, positions int) rowState {
	lo, hi := row*heads, (row+1)*heads
	return rowState{s.max[lo:hi], s.sum[lo:hi], s.scores[:positions]}
}

// row adds some neighbouring positions to one query row.
func (a *Attention) row(out, q, keys, values []float32, s rowState) {
	group := a.Heads / a.KVHeads
	kvDim := a.KVHeads * a.HeadDim
	for h := range a.Heads {
		at := h / group * a.HeadDim
		qh, oh := q[h*a.HeadDim:(h+1)*a.HeadDim], out[h*a.HeadDim:(h+1)*a.HeadDim]
		dots(s.scores, qh, keys[at:], kvDim, a.Scale)
		old := s.max[h]
		best := old
		for _, v := range s.scores {
			if v > best {
				best = v
			}
		}
		sum := s.sum[h]
		if best > old {
			shrink := exp32(float32(old - best))
			sum = float32(sum * shrink)
			Scale(oh, shrink)
			s.max[h] = best
		}
		expShifted(s.scores, s.scores, best)
		for _, p := range s.scores {
			sum += p
		}
		addWeighted(oh, values[at:], kvDim, s.scores)
		s.sum[h] = sum
	}
}

// grow returns a slice of n elements, s's own memory when it is large enough.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
