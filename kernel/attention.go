package kernel

import (
	"fmt"
	"sync/atomic"

	"drover/tensor"
)

// Attention is the attention of new tokens in one layer over keys and values in tiles:
// softmax(q kᵀ scale) v for each query head, query heads sharing key heads in groups
// (GQA).
//
// It is computed by online softmax (Milakov and Gimelshein, 2018) over blocks of
// blockTokens positions, in ascending order, within spans of spanTokens positions,
// whose results are merged in ascending order; both begin at multiples of their size.
// For one query head, with q = q * Scale first, a block does
//
//	score[t] = fma chain over elements of q * key[t], from 0   (times the key's scale)
//	max'     = the larger of max and all scores
//	shrink   = e^(max - max')
//	p[t]     = e^(score[t] - max')
//	sum[i]   = sum[i] * shrink + p[i] + p[i+16] + p[i+32] + p[i+48]  for 16 sums
//	out      = fma chain over t of p[t] * value[t], from out * shrink
//
// with p[t] times the value's scale in the last line, in 8 bits. What a query sees and
// the order of its sums depend on its position alone, so prefill in any pieces and
// decode give the same bytes. A position that a query does not see is never multiplied
// with, so it does not matter what a tile holds there.
type Attention struct {
	// Heads is the number of query heads, a multiple of KV.Heads.
	Heads int
	KV    KVLayout
	// Chunk restricts a query at position p to positions from p - p%Chunk on; 0 does not.
	Chunk int
	// Scale multiplies q·k.
	Scale float32
}

// from is the first position that a query at pos sees.
func (a *Attention) from(pos int) int {
	if a.Chunk == 0 {
		return 0
	}
	return pos - pos%a.Chunk
}

// AttentionSequence is one sequence's part of a batch: Count queries at neighbouring
// positions from Start on.
type AttentionSequence struct {
	Start, Count int
	// Table is handed to KVTiles.
	Table []int32
}

// KVTiles finds tiles.
type KVTiles interface {
	// Tile returns the tile of positions i*KVTokens and on of the sequence that has
	// a block table: at least TileBytes bytes. It may be called from several
	// goroutines.
	Tile(table []int32, i int) []byte
}

const (
	// blockTokens and spanTokens are constants of the results, see Attention.
	blockTokens = 4 * KVTokens
	spanTokens  = 4096
	// pieceTokens is the largest number of queries in a piece of work: enough that
	// reading keys and values takes little of the time.
	pieceTokens = 16
	// parallelTokens is the largest number of queries whose spans are pieces of their
	// own, since there are too few pieces otherwise.
	parallelTokens = 4
	// threadPieces is how many pieces a thread should have before their heads go together.
	threadPieces = 4
)

// AttentionRun is one use of an Attention, and the memory that it needs, which grows to
// the largest use: Prepare, then Do for every piece, in any order and by several threads
// at a time. The zero value is ready.
type AttentionRun struct {
	a       Attention
	out, q  tensor.Rows // (rows, Heads*HeadDim)
	seqs    []AttentionSequence
	tiles   KVTiles
	threads int
	// span is spanTokens; tests make it smaller.
	span int
	// together is the number of key heads in a piece of few queries.
	together int

	pieces  []attentionPiece
	merges  []attentionMerge
	parts   []float32 // the results of spans that are pieces of their own
	scratch []attentionScratch
}

// attentionPiece is the work for some key heads and queries of a sequence, over all spans
// or one.
type attentionPiece struct {
	seq       int
	row       int // of out and q
	pos, n    int // the queries' first position, and their number
	head      int // the first key head
	heads     int
	span      int // the first, or only, span
	merge     int // index of the merge that the piece is part of, -1 for all spans
	partStart int // of its result, in parts
}

// attentionMerge says how the spans of some queries come together: whoever finishes the
// last of them adds up all, in ascending order.
type attentionMerge struct {
	left  atomic.Int32
	first int // of the pieces
	step  int // from one to the next
	spans int
}

