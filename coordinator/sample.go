package coordinator

import (
	"cmp"
	"math"
	"slices"

	"drover/kernel"
)

// params says how one request's tokens are chosen. All values have been checked.
type params struct {
	temperature float64 // 0 is greedy
	topK        int     // 0 keeps all
	topP, minP  float64
	presence    float64
	frequency   float64
	repetition  float64
	bias        []bias
	seed        uint64
}

type bias struct {
	token int32
	value float64
}

// penalises says whether tokens of the past matter.
func (p *params) penalises() bool {
	return p.presence != 0 || p.frequency != 0 || p.repetition != 1
}

// candidate is a token and its logit.
type candidate struct {
	token int32
	logit float64
}

// better orders candidates: larger logits first, of equal ones the lower token. It is a
// total order, so every choice made with it has one answer.
func better(a, b candidate) int {
	if c := cmp.Compare(b.logit, a.logit); c != 0 {
		return c
	}
	return cmp.Compare(a.token, b.token)
}

// sampler holds the scratch memory of sampling; one goroutine uses it.
type sampler struct {
	logits []float64   // (vocabulary), after penalties and bias
	top    []candidate // best candidates
}

// choose picks the token for a position from its row of finite logits. seen counts how
// often each token was generated; tokens of the prompt stand in it with 0.
//
// The order of rules: repetition, frequency and presence penalty, bias, temperature,
// top-k, top-p of what top-k kept, min-p, and then a random number.
func (s *sampler) choose(row []float32, p *params, seen map[int32]int, position int) int32 {
	if p.temperature == 0 && !p.penalises() && len(p.bias) == 0 {
		return int32(argmax(row))
	}
	s.logits = slices.Grow(s.logits[:0], len(row))[:len(row)]
	for i, l := range row {
		s.logits[i] = float64(l)
	}
	adjust(s.logits, p, seen)
	best := argmax(s.logits)
	if p.temperature == 0 {
		return int32(best)
	}
	u := uniform(p.seed, uint64(position))
	if (p.topK == 0 || p.topK >= len(row)) && p.topP == 1 {
		return drawAll(s.logits, s.logits[best], p, u)
	}
	s.top = keep(s.logits, s.logits[best], p, s.top)
	return draw(s.top, s.logits[best], p.temperature, u)
}

// adjust applies penalties and bias. Each token is changed on its own, so the order of
// the map does not show.
func adjust(logits []float64, p *params, seen map[int32]int) {
	if p.penalises() {
		for token, n := range seen {
			l := logits[token]
			if l > 0 {
				l /= p.repetition
			} else {
				l *= p.repetition
			}
			if n > 0 {
				l -= p.frequency*float64(n) + p.presence
			}
			logits[token] = l
		}
	}
	for _, b := range p.bias {
		logits[b.token] += b.value
	}
}

// argmax is the index of the largest value, the first of equal ones.
func argmax[F float32 | float64](v []F) int {
	best := 0
	for i := 0; i < len(v); {
		i += kernel.FirstAbove(v[i:], v[best])
		if i < len(v) {
			best = i
		}
	}
	return best
}

// notFinite is the index of the first value that is NaN or infinite, or -1.
func notFinite(row []float32) int {
	if kernel.Finite(row) {
		return -1
	}
	return slices.IndexFunc(row, func(x float32) bool { return x-x != 0 })
}

// weight is a token's probability relative to that of the best one.
func weight(logit, best, temperature float64) float64 {
	return kernel.Exp64((logit - best) / temperature)
}

// totalWeight is the sum of the tokens' weights, in their order.
func totalWeight(logits []float64, best, temperature float64) float64 {
	var weights [512]float64
	total := 0.0
	for len(logits) > 0 {
		n := min(len(logits), len(weights))
		kernel.Exponentials(weights[:n], logits[:n], best, temperature)
		for _, w := range weights[:n] {
			total += w
		}
		logits = logits[n:]
	}
	return total
}

