package kernel

// scoresAVX2 is scoresGo.
//
//go:noescape
func scoresAVX2(b *softmaxBlocks)

// exponentialsAVX2 is exponentialsGo.
//
//go:noescape
func exponentialsAVX2(b *softmaxBlocks)

// scoresAVX512 is scoresGo.
//
//go:noescape
func scoresAVX512(b *softmaxBlocks)

// exponentialsAVX512 is exponentialsGo.
//
//go:noescape
func exponentialsAVX512(b *softmaxBlocks)

// copyScales copies the scales of n tiles, which lie head bytes after their beginnings, keys'
// and values' to arrays of their own, and fetches those of the next head into the cache. n is
// not 0.
//
//go:noescape
func copyScales(keys, values *float32, tiles **byte, head, next, n int)

// fetchScales fetches the scales before n keys into the cache. n is not 0.
//
//go:noescape
func fetchScales(keys **byte, n int)

// fetchRows fetches n rows of so many lines, stride bytes apart, into the cache. n and lines are
// not 0.
//
//go:noescape
func fetchRows(rows *float32, stride, lines, n int)

// scaleRows sets y, n rows of so many lines, to those of x, stride bytes apart, times s. It fetches
// the next row while it reads one. n and lines are not 0.
//
//go:noescape
func scaleRows(y, x *float32, s float32, stride, lines, n int)

// laneBits is what scoresAVX2 reads: one bit for each of eight lanes.
//
//lint:ignore U1000 only assembly reads it
var laneBits = [8]uint32{1, 2, 4, 8, 16, 32, 64, 128}

// multiply is one call of assembly, which cannot be preempted in the middle: it is
// short, and made by a function that is not inlined, whose prologue is the preemption
// point.
//
//go:noinline
func (p *kvProduct) multiply(f func(p *kvProduct)) { f(p) }

// nearBytes is how much of the first cache keys and values may take.
const nearBytes = 32 << 10

// together is how many blocks so many rows go through together at most. Bfloat16 is bound by
// reading, and best when the values that keys' products fetch stay in the first cache; float32 when
// it is read as it lies. 8 bits are bound by arithmetic, which does better in long calls.
func (l *KVLayout) together(rows int) int {
	switch {
	case level < avx512 || l.Precision == PrecisionInt8:
		return stepBlocks
	case l.Precision == PrecisionExact && rows > maxProductRows:
		return stepBlocks
	}
	bytes := blockTokens * (l.HeadDim + l.dims()) * l.elementBytes()
	return min(max(nearBytes/bytes, 1), stepBlocks)
}

// loadVector prepares products with the tiles that have been loaded.
func (s *attentionScratch) loadVector(l *KVLayout) {
	k, one := l.kernels(stepRows)
	if k == nil {
		return
	}
	p, b := &s.keys, &s.kv
	if b.last-b.first == 1 { // it would compute four tiles, in twice the time
		k = one
	}
	p.runs = min(k.tiles, l.HeadDim)
	for i := range p.runs {
		p.steps[i] = l.HeadDim*(i+1)/p.runs - l.HeadDim*i/p.runs
	}
	first := b.first - b.first%k.tiles
	p.parts = (b.last - first + k.tiles - 1) / k.tiles * k.tiles
	for i := range p.parts { // where there is no tile, one is used for nothing
		p.w[i] = &b.tiles[min(max(first+i, b.first), b.last-1)][0]
	}
	p.next = p.w // with another offset
	s.values.runs = 0
}

// scalesVector copies the scales of a head by vector instructions, and fetches those of the
// next; false means that there are none.
func (s *attentionScratch) scalesVector(l *KVLayout) bool {
	if level < avx2 {
		return false
	}
	b := &s.kv
	at := b.first * KVTokens
	copyScales(&b.keyScales[at], &b.valueScales[at], &b.next[b.first], b.head,
		b.head+l.headBytes(), b.last-b.first)
	return true
}

