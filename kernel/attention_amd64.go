package kernel

// scaleScoresAVX2 is scaleScoresGo for so many rows, at least one.
//
//go:noescape
func scaleScoresAVX2(scores, scales *float32, rows int)

// maxScoresAVX2 is maxScoresGo for so many rows, at least one.
//
//go:noescape
func maxScoresAVX2(scores, best, diff *float32, rows int)

// sumScoresAVX2 is sumScoresGo for so many rows, at least one.
//
//go:noescape
func sumScoresAVX2(scores, sums, shrink *float32, rows int)

// productRows is the largest number of rows of a product.
func (l *KVLayout) productRows() int {
	if k, _ := l.kernels(); k != nil {
		return len(k.keys)
	}
	return maxProductRows
}

// multiply is one call of assembly, which cannot be preempted in the middle: it is
// short, and made by a function that is not inlined, whose prologue is the preemption
// point.
//
//go:noinline
func (p *kvProduct) multiply(f func(p *kvProduct)) { f(p) }

// keysVector is keysGo by vector instructions; false means that there are none.
func (s *attentionScratch) keysVector(l *KVLayout, scores, q []float32) bool {
	k, _ := l.kernels()
	if k == nil {
		return false
	}
	p, b, rows := &s.product, &s.block, len(scores)/blockTokens
	p.x, p.ldx, p.ldy = &q[0], l.HeadDim*4, blockTokens*4
	p.runs = min(k.tiles, l.HeadDim)
	for i := range p.runs {
		p.steps[i] = l.HeadDim*(i+1)/p.runs - l.HeadDim*i/p.runs
	}
	f := k.keys[rows-1]
	for tile := b.first - b.first%k.tiles; tile < b.last; tile += k.tiles {
		for i := range k.tiles { // where there is no tile, one is used for nothing
			at := min(max(tile+i, b.first), b.last-1)
			p.w[i], p.next[i] = &b.keys[at][0], &b.values[at][0]
		}
		p.y = &scores[tile*KVTokens]
		p.multiply(f)
	}
	return true
}

// valuesVector is valuesGo by vector instructions; false means that there are none.
func (s *attentionScratch) valuesVector(l *KVLayout, y, x, shrink []float32, seen [2]int) bool {
	k, tail := l.kernels()
	if k == nil {
		return false
	}
	p, b, dims, size := &s.product, &s.block, l.dims(), l.elementBytes()
	p.x, p.ldx, p.ldy = &x[seen[0]], blockTokens*4, dims*4
	p.stride, p.shrink, p.runs = dims*size, &shrink[0], 0
	for t := seen[0]; t < seen[1]; p.runs++ {
		tile, at := t/KVTokens, t%KVTokens
		n := min(KVTokens-at, seen[1]-t)
		p.w[p.runs], p.next[p.runs] = &b.values[tile][at*p.stride], b.next[tile]
		p.steps[p.runs] = n
		t += n
	}
	f, d := k.values[len(shrink)-1], 0
	for ; d+k.elements <= dims; d += k.elements {
		p.y, p.at = &y[d], d*size
		p.multiply(f)
	}
	for ; d < dims; d += KVTokens {
		p.at = d * size
		for i := range shrink {
			p.y, p.x, p.shrink = &y[i*dims+d], &x[i*blockTokens+seen[0]], &shrink[i]
			p.multiply(tail)
		}
	}
	return true
}

func scaleScores(scores []float32, scales *[blockTokens]float32) {
	if level < avx2 {
		scaleScoresGo(scores, scales)
		return
	}
	scaleScoresAVX2(&scores[0], &scales[0], len(scores)/blockTokens)
}

func maxScores(scores, best, diff []float32) {
	if level < avx2 {
		maxScoresGo(scores, best, diff)
		return
	}
	_, _ = scores[len(best)*blockTokens-1], diff[len(best)-1]
	maxScoresAVX2(&scores[0], &best[0], &diff[0], len(best))
}

func sumScores(scores, sums, shrink []float32) {
	if level < avx2 {
		sumScoresGo(scores, sums, shrink)
		return
	}
	_, _ = scores[len(shrink)*blockTokens-1], sums[len(shrink)*KVTokens-1]
	sumScoresAVX2(&scores[0], &sums[0], &shrink[0], len(shrink))
}