// Prepare makes r compute out, (rows, Heads*HeadDim), for queries q of the same shape,
// the rows of one sequence after those of another, and returns the number of pieces.
// All keys and values that the queries see are in the tiles. out, q, seqs and tiles are
// used until the last piece is done, on so many threads.
func (r *AttentionRun) Prepare(a *Attention, out, q tensor.Rows, seqs []AttentionSequence,
	tiles KVTiles, threads int) int {
	if a.Heads%a.KV.Heads != 0 || q.Dim != a.Heads*a.KV.HeadDim || out.Dim != q.Dim || out.N != q.N {
		panic(fmt.Sprintf("kernel: attention of (%d,%d) into (%d,%d) with %d heads over %d of %d",
			q.N, q.Dim, out.N, out.Dim, a.Heads, a.KV.Heads, a.KV.HeadDim))
	}
	r.a, r.out, r.q, r.seqs, r.tiles, r.threads = *a, out, q, seqs, tiles, threads
	if r.span == 0 {
		r.span = spanTokens
	}
	for len(r.scratch) < threads {
		r.scratch = append(r.scratch, newAttentionScratch())
	}
	r.together = r.headsTogether()
	r.pieces, r.merges = r.pieces[:0], r.merges[:0]
	row, parts := 0, 0
	for i := range seqs {
		parts = r.addSequence(i, row, parts)
		row += seqs[i].Count
	}
	if row != q.N {
		panic(fmt.Sprintf("kernel: attention of %d rows for sequences of %d", q.N, row))
	}
	r.parts = growFloats(r.parts, parts)
	return len(r.pieces)
}

// release forgets what Prepare was given.
func (r *AttentionRun) release() {
	r.out, r.q, r.seqs, r.tiles = tensor.Rows{}, tensor.Rows{}, nil, nil
}

// addSequence adds the pieces of a sequence, which begins with a row. Those of many queries
// come head by head: keys and values of one, which all of its queries read, are in nearer caches
// than those of all. parts is the memory that partial results need so far.
func (r *AttentionRun) addSequence(seq, row, parts int) int {
	begin, count := r.seqs[seq].Start, r.seqs[seq].Count
	end := begin + count
	row -= begin // of position 0
	for head := 0; head < r.a.KV.Heads && count > parallelTokens; head++ {
		for pos, n := begin, 0; pos < end; pos += n {
			if n = r.queries(pos, end); n > parallelTokens {
				r.pieces = append(r.pieces, attentionPiece{seq: seq, row: row + pos, pos: pos, n: n,
					head: head, heads: 1, span: r.a.from(pos) / r.span, merge: -1})
			}
		}
	}
	for pos, n := begin, 0; pos < end; pos += n {
		if n = r.queries(pos, end); n <= parallelTokens {
			parts = r.addPieces(attentionPiece{seq: seq, row: row + pos, pos: pos, n: n}, parts)
		}
	}
	return parts
}

// queries is the number of queries of a piece that begins at pos, of a sequence that ends at
// end: all of them see the same first position.
func (r *AttentionRun) queries(pos, end int) int {
	n := min(end-pos, pieceTokens)
	if r.a.Chunk > 0 {
		n = min(n, r.a.from(pos)+r.a.Chunk-pos)
	}
	return n
}

// addPieces adds the pieces of few queries: for each group of key heads one, or one for each
// span.
func (r *AttentionRun) addPieces(p attentionPiece, parts int) int {
	first, last := r.a.from(p.pos)/r.span, (p.pos+p.n-1)/r.span
	alone, most := first == last, r.together
	groups := (r.a.KV.Heads + most - 1) / most
	merges, begin := len(r.merges), len(r.pieces)
	for p.span = first; p.span <= last; p.span++ {
		for g := range groups {
			p.head = g * most
			p.heads = min(most, r.a.KV.Heads-p.head)
			p.merge, p.partStart = -1, parts
			if !alone {
				p.merge = merges + g
				parts += p.heads * r.stateFloats(p.n)
			}
			r.pieces = append(r.pieces, p)
		}
		if alone {
			return parts
		}
	}
	r.merges = growBy(r.merges, groups)
	for g := range groups {
		m := &r.merges[merges+g]
		m.first, m.step, m.spans = begin+g, groups, last-first+1
		m.left.Store(int32(m.spans))
	}
	return parts
}

// headsTogether is the number of key heads that few queries, which are bound by reading,
// go through keys and values with: as many as leave each thread a few pieces.
func (r *AttentionRun) headsTogether() int {
	if r.threads == 1 {
		return r.a.KV.Heads
	}
	spans := 0
	for _, s := range r.seqs {
		last := s.Start + s.Count - 1
		spans += last/r.span - r.a.from(last)/r.span + 1
	}
	return min(max(r.a.KV.Heads*spans/(threadPieces*r.threads), 1), r.a.KV.Heads)
}

// growBy appends n elements, whatever their memory holds.
func growBy[T any](s []T, n int) []T {
	if cap(s) >= len(s)+n {
		return s[:len(s)+n]
	}
	return append(s, make([]T, n)...)
}