// queriesVector copies a piece's queries by vector instructions, see begin; false means that there
// are none.
func (s *attentionScratch) queriesVector(r *AttentionRun, p *attentionPiece) bool {
	n := r.group() * r.a.KV.HeadDim
	if level < avx2 || n*4%lineBytes != 0 {
		return false
	}
	for h := range p.heads {
		q := r.q.Row(p.row)[(p.head+h)*n:]
		scaleRows(&s.q[h*p.n*n], &q[0], r.a.Scale, r.q.Dim*4, n*4/lineBytes, p.n)
	}
	return true
}

// keysVector is keysGo by vector instructions; false means that there are none.
func (s *attentionScratch) keysVector(l *KVLayout, q []float32, at rowsAt) bool {
	k, one := l.kernels(at.n)
	if k == nil {
		return false
	}
	p, b := &s.keys, &s.kv
	if b.last-b.first == 1 {
		k = one
	}
	p.from = b.head + l.scaleBytes()
	p.ahead = p.from + KVTokens*l.HeadDim*l.elementBytes()
	p.ldx, p.ldy = l.HeadDim*4, at.tokens*4
	first := b.first - b.first%k.tiles
	for i := 0; i < at.n; {
		n := at.share(at.n - i)
		p.groups = min((at.n-i)/n, callGroups(n*p.parts*KVTokens, l.HeadDim))
		p.nextX = n * p.ldx
		p.x, p.y = &q[i*l.HeadDim], &s.scores[i*at.tokens+first*KVTokens]
		p.multiply(k.keys[n-1])
		i += n * p.groups
	}
	return true
}

// valuesVector is valuesGo by vector instructions; false means that there are none.
func (s *attentionScratch) valuesVector(l *KVLayout, y []float32, v valuesAt) bool {
	k, tail := l.kernels(s.softmax.rows)
	if k == nil {
		return false
	}
	p, dims, size := &s.values, l.dims(), l.elementBytes()
	if p.runs == 0 || v.lo != p.lo || v.hi != p.hi {
		s.findRuns(v, dims*size)
	}
	p.from = s.keys.ahead
	p.ahead = s.kv.ahead
	p.x, p.ldx, p.ldy = &s.scores[v.row*v.tokens+v.lo], v.tokens*4, dims*4
	p.shrink = &s.softmax.shrink[0][v.row]
	p.groups, p.nextX, p.nextY, p.nextShrink = v.groups, v.n*p.ldx, v.n*p.ldy, v.n*4
	for d := 0; d < dims; d += p.parts * k.elements {
		if d+k.elements > dims {
			k = tail
		}
		p.parts = (dims - d) / k.elements
		p.y, p.at = &y[d], d*size
		p.multiply(k.values[v.n-1])
	}
	return true
}

// findRuns makes the product one with the values of positions, stride bytes apart.
func (s *attentionScratch) findRuns(v valuesAt, stride int) {
	p, b := &s.values, &s.kv
	p.stride, p.runs, p.lo, p.hi = stride, 0, v.lo, v.hi
	for t := v.lo; t < v.hi; p.runs++ {
		tile, at := t/KVTokens, t%KVTokens
		n := min(KVTokens-at, v.hi-t)
		p.w[p.runs], p.next[p.runs] = &b.tiles[tile][at*stride], b.next[tile]
		p.steps[p.runs], p.shrinkAt[p.runs] = n, -1
		if v.shrinks(t) {
			p.shrinkAt[p.runs] = t / blockTokens * stepRows * 4
		}
		t += n
	}
}

// finishScores is one call of assembly, too.
//
//go:noinline
func finishScores(b *softmaxBlocks) {
	switch {
	case level >= avx512:
		scoresAVX512(b)
	case level >= avx2:
		scoresAVX2(b)
	default:
		scoresGo(b)
	}
}

// exponentials is one call of assembly, too.
//
//go:noinline
func exponentials(b *softmaxBlocks) {
	switch {
	case level >= avx512:
		exponentialsAVX512(b)
	case level >= avx2:
		exponentialsAVX2(b)
	default:
		exponentialsGo(b)
	}
}
