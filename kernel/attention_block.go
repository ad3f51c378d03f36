package kernel

import (
	"math"
	"unsafe"
)

const (
	// maxProductRows bounds the rows of a product with keys or values.
	maxProductRows = 6
	// stepBlocks and stepRows bound the blocks and rows that go through keys, softmax and
	// values together: so that few rows have enough to do between two of these, and many
	// rows find keys and values in the nearest cache.
	stepBlocks, stepRows = 4, 96
	stepTiles            = stepBlocks * blockTiles
	blockTiles           = blockTokens / KVTokens
)

// attentionScratch is one thread's memory.
type attentionScratch struct {
	q       []float32 // (rows, HeadDim): a piece's queries times Scale
	states  []float32 // of a piece over all spans: the total, and a span's
	kv      kvTiles
	product kvProduct
	softmax softmaxBlock
	scores  []float32 // stepRows*blockTokens
	// shrink is, for each block and row, what the row's sums so far are multiplied by.
	shrink [stepBlocks][stepRows]float32
	// ends are the first positions of blocks that each row does not see, seen the positions
	// of one block that it sees, as bits.
	ends [stepRows]int
	seen [stepRows]uint64
	both [2]float32
}

// kvTiles is the keys and values of one head in some blocks: of tiles first to last,
// without last; what is kept of the others is of no use.
type kvTiles struct {
	blocks                 int
	first, last            int
	keys, values           [stepTiles][]byte
	keyScales, valueScales []float32 // (blocks, blockTokens), in 8 bits
	next                   [stepTiles]*byte
}

// kvProduct is a product of some rows with the keys of a block, or with values: what one
// call of assembly reads. A step is an element of the rows: of a query for keys, a
// position for values.
type kvProduct struct {
	y, x     *float32
	ldy, ldx int // bytes between rows
	// w holds the keys of each tile; or runs of neighbouring positions' values.
	w [stepTiles]*byte
	// steps is the number of positions in each run; or of elements, which are in as
	// many runs. It is not 0. During a run some of the memory at next is fetched into
	// the cache.
	steps [stepTiles]int
	next  [stepTiles]*byte
	runs  int
	// lo and hi are the positions of the runs, if these are of values and not 0.
	lo, hi int
	// stride is the number of bytes from one position's values to the next; those that
	// are used begin at at.
	stride, at int
	// shrink is, for each row of y, what multiplies it before the values of a first block
	// are added; runs that begin a block say how many bytes further theirs is, others -1.
	shrink   *float32
	shrinkAt [stepTiles]int
}

// softmaxBlock is some rows' scores in one block, which softmax replaces by exponentials:
// what one call of assembly reads.
type softmaxBlock struct {
	scores       []float32
	stride, rows int       // floats between rows, and their number
	best         []float32 // the largest score of each row, which rises
	sums         []float32 // (rows, KVTokens)
	shrink       []float32
	seen         []uint64
	// In 8 bits scores are multiplied by the first, exponentials in the end by the second.
	keyScales, valueScales []float32
}

func newAttentionScratch() attentionScratch {
	scores, scales := stepRows*blockTokens, stepBlocks*blockTokens
	m := alignedFloats(scores + 2*scales)
	s := attentionScratch{scores: m[:scores]}
	s.kv.keyScales, s.kv.valueScales = m[scores:scores+scales], m[scores+scales:]
	return s
}

// alignedFloats returns n floats of which the first begins a line of the cache, so that a
// vector is in one.
func alignedFloats(n int) []float32 {
	const lineFloats = lineBytes / 4
	x := make([]float32, n+lineFloats-1)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(x))) / 4 % lineFloats
	return x[skip:][:n:n]
}

// growFloats returns n floats as alignedFloats does, x's own memory when it is large enough.
func growFloats(x []float32, n int) []float32 {
	if cap(x) < n {
		return alignedFloats(n)
	}
	return x[:n]
}

// begin copies a piece's queries, times Scale.
func (s *attentionScratch) begin(r *AttentionRun, p *attentionPiece) {
	n := r.group() * r.a.KV.HeadDim
	s.q = growFloats(s.q, p.n*n)
	for i := range p.n {
		scale(s.q[i*n:(i+1)*n], r.q.Row(p.row + i)[p.head*n:(p.head+1)*n], r.a.Scale)
	}
}

