package router

import (
	"math/bits"
	"time"
)

// timing estimates the 99th percentile of a link's round trips, separately for
// frames of similar amounts of work. It is a plain value: measurements in,
// estimates out.
type timing struct {
	buckets [12]estimate
}

// estimate is a running quantile: it rises by a tenth when a measurement lies
// above it and falls by a 99th of that when one lies below, so that it rests where
// one of a hundred lies above.
type estimate struct {
	p99   time.Duration
	count int
}

// minSamples is the number of measurements below which an estimate is not trusted.
const minSamples = 16

// work is the size of a frame's computation: a matrix is streamed once for each
// expert and costs as much as about 8 rows' arithmetic.
func work(experts, rows int) int { return experts + rows/8 }

// bucket numbers frames by the power of two of their work.
func bucket(work int) int {
	return min(bits.Len(uint(work)), len(timing{}.buckets)-1)
}

// add records the round trip of a frame with so much work.
func (t *timing) add(work int, d time.Duration) {
	e := &t.buckets[bucket(work)]
	switch {
	case e.count == 0:
		e.p99 = d
	case d > e.p99:
		e.p99 += max(e.p99/10, 1)
	default:
		e.p99 -= e.p99 / 990
	}
	e.count = min(e.count+1, minSamples)
}

// hedgeAfter returns how long to wait for an answer before asking another replica
// too. Where little is known it is the timeout, longer the more work there is.
func (t *timing) hedgeAfter(work int, timeout time.Duration) time.Duration {
	e := &t.buckets[bucket(work)]
	if !t.knows(work) {
		return timeout + time.Duration(work)*timeout/8
	}
	return max(minHedge, 4*e.p99)
}

// knows tells whether enough frames with so much work were measured.
func (t *timing) knows(work int) bool { return t.buckets[bucket(work)].count >= minSamples }

// small is the 99th percentile of the smallest frames that were measured, 0 if none was.
func (t *timing) small() time.Duration {
	for i := range t.buckets {
		if e := &t.buckets[i]; e.count >= minSamples {
			return e.p99
		}
	}
	return 0
}

// minHedge is the least time before a hedge.
const minHedge = 2 * time.Millisecond
