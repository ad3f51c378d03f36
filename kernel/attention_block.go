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
	// callProducts bounds the multiply-adds of a call of assembly that does more than one
	// group of rows: see maxPart.
	callProducts = 1 << 20
	// fetchedResults is of how many queries memory is fetched in a block.
	fetchedResults = 4
)

// attentionScratch is one thread's memory.
type attentionScratch struct {
	q      []float32 // (rows, HeadDim): a piece's queries times Scale
	states []float32 // of a piece over all spans: the total, and a span's
	kv     kvTiles
	// following is the index of the piece that comes next, perhaps.
	following    int
	keys, values kvProduct
	softmax      softmaxBlocks
	scores       []float32 // stepRows*blockTokens
	// ends is, for the rows at, the first positions of the blocks that each does not see.
	at   rowsAt
	ends [stepRows]int
	both [2]float32
}

// kvTiles is the keys and values of one head in some blocks: of tiles first to last,
// without last; what is kept of the others is of no use.
type kvTiles struct {
	blocks                 int
	first, last            int
	tiles                  [stepTiles][]byte // with all heads
	head                   int               // where the head begins in each, in bytes
	keyScales, valueScales []float32         // (blocks, blockTokens), in 8 bits
	// What comes next lies so many bytes ahead of next.
	next  [stepTiles]*byte
	ahead int
}

// kvProduct is a product of some rows with the keys of blocks, or with values: what one
// call of assembly reads. A step is an element of the rows: of a query for keys, a
// position for values.
type kvProduct struct {
	y, x     *float32
	ldy, ldx int // bytes between rows
	// A call computes groups times the rows of its function, nextX and nextY bytes apart,
	// whose shrink is nextShrink bytes apart. With keys, parts is the number of tiles, and
	// all rows go through as many as the function takes before the next; with values, it is
	// how many times the elements that the function takes.
	groups, parts            int
	nextX, nextY, nextShrink int
	// The keys of each tile, or runs of neighbouring positions' values, lie from bytes after w.
	w    [stepTiles]*byte
	from int
	// steps is the number of positions in each run; or of elements, of which a tile has as
	// many runs as the function takes tiles. It is not 0. During a run some of the memory
	// ahead bytes after next is fetched into the cache.
	steps [stepTiles]int
	next  [stepTiles]*byte
	ahead int
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
	// Where a call is, while it lasts: shrinking is at the shrink of a group.
	//lint:ignore U1000 assembly reads and writes them
	left, part, element int
	//lint:ignore U1000 assembly reads and writes them
	fromX, rowsY, toY, shrinking uintptr
}