// attend sets t to the result of a piece's queries over one span. Rows that see nothing
// of it are undefined.
func (r *AttentionRun) attend(s *attentionScratch, t softmaxState, p *attentionPiece, span int) {
	for i := range t.max {
		t.max[i] = float32(math.Inf(-1))
	}
	clear(t.sums)
	clear(t.out)
	begin := max(r.a.from(p.pos), span*r.span)
	end := min(p.pos+p.n, (span+1)*r.span)
	group, rows := r.group(), len(t.max)
	for at := begin - begin%blockTokens; at < end; at += s.kv.blocks * blockTokens {
		s.kv.blocks = r.blocks(p, at, end)
		r.load(s, p, at, [2]int{max(begin-at, 0), min(end-at, s.kv.blocks*blockTokens)})
		for first := max(at-p.pos, 0) * group; first < rows; first += stepRows {
			w := rowsAt{first, min(rows-first, stepRows), max(begin-at, 0), p.pos - at + 1, group,
				s.kv.blocks * blockTokens}
			if first+w.n == rows {
				r.lookAhead(s, p, at+w.tokens, end)
			}
			r.step(s, t, w)
		}
	}
}

// blocks is the number of blocks from position at on that a piece's rows go through
// together. Several queries see all of such blocks, unless it is one.
func (r *AttentionRun) blocks(p *attentionPiece, at, end int) int {
	n := min(stepBlocks, max(stepRows/(p.n*r.group()), 1), (end-at+blockTokens-1)/blockTokens)
	if p.n > 1 {
		n = min(n, max((p.pos+1-at)/blockTokens, 1))
	}
	return n
}

// rowsAt is n neighbouring rows of a piece at some blocks of so many positions, of which
// each sees positions from lo on and, if it belongs to the piece's query i, to without
// last+i.
type rowsAt struct {
	first, n                int
	lo, last, group, tokens int
}

// findEnds sets ends to the first position of the blocks that each row does not see.
func (w rowsAt) findEnds(ends []int) {
	query, head := w.first/w.group, w.first%w.group
	for i := range ends[:w.n] {
		ends[i] = min(w.last+query, w.tokens)
		if head++; head == w.group {
			query, head = query+1, 0
		}
	}
}

// share is how many of so many rows the next call of assembly takes: whole queries if it
// can, since their rows see the same; else calls are alike, so that none is slow.
func (w rowsAt) share(rows int) int {
	if w.group <= maxProductRows {
		return min(rows, maxProductRows-maxProductRows%w.group)
	}
	calls := (rows + maxProductRows - 1) / maxProductRows
	return (rows + calls - 1) / calls
}

// load finds the tiles of blocks: those of positions seen[0] to seen[1].
func (r *AttentionRun) load(s *attentionScratch, p *attentionPiece, at int, seen [2]int) {
	l, b, table := &r.a.KV, &s.kv, r.seqs[p.seq].Table
	b.first, b.last = seen[0]/KVTokens, (seen[1]+KVTokens-1)/KVTokens
	size := l.headBytes()
	for i := b.first; i < b.last; i++ {
		tile := r.tiles.Tile(table, at/KVTokens+i)
		head := tile[p.head*size : (p.head+1)*size : (p.head+1)*size]
		b.keys[i], b.values[i] = l.split(head)
		b.next[i] = &b.keys[i][0]
		if l.Precision == PrecisionInt8 {
			keys, values := kvScales(head)
			copy(b.keyScales[i*KVTokens:], keys[:])
			copy(b.valueScales[i*KVTokens:], values[:])
		}
	}
}

// lookAhead makes the last rows' products fetch the keys of the blocks at a position, if
// that comes before end; those of others fetch their own blocks' keys for the next rows.
func (r *AttentionRun) lookAhead(s *attentionScratch, p *attentionPiece, at, end int) {
	table := r.seqs[p.seq].Table
	for i := range s.kv.next {
		if at+i*KVTokens < end {
			tile := r.tiles.Tile(table, at/KVTokens+i)
			s.kv.next[i] = &tile[p.head*r.a.KV.headBytes()]
		}
	}
}

// step adds blocks to some rows.
func (r *AttentionRun) step(s *attentionScratch, t softmaxState, w rowsAt) {
	l := &r.a.KV
	w.findEnds(s.ends[:])
	q := s.q[w.first*l.HeadDim : (w.first+w.n)*l.HeadDim]
	if !s.keysVector(l, q, w) {
		s.keysGo(l, q, w)
	}
	for block := range s.kv.blocks {
		r.exponentials(s, t, w, block)
	}
	s.product.runs = 0
	for i := 0; i < w.n; {
		n := w.share(w.n - i)
		r.addValues(s, t, w, i, i+n)
		i += n
	}
}