// Do does a piece. No two calls at a time have the same thread.
func (r *AttentionRun) Do(thread, piece int) {
	p := &r.pieces[piece]
	s := &r.scratch[thread]
	s.following = piece + r.threads
	s.begin(r, p)
	if p.merge < 0 {
		r.doSpans(s, p)
		return
	}
	r.attend(s, r.part(p), p, p.span)
	m := &r.merges[p.merge]
	if m.left.Add(-1) > 0 {
		return
	}
	total := r.part(&r.pieces[m.first])
	for i := 1; i < m.spans; i++ {
		next := &r.pieces[m.first+i*m.step]
		r.mergeSpan(s, total, r.part(next), p, next.span)
	}
	r.finish(total, p)
}

// doSpans does a piece over all its spans, one after the other.
func (r *AttentionRun) doSpans(s *attentionScratch, p *attentionPiece) {
	size := p.heads * r.stateFloats(p.n)
	s.states = growFloats(s.states, 2*size)
	total, next := s.states[:size], s.states[size:]
	last := (p.pos + p.n - 1) / r.span
	for span := p.span; span <= last; span++ {
		if span == p.span {
			r.attend(s, total, p, span)
			continue
		}
		r.attend(s, next, p, span)
		r.mergeSpan(s, total, next, p, span)
	}
	r.finish(total, p)
}

// mergeSpan adds the results of a piece's next span to those of the spans before.
func (r *AttentionRun) mergeSpan(s *attentionScratch, total, next []float32, p *attentionPiece,
	span int) {
	for i := range p.heads {
		t := r.state(total, p.n, i)
		t.merge(r.state(next, p.n, i), r.rowsBefore(p, span), s)
	}
}

// rowsBefore is the number of a piece's rows that see nothing of a span.
func (r *AttentionRun) rowsBefore(p *attentionPiece, span int) int {
	return max(span*r.span-p.pos, 0) * r.group()
}

// group is the number of query heads that share a key head.
func (r *AttentionRun) group() int { return r.a.Heads / r.a.KV.Heads }

// softmaxState is what online softmax keeps of some rows: for each query, and each head
// of the group, in this order, the largest score, 16 sums of exponentials and the
// weighted sum of values.
type softmaxState struct {
	max  []float32 // (rows)
	sums []float32 // (rows, 16)
	out  []float32 // (rows, dims)
	dims int
}

// stateFloats is the memory that the state of n queries needs, whole lines of it.
func (r *AttentionRun) stateFloats(n int) int {
	return n*r.group()*(KVTokens+r.a.KV.dims()) + (n*r.group()+KVTokens-1)/KVTokens*KVTokens
}

// state is that of a piece's i-th head.
func (r *AttentionRun) state(memory []float32, n, i int) softmaxState {
	rows, dims := n*r.group(), r.a.KV.dims()
	memory = memory[i*r.stateFloats(n):]
	sums, most := memory[rows*dims:], memory[rows*(dims+KVTokens):]
	return softmaxState{most[:rows], sums[:rows*KVTokens], memory[:rows*dims], dims}
}

// part is the states of a piece that is one span.
func (r *AttentionRun) part(p *attentionPiece) []float32 {
	return r.parts[p.partStart : p.partStart+p.heads*r.stateFloats(p.n)]
}

// merge adds the next span's results to t, but for the first rows, which have none.
func (t *softmaxState) merge(next softmaxState, first int, s *attentionScratch) {
	for i := first; i < len(t.max); i++ {
		best := max(t.max[i], next.max[i])
		both := s.both[:]
		both[0], both[1] = t.max[i]-best, next.max[i]-best
		expShifted(both, both, 0)
		mergeRows(t.sums[i*KVTokens:(i+1)*KVTokens], next.sums[i*KVTokens:], both[0], both[1])
		mergeRows(t.out[i*t.dims:(i+1)*t.dims], next.out[i*t.dims:], both[0], both[1])
		t.max[i] = best
	}
}

// mergeRows sets y = y*a + x*b.
func mergeRows(y, x []float32, a, b float32) {
	x = x[:len(y)]
	for i, v := range y {
		y[i] = float32(v*a) + float32(x[i]*b)
	}
}

// finish divides by the sums and writes a piece's rows to out.
func (r *AttentionRun) finish(total []float32, p *attentionPiece) {
	n, group := r.a.KV.HeadDim, r.group()
	for h := range p.heads {
		t := r.state(total, p.n, h)
		for i := range t.max {
			var sum float32
			for _, v := range t.sums[i*KVTokens : (i+1)*KVTokens] {
				sum += v
			}
			row := r.out.Row(p.row + i/group)[((p.head+h)*group+i%group)*n:]
			scale(row[:n], t.out[i*t.dims:i*t.dims+n], 1/sum)
		}
	}
}

// grow returns a slice of n elements, s's own memory when it is large enough.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