// softmaxBlocks is some rows' scores in some blocks, which softmax replaces by
// exponentials: what calls of assembly read.
type softmaxBlocks struct {
	scores               []float32 // (rows, stride)
	stride, rows, blocks int
	max                  []float32 // the largest score of each row before the blocks
	sums                 []float32 // (rows, KVTokens)
	// In 8 bits scores are multiplied by the first, exponentials in the end by the second.
	keyScales, valueScales []float32 // (blocks, blockTokens)
	// best is the largest score of each row with a block. shrink is by how much that rose,
	// negative, then what it makes of the sums so far.
	best, shrink [stepBlocks][stepRows]float32
	seen         [stepBlocks][stepRows]uint64 // the positions that each row sees, as bits
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

// begin copies a piece's queries, times Scale: those of each key head in turn.
func (s *attentionScratch) begin(r *AttentionRun, p *attentionPiece) {
	n := r.group() * r.a.KV.HeadDim
	s.q = growFloats(s.q, p.heads*p.n*n)
	if s.queriesVector(r, p) {
		return
	}
	for i := range p.heads * p.n {
		q := r.q.Row(p.row + i%p.n)[(p.head+i/p.n)*n:]
		scale(s.q[i*n:(i+1)*n], q[:n], r.a.Scale)
	}
}

// attend sets states to the results of a piece's queries over one span. All heads go through
// some blocks before the next ones, since this is how they lie in memory. Rows that see
// nothing of the span are undefined.
func (r *AttentionRun) attend(s *attentionScratch, states []float32, p *attentionPiece, span int) {
	for h := range p.heads {
		t := r.state(states, p.n, h)
		for i := range t.max {
			t.max[i] = float32(math.Inf(-1))
		}
		clear(t.sums)
		clear(t.out)
	}
	begin, end := r.begin(p, span), r.end(p, span)
	for at := begin - begin%blockTokens; at < end; at += s.kv.blocks * blockTokens {
		s.kv.blocks = r.blocks(p, at, end)
		lo := max(begin-at, 0)
		r.load(s, p, at, [2]int{lo, min(end-at, s.kv.blocks*blockTokens)})
		for h := range p.heads {
			s.choose(&r.a.KV, p.head+h)
			r.attendHead(s, r.state(states, p.n, h), p, headAt{h, span, at, lo})
		}
	}
}

// headAt is a piece's i-th head at blocks that begin at a position of a span, of which
// queries see positions from lo on.
type headAt struct{ i, span, pos, lo int }

// attendHead adds the blocks to the rows of a head.
func (r *AttentionRun) attendHead(s *attentionScratch, t softmaxState, p *attentionPiece,
	h headAt) {
	group, rows := r.group(), len(t.max)
	for first := max(h.pos-p.pos, 0) * group; first < rows; first += stepRows {
		tokens := s.kv.blocks * blockTokens
		w := rowsAt{first, min(rows-first, stepRows), h.lo, min(p.pos-h.pos+1, tokens), group, tokens}
		if first+w.n == rows {
			if h.i+1 < p.heads {
				s.kv.ahead += r.a.KV.headBytes()
			} else {
				r.lookAhead(s, p, h.pos+tokens, h.span)
				r.fetchResults(p, h.pos+tokens)
			}
		}
		r.step(s, t, w, s.q[(h.i*rows+first)*r.a.KV.HeadDim:])
	}
}

// blocks is the number of blocks from position at on that a piece's rows go through
// together. Several queries see all of such blocks, unless it is one.
func (r *AttentionRun) blocks(p *attentionPiece, at, end int) int {
	rows := p.n * r.group()
	n := min(r.a.KV.together(rows), max(stepRows/rows, 1), (end-at+blockTokens-1)/blockTokens)
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

// load finds the tiles of blocks: those of positions seen[0] to seen[1], which come next, too,
// for other rows or heads.
func (r *AttentionRun) load(s *attentionScratch, p *attentionPiece, at int, seen [2]int) {
	b, table := &s.kv, r.seqs[p.seq].Table
	b.first, b.last = seen[0]/KVTokens, (seen[1]+KVTokens-1)/KVTokens
	for i := b.first; i < b.last; i++ {
		b.tiles[i] = r.tiles.Tile(table, at/KVTokens+i)
		b.next[i] = &b.tiles[i][0]
	}
	s.loadVector(&r.a.KV)
}

// choose makes the keys and values those of a head.
func (s *attentionScratch) choose(l *KVLayout, head int) {
	b := &s.kv
	b.head = head * l.headBytes()
	b.ahead = b.head + l.scaleBytes()
	if l.Precision == PrecisionInt8 && !s.scalesVector(l) {
		for i := b.first; i < b.last; i++ {
			keys, values := kvScales(b.tiles[i][b.head:])
			*(*[KVTokens]float32)(b.keyScales[i*KVTokens:]) = *keys
			*(*[KVTokens]float32)(b.valueScales[i*KVTokens:]) = *values
		}
	}
}

// keys and values are those of the head in a tile.
func (b *kvTiles) keys(l *KVLayout, tile int) []byte {
	keys, _ := l.split(b.tiles[tile][b.head : b.head+l.headBytes()])
	return keys
}

func (b *kvTiles) values(l *KVLayout, tile int) []byte {
	_, values := l.split(b.tiles[tile][b.head : b.head+l.headBytes()])
	return values
}

// lookAhead makes the last rows' products fetch the keys that come next: at a position of
// the piece, or where it has no more, in the piece that this thread probably does next.
// Products of other rows fetch their own blocks' keys for the next rows.
func (r *AttentionRun) lookAhead(s *attentionScratch, p *attentionPiece, at, span int) {
	end, size, scales := r.end(p, span), r.a.KV.headBytes(), r.a.KV.scaleBytes()
	if p.merge < 0 {
		end = p.pos + p.n
	}
	s.kv.ahead, s.values.runs = 0, 0
	for i := range s.kv.next {
		if at >= end {
			if s.following >= len(r.pieces) || p == &r.pieces[s.following] {
				break
			}
			p = &r.pieces[s.following]
			at, end = r.begin(p, p.span), r.end(p, p.span)
		}
		head := r.tiles.Tile(r.seqs[p.seq].Table, at/KVTokens)[p.head*size:]
		s.kv.next[i] = &head[scales]
		at += KVTokens
	}
	if scales > 0 {
		fetchScales(&s.kv.next[0], stepTiles)
	}
}

// fetchResults fetches, during the last blocks of many queries, before position at, the memory
// of their results: rows of it lie apart, and writing them all at once takes longer.
func (r *AttentionRun) fetchResults(p *attentionPiece, at int) {
	if p.n <= parallelTokens {
		return
	}
	left := (max(p.pos+p.n-at, 0) + blockTokens - 1) / blockTokens
	i, width := left*fetchedResults, r.group()*r.a.KV.HeadDim
	if i >= p.n {
		return
	}
	out := r.out.Row(p.row + i)[p.head*width:]
	fetchRows(&out[0], r.out.Dim*4, (width*4+lineBytes-1)/lineBytes, min(p.n-i, fetchedResults))
}

// begin and end are the positions of a span that a piece's queries see: from the first to
// without the second.
func (r *AttentionRun) begin(p *attentionPiece, span int) int {
	return max(r.a.from(p.pos), span*r.span)
}

func (r *AttentionRun) end(p *attentionPiece, span int) int {
	return min(p.pos+p.n, (span+1)*r.span)
}

// step adds blocks to some rows, whose queries q begins with.
func (r *AttentionRun) step(s *attentionScratch, t softmaxState, w rowsAt, q []float32) {
	l := &r.a.KV
	if w != s.at { // else they are those of the head before, or as many of the blocks before
		s.at = w
		w.findEnds(s.ends[:])
		s.findSeen(w)
	}
	q = q[:w.n*l.HeadDim]
	if !s.keysVector(l, q, w) {
		s.keysGo(l, q, w)
	}
	b := &s.softmax
	s.prepare(l, t, w)
	finishScores(b)
	exponentials(b)
	copy(b.max, b.best[b.blocks-1][:])
	for i := 0; i < w.n; {
		n := w.share(w.n - i)
		groups := s.alike(w, i, n, l.dims())
		r.addValues(s, t, w, valuesAt{row: i, n: n, groups: groups})
		i += n * groups
	}
}

// alike is how many groups of n rows, from row i on, one call can take: their rows see the
// same, or there is one.
func (s *attentionScratch) alike(w rowsAt, i, n, dims int) int {
	groups, most := 1, callGroups(n*dims, s.ends[i])
	for groups < most && i+(groups+1)*n <= w.n && s.ends[i+(groups+1)*n-1] == s.ends[i] {
		groups++
	}
	return groups
}

// callGroups is how many groups of rows one call may take that make so many sums each,
// which are so long: a call that cannot be preempted in the middle has to be short.
func callGroups(sums, length int) int { return max(callProducts/(sums*length), 1) }

// prepare makes the softmax one of some rows.
func (s *attentionScratch) prepare(l *KVLayout, t softmaxState, w rowsAt) {
	b, rows := &s.softmax, w.first+w.n
	b.scores, b.stride, b.rows, b.blocks = s.scores, w.tokens, w.n, s.kv.blocks
	b.max, b.sums = t.max[w.first:rows], t.sums[w.first*KVTokens:rows*KVTokens]
	b.keyScales, b.valueScales = nil, nil
	if l.Precision == PrecisionInt8 {
		b.keyScales, b.valueScales = s.kv.keyScales, s.kv.valueScales
	}
}

// findSeen finds the positions of the blocks that some rows see.
func (s *attentionScratch) findSeen(w rowsAt) {
	for block := range w.tokens / blockTokens {
		at := block * blockTokens
		lo, seen := max(w.lo-at, 0), s.softmax.seen[block][:w.n]
		for i, end := range s.ends[:w.n] {
			seen[i] = ^uint64(0) >> max(blockTokens-(end-at), 0) >> lo << lo
		}
	}
}

// addValues adds the blocks' values to groups of rows, which see the same; or to one, first the
// positions that all of them see, then those that only later rows see.
func (r *AttentionRun) addValues(s *attentionScratch, t softmaxState, w rowsAt, v valuesAt) {
	l := &r.a.KV
	v.tokens, v.lo = w.tokens, w.lo
	for to := v.row + v.n; v.row < to; {
		v.n, v.hi, v.begin = to-v.row, s.ends[v.row], v.lo == w.lo
		y := t.out[(w.first+v.row)*t.dims:]
		if !s.valuesVector(l, y, v) {
			s.valuesGo(l, y, v)
		}
		for v.row < to && s.ends[v.row] == v.hi {
			v.row++
		}
		v.lo = v.hi
	}
}

// valuesAt is the values of positions lo to hi, for groups of n rows of scores.
type valuesAt struct {
	row, n, groups int
	lo, hi         int
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
			keys := s.kv.keys(l, tile)
			for d, v := range q[i*l.HeadDim : (i+1)*l.HeadDim] {
				l.widenVector(&w, keys[d*size:])
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
	for i := range v.n * v.groups {
		row, x := y[i*dims:(i+1)*dims], s.scores[(v.row+i)*v.tokens:]
		for t := v.lo; t < v.hi; t++ {
			if v.shrinks(t) {
				scaleGo(row, row, s.softmax.shrink[t/blockTokens][v.row+i])
			}
			values := s.kv.values(l, t/KVTokens)[t%KVTokens*dims*size:]
			for d := 0; d < dims; d += KVTokens {
				l.widenVector(&w, values[d*size:])
				for j, e := range w {
					row[d+j] = fma32(x[t], e, row[d+j])
				}
			}
		}
	}
}

// scoresGo makes final scores: those of positions that a row does not see count nothing.
func scoresGo(b *softmaxBlocks) {
	before := b.max
	for block := range b.blocks {
		for i, best := range before[:b.rows] {
			row, seen := b.row(block, i), b.seen[block][i]
			if b.keyScales != nil {
				scaleScores(row, b.keyScales[block*blockTokens:])
			}
			for t, v := range row {
				if seen>>t&1 == 0 {
					row[t] = float32(math.Inf(-1))
				} else if v > best {
					best = v
				}
			}
			b.best[block][i], b.shrink[block][i] = best, before[i]-best
		}
		before = b.best[block][:]
	}
}

// exponentialsGo replaces scores and adds them to the sums.
func exponentialsGo(b *softmaxBlocks) {
	for block := range b.blocks {
		for i, best := range b.best[block][:b.rows] {
			row, sums := b.row(block, i), b.sums[i*KVTokens:(i+1)*KVTokens]
			expShiftedGo(row, row, best)
			shrink := exp32(b.shrink[block][i])
			b.shrink[block][i] = shrink
			for j, v := range sums {
				v = float32(v * shrink)
				for t := j; t < blockTokens; t += KVTokens {
					v += row[t]
				}
				sums[j] = v
			}
			if b.valueScales != nil {
				scaleScores(row, b.valueScales[block*blockTokens:])
			}
		}
	}
}

func (b *softmaxBlocks) row(block, i int) []float32 {
	at := i*b.stride + block*blockTokens
	return b.scores[at : at+blockTokens]
}

func scaleScores(scores, scales []float32) {
	for t := range scores {
		scores[t] = float32(scores[t] * scales[t])
	}
}