// exponentials replaces a block's scores.
func (r *AttentionRun) exponentials(s *attentionScratch, t softmaxState, w rowsAt, block int) {
	at, b := block*blockTokens, &s.softmax
	lo := max(w.lo-at, 0)
	for i, end := range s.ends[:w.n] {
		s.seen[i] = ^uint64(0) >> max(blockTokens-(end-at), 0) >> lo << lo
	}
	rows := w.first + w.n
	*b = softmaxBlock{scores: s.scores[at:], stride: w.tokens, rows: w.n, best: t.max[w.first:rows],
		sums: t.sums[w.first*KVTokens : rows*KVTokens], shrink: s.shrink[block][:w.n], seen: s.seen[:w.n]}
	if r.a.KV.Precision == PrecisionInt8 {
		b.keyScales = s.kv.keyScales[at : at+blockTokens]
		b.valueScales = s.kv.valueScales[at : at+blockTokens]
	}
	softmax(b)
}

// addValues adds the blocks' values to rows from to to: first the positions that all of
// them see, then those that only later rows see.
func (r *AttentionRun) addValues(s *attentionScratch, t softmaxState, w rowsAt, from, to int) {
	l := &r.a.KV
	lo := w.lo
	for i := from; i < to; {
		hi := s.ends[i]
		y := t.out[(w.first+i)*t.dims : (w.first+to)*t.dims]
		v := valuesAt{i, to - i, lo, hi, w.tokens, lo == w.lo}
		if !s.valuesVector(l, y, v) {
			s.valuesGo(l, y, v)
		}
		for i < to && s.ends[i] == hi {
			i++
		}
		lo = hi
	}
}

// valuesAt is the values of positions lo to hi, for n rows of scores.
type valuesAt struct {
	row, n, lo, hi int
	tokens         int  // floats between rows of scores
	begin          bool // whether the rows have not yet seen lo's block
}

// shrinks tells whether rows shrink before the values of a position.
func (v valuesAt) shrinks(pos int) bool {
	return pos%blockTokens == 0 || v.begin && pos == v.lo
}

// keysGo sets scores, (rows, tokens), to rows q times keys.
func (s *attentionScratch) keysGo(l *KVLayout, q []float32, at rowsAt) {
	var w [KVTokens]float32
	size := KVTokens * l.elementBytes()
	for i := range at.n {
		for tile := s.kv.first; tile < s.kv.last; tile++ {
			var sums [KVTokens]float32
			for d, v := range q[i*l.HeadDim : (i+1)*l.HeadDim] {
				l.widenVector(&w, s.kv.keys[tile][d*size:])
				for j := range sums {
					sums[j] = fma32(v, w[j], sums[j])
				}
			}
			copy(s.scores[i*at.tokens+tile*KVTokens:], sums[:])
		}
	}
}

// valuesGo adds values times scores to y, (rows, dims).
func (s *attentionScratch) valuesGo(l *KVLayout, y []float32, v valuesAt) {
	var w [KVTokens]float32
	dims, size := l.dims(), l.elementBytes()
	for i := range v.n {
		row, x := y[i*dims:(i+1)*dims], s.scores[(v.row+i)*v.tokens:]
		for t := v.lo; t < v.hi; t++ {
			if v.shrinks(t) {
				scaleGo(row, row, s.shrink[t/blockTokens][v.row+i])
			}
			values := s.kv.values[t/KVTokens][t%KVTokens*dims*size:]
			for d := 0; d < dims; d += KVTokens {
				l.widenVector(&w, values[d*size:])
				for j, e := range w {
					row[d+j] = fma32(x[t], e, row[d+j])
				}
			}
		}
	}
}

// softmaxGo replaces scores.
func softmaxGo(b *softmaxBlock) {
	for i, old := range b.best {
		row := b.scores[i*b.stride : i*b.stride+blockTokens]
		b.best[i] = b.scoresGo(row, old, b.seen[i])
		b.shrink[i] = exp32(old - b.best[i])
		expShiftedGo(row, row, b.best[i])
		sums := b.sums[i*KVTokens : (i+1)*KVTokens]
		for j, v := range sums {
			v = float32(v * b.shrink[i])
			for t := j; t < blockTokens; t += KVTokens {
				v += row[t]
			}
			sums[j] = v
		}
		if b.valueScales != nil {
			scaleScores(row, b.valueScales)
		}
	}
}

// scoresGo makes the final scores of a row: those of positions that it does not see count
// nothing. It returns the largest, or best.
func (b *softmaxBlock) scoresGo(row []float32, best float32, seen uint64) float32 {
	if b.keyScales != nil {
		scaleScores(row, b.keyScales)
	}
	for t, v := range row {
		if seen>>t&1 == 0 {
			row[t] = float32(math.Inf(-1))
		} else if v > best {
			best = v
		}
	}
	return best
}

func scaleScores(scores, scales []float32) {
	for t := range scores {
		scores[t] = float32(scores[t] * scales[t])
	}
}
