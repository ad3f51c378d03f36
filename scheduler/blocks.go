package scheduler

import "math"

// pool is the blocks of one KV group.
type pool struct {
	chunk       int
	blocks      int
	blockTokens int
	free        []int32 // taken from the end
}

func newPool(g Group, blockTokens int) pool {
	p := pool{chunk: g.Chunk, blocks: g.Blocks, blockTokens: blockTokens}
	p.free = make([]int32, g.Blocks)
	for i := range p.free {
		p.free[i] = int32(g.Blocks - 1 - i)
	}
	return p
}

// peak is the most blocks that a sequence of this length holds at a time, if it goes
// forward one token a step.
func (p *pool) peak(tokens int) int {
	all := (tokens-1)/p.blockTokens + 1
	if p.chunk == 0 {
		return all
	}
	window := (min(p.chunk, tokens)-1)/p.blockTokens + 1
	if p.chunk%p.blockTokens != 0 && p.blockTokens%p.chunk != 0 {
		window++ // a chunk may begin inside a block and end in another
	}
	return min(all, window)
}

// longest is the length of the longest sequence that fits alone.
func (p *pool) longest() int {
	if p.chunk > 0 && p.peak(math.MaxInt) <= p.blocks {
		return math.MaxInt
	}
	return p.blocks * p.blockTokens
}

// LongestTokens is the largest Limit that Add accepts.
func (s *Scheduler) LongestTokens() int {
	n := math.MaxInt
	for i := range s.pools {
		n = min(n, s.pools[i].longest())
	}
	return n
}

// room is how many of q's next count tokens the free blocks can hold.
func (s *Scheduler) room(q *sequence, count int) int {
	for g := range s.pools {
		p := &s.pools[g]
		blocks := len(q.tables[g]) + len(p.free)
		count = min(count, blocks*p.blockTokens-q.computed)
	}
	return count
}

// pass frees the blocks before q's current chunk.
func (s *Scheduler) pass(q *sequence) {
	for g := range s.pools {
		p := &s.pools[g]
		if p.chunk == 0 {
			continue
		}
		first := (q.computed - q.computed%p.chunk) / p.blockTokens
		table := q.tables[g]
		for i := q.passed[g]; i < min(first, len(table)); i++ {
			p.free = append(p.free, table[i])
			table[i] = -1
			q.passed[g] = i + 1
		}
	}
}

// extend gives q the blocks for its next count tokens; room has said that there are enough.
func (s *Scheduler) extend(q *sequence, count int) {
	for g := range s.pools {
		p := &s.pools[g]
		for len(q.tables[g])*p.blockTokens < q.computed+count {
			last := len(p.free) - 1
			q.tables[g] = append(q.tables[g], p.free[last])
			p.free = p.free[:last]
		}
	}
}

// release frees all of q's blocks.
func (s *Scheduler) release(q *sequence) {
	for g := range s.pools {
		s.pools[g].free = append(s.pools[g].free, q.tables[g][q.passed[g]:]...)
		q.tables[g] = q.tables[g][:0]
		q.passed[g] = 0
	}
}

// fits says whether q can start: beside what the running sequences still need for the
// tokens they have, there are blocks for all of q's tokens and one more.
func (s *Scheduler) fits(q *sequence) bool {
	for g := range s.pools {
		p := &s.pools[g]
		need := p.peak(min(len(q.tokens)+1, q.Limit))
		for _, r := range s.running {
			have := len(r.tables[g]) - r.passed[g]
			need += max(0, p.peak(min(len(r.tokens)+1, r.Limit))-have)
		}
		if need > len(p.free) {
			return false
		}
	}
	return true
}