// drawAll draws from the whole vocabulary, in the order of tokens; min-p is obeyed. It
// replaces the logits by weights.
func drawAll(logits []float64, best float64, p *params, u float64) int32 {
	kernel.Exponentials(logits, logits, best, p.temperature)
	total := 0.0
	for i, w := range logits {
		if w < p.minP {
			w, logits[i] = 0, 0
		}
		total += w
	}
	sum, last := 0.0, 0
	for i, w := range logits {
		if w == 0 {
			continue
		}
		sum += w
		last = i
		if sum > u*total {
			break
		}
	}
	return int32(last)
}

// keep lists the candidates that pass top-k, top-p and min-p, best first.
func keep(logits []float64, best float64, p *params, top []candidate) []candidate {
	if p.topK > 0 && p.topK < len(logits) {
		top = bestOf(logits, p.topK, top)
		total := 0.0
		for _, c := range top {
			total += weight(c.logit, best, p.temperature)
		}
		n, _ := nucleus(top, best, p, p.topP*total)
		return top[:n]
	}
	total := totalWeight(logits, best, p.temperature)
	for _, n := range [...]int{64, 1024} { // few candidates nearly always suffice
		top = bestOf(logits, n, top)
		if m, enough := nucleus(top, best, p, p.topP*total); enough {
			return top[:m]
		}
	}
	top = bestOf(logits, len(logits), top)
	n, _ := nucleus(top, best, p, p.topP*total)
	return top[:n]
}

// nucleus is the number of leading candidates that pass min-p and of which top-p needs no
// more than reach want; enough is false when more candidates could pass.
func nucleus(top []candidate, best float64, p *params, want float64) (n int, enough bool) {
	sum := 0.0
	for i, c := range top {
		w := weight(c.logit, best, p.temperature)
		if w < p.minP {
			return i, true
		}
		if sum += w; sum >= want && p.topP < 1 { // of all, rounding must not lose the last
			return i + 1, true
		}
	}
	return len(top), false
}

// draw picks from candidates, best first.
func draw(top []candidate, best, temperature, u float64) int32 {
	total := 0.0
	for _, c := range top {
		total += weight(c.logit, best, temperature)
	}
	sum, last := 0.0, top[0].token
	for _, c := range top {
		w := weight(c.logit, best, temperature)
		if w == 0 {
			break
		}
		sum += w
		last = c.token
		if sum > u*total {
			break
		}
	}
	return last
}

// bestOf fills top with the n best candidates, best first.
func bestOf[F float32 | float64](logits []F, n int, top []candidate) []candidate {
	top = top[:0] // a heap, the worst on top
	for i, l := range logits[:min(n, len(logits))] {
		top = append(top, candidate{token: int32(i), logit: float64(l)})
		if n < len(logits) { // else all are only sorted
			siftUp(top)
		}
	}
	for i := len(top); n > 0 && i < len(logits); i++ {
		// Of equal logits the lower token is better, and in the heap.
		if i += kernel.FirstAbove(logits[i:], F(top[0].logit)); i < len(logits) {
			top[0] = candidate{token: int32(i), logit: float64(logits[i])}
			siftDown(top)
		}
	}
	slices.SortFunc(top, better)
	return top
}

func siftUp(h []candidate) {
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if better(h[i], h[up]) < 0 {
			return
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func siftDown(h []candidate) {
	for i := 0; ; {
		worst := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h); c++ {
			if better(h[c], h[worst]) > 0 {
				worst = c
			}
		}
		if worst == i {
			return
		}
		h[i], h[worst] = h[worst], h[i]
		i = worst
	}
}

// logSum is the logarithm of the sum of exponentials of a row: what a logit must lose to
// become a log-probability.
func logSum(row []float32) float64 {
	m := float64(row[argmax(row)])
	var logits [512]float64
	sum := 0.0
	for len(row) > 0 {
		part := logits[:min(len(row), len(logits))]
		for i := range part {
			part[i] = float64(row[i])
		}
		sum += totalWeight(part, m, 1)
		row = row[len(part):]
	}
	return m + math.Log(sum)
}
