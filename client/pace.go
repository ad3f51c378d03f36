package client

import (
	"sync"
	"time"
)

// pace is how long the gaps between tokens are that a Client's streams saw lately: what is
// usual says when silence is a bad sign, on this model and these machines.
type pace struct {
	mu    sync.Mutex // guards the fields below
	p99   time.Duration
	count int // of gaps, up to paceFrom
}

const (
	// paceFrom is the number of gaps below which the estimate is not trusted.
	paceFrom = 16
	// stallGaps is how many times as long as the longest of a hundred gaps a stream is silent
	// before its coordinator is asked, leastStall the least time: processes are not always
	// scheduled at once, and being asked is work.
	stallGaps  = 8
	leastStall = 100 * time.Millisecond
)

// add takes note of a gap. The estimate rises by a tenth when a gap lies above it and falls by
// a 99th of that when one lies below, so that it rests where one of a hundred lies above.
func (p *pace) add(gap time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.count == 0:
		p.p99 = gap
	case gap > p.p99:
		p.p99 += max(p.p99/10, 1)
	default:
		p.p99 -= p.p99 / 990
	}
	p.count = min(p.count+1, paceFrom)
}

// stall is the silence between two tokens after which a coordinator is asked: atMost while
// little is known.
func (p *pace) stall(atMost time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count < paceFrom {
		return atMost
	}
	return min(max(stallGaps*p.p99, leastStall), atMost)
}
