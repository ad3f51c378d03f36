package kernel

import "math"

// maxProductRows bounds the rows of a product with a block's keys or values.
const maxProductRows = 6

// attentionScratch is one thread's memory.
type attentionScratch struct {
	q       []float32 // (rows, HeadDim): a piece's queries times Scale
	states  []float32 // of a piece over all spans: the total, and a span's
	block   kvBlock
	product kvProduct
	scores  [maxProductRows * blockTokens]float32
	// diff and shrink are by how much rows' largest scores rose, and what that makes
	// of their sums; they are whole vectors.
	diff, shrink [16]float32
}

// kvBlock is the keys and values of one head in a block: of tiles first to last, without
// last; what is kept of the others is of no use.
type kvBlock struct {
	first, last            int
	keys, values           [blockTokens / KVTokens][]byte
	keyScales, valueScales [blockTokens]float32 // in 8 bits
	next                   [blockTokens / KVTokens]*byte
}

// kvProduct is a product of some rows with keys, or values, of a block: what one call of
// assembly reads. A step is an element of the rows: of a query for keys, a position for
// values.
type kvProduct struct {
	y, x     *float32
	ldy, ldx int // bytes between rows
	// w holds the keys of each tile; or runs of neighbouring positions' values.
	w [blockTokens / KVTokens]*byte
	// steps is the number of positions in each run; or of elements, which are in as
	// many runs. It is not 0. During a run some of the memory at next is fetched into
	// the cache.
	steps [blockTokens / KVTokens]int
	next  [blockTokens / KVTokens]*byte
	runs  int
	// stride is the number of bytes from one position's values to the next; those that
	// are used begin at at.
	stride, at int
	// shrink multiplies each row of y before values are added.
	shrink *float32
}

// begin copies a piece's queries, times Scale.
func (s *attentionScratch) begin(r *AttentionRun, p *attentionPiece) {
	n := r.group() * r.a.KV.HeadDim
	s.q = grow(s.q, p.n*n)
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
	group, rows, most := r.group(), len(t.max), r.a.KV.productRows()
	for at := begin - begin%blockTokens; at < end; at += blockTokens {
		r.load(s, p, at, [2]int{max(begin-at, 0), min(end-at, blockTokens)})
		lo := max(begin-at, 0)
		for first := max(at-p.pos, 0) * group; first < rows; {
			left := rows - first
			calls := (left + most - 1) / most
			n := (left + calls - 1) / calls // alike, so that none is slow
			if n == left {
				r.lookAhead(s, p, at+blockTokens, end)
			}
			r.step(s, t, rowsAt{first, n, lo, p.pos - at + 1, group})
			first += n
		}
	}
}

// rowsAt is n neighbouring rows of a piece at a block, of which each sees positions from
// lo on and, if it belongs to the piece's query i, to without last+i.
type rowsAt struct {
	first, n        int
	lo, last, group int
}

// end is the first position of the block that row i, from 0, does not see.
func (w rowsAt) end(i int) int { return min(w.last+(w.first+i)/w.group, blockTokens) }

// load finds a block's tiles: those of positions seen[0] to seen[1].
func (r *AttentionRun) load(s *attentionScratch, p *attentionPiece, at int, seen [2]int) {
	l, b, table := &r.a.KV, &s.block, r.seqs[p.seq].Table
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

// lookAhead makes the last rows' products fetch the keys of the block at a position, if
// that comes before end; those of others fetch their own block's keys for the next rows.
func (r *AttentionRun) lookAhead(s *attentionScratch, p *attentionPiece, at, end int) {
	table := r.seqs[p.seq].Table
	for i := range s.block.next {
		if at+i*KVTokens < end {
			tile := r.tiles.Tile(table, at/KVTokens+i)
			s.block.next[i] = &tile[p.head*r.a.KV.headBytes()]
		}
	}
}

// step adds a block to some rows.
func (r *AttentionRun) step(s *attentionScratch, t softmaxState, w rowsAt) {
	l := &r.a.KV
	scores, best := s.scores[:w.n*blockTokens], t.max[w.first:w.first+w.n]
	q := s.q[w.first*l.HeadDim : (w.first+w.n)*l.HeadDim]
	if !s.keysVector(l, scores, q) {
		s.keysGo(l, scores, q)
	}
	if l.Precision == PrecisionInt8 {
		scaleScores(scores, &s.block.keyScales)
	}
	for i := range w.n {
		row := scores[i*blockTokens : (i+1)*blockTokens]
		hide(row[:w.lo])
		hide(row[w.end(i):])
	}
	maxScores(scores, best, s.diff[:w.n])
	expShifted(s.shrink[:], s.diff[:], 0)
	for i, m := range best {
		row := scores[i*blockTokens : (i+1)*blockTokens]
		expShifted(row, row, m)
	}
	sumScores(scores, t.sums[w.first*KVTokens:(w.first+w.n)*KVTokens], s.shrink[:w.n])
	if l.Precision == PrecisionInt8 {
		scaleScores(scores, &s.block.valueScales)
	}
	r.addValues(s, t, w)
}

// hide makes positions that a query does not see count nothing.
func hide(scores []float32) {
	for i := range scores {
		scores[i] = float32(math.Inf(-1))
	}
}

// addValues adds a block's values to some rows: first the positions that all of them
// see, then those that only later rows see.
func (r *AttentionRun) addValues(s *attentionScratch, t softmaxState, w rowsAt) {
	l := &r.a.KV
	lo := w.lo
	for i := 0; i < w.n; {
		hi := w.end(i)
		x := s.scores[i*blockTokens : w.n*blockTokens]
		y := t.out[(w.first+i)*t.dims : (w.first+w.n)*t.dims]
		shrink := s.shrink[i:w.n]
		if !s.valuesVector(l, y, x, shrink, [2]int{lo, hi}) {
			s.valuesGo(l, y, x, shrink, [2]int{lo, hi})
		}
		for i < w.n && w.end(i) == hi {
			i++
		}
		for j := range shrink {
			shrink[j] = 1
		}
		lo = hi
	}
}

// keysGo sets scores, (rows, blockTokens), to rows q times the block's keys.
func (s *attentionScratch) keysGo(l *KVLayout, scores, q []float32) {
	var w [KVTokens]float32
	size := KVTokens * l.elementBytes()
	for i := range len(scores) / blockTokens {
		for tile := s.block.first; tile < s.block.last; tile++ {
			var sums [KVTokens]float32
			for d, v := range q[i*l.HeadDim : (i+1)*l.HeadDim] {
				l.widenVector(&w, s.block.keys[tile][d*size:])
				for j := range sums {
					sums[j] = fma32(v, w[j], sums[j])
				}
			}
			copy(scores[i*blockTokens+tile*KVTokens:], sums[:])
		}
	}
}

// valuesGo adds the values of positions seen[0] to seen[1] of a block, times x, (rows,
// blockTokens), to y * shrink, (rows, dims).
func (s *attentionScratch) valuesGo(l *KVLayout, y, x, shrink []float32, seen [2]int) {
	var w [KVTokens]float32
	dims, size := l.dims(), l.elementBytes()
	for i, f := range shrink {
		row := y[i*dims : (i+1)*dims]
		scaleGo(row, row, f)
		for t := seen[0]; t < seen[1]; t++ {
			values := s.block.values[t/KVTokens][t%KVTokens*dims*size:]
			for d := 0; d < dims; d += KVTokens {
				l.widenVector(&w, values[d*size:])
				for j, v := range w {
					row[d+j] = fma32(x[i*blockTokens+t], v, row[d+j])
				}
			}
		}
	}
}

// scaleScoresGo multiplies each row of scores by the positions' scales.
func scaleScoresGo(scores []float32, scales *[blockTokens]float32) {
	for i := range scores {
		scores[i] = float32(scores[i] * scales[i%blockTokens])
	}
}

// maxScoresGo raises best, the largest score of each row, and sets diff to by how much,
// negative.
func maxScoresGo(scores, best, diff []float32) {
	for i, old := range best {
		largest := old
		for _, v := range scores[i*blockTokens : (i+1)*blockTokens] {
			if v > largest {
				largest = v
			}
		}
		best[i], diff[i] = largest, old-largest
	}
}

// sumScoresGo adds scores to 16 sums of each row, which shrink first.
func sumScoresGo(scores, sums, shrink []float32) {
	for i, f := range shrink {
		row := sums[i*KVTokens : (i+1)*KVTokens]
		for j, v := range row {
			v = float32(v * f)
			for t := j; t < blockTokens; t += KVTokens {
				v += scores[i*blockTokens+t]
			}
			row[j] = v
		}
	}
}
