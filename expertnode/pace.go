package expertnode

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pace decides when Fetch may send the next chunk. With a rate it is a token bucket. It
// also keeps Fetch out of the way of frames: while some wait nothing is sent, and as long
// as some are computed Fetch takes a tenth of the rate that it reaches alone, in small
// pieces, so that neither the link nor the processor is taken from them. Alone it is as
// fast as the link and the other node are, and learns how fast that is; beside frames it
// begins with a rate that any link has and measures only when much is to be sent. All waits
// have a bound: a node that always computes must still give its replicas away.
type pace struct {
	bytesPerSecond int64 // fixed; 0: as frames leave room for, -1: do not look at them

	mu   sync.Mutex // guards the fields below
	free time.Time  // when the bucket has room again

	frames    uint64    // computed until the last look
	busyUntil time.Time // that frames are computed is believed until then
	next      time.Time // when beside frames the next chunk may go

	// alone is the rate in bytes a second that was reached alone, 0 if that is not known.
	// measured bytes were sent since began to find it, paced bytes beside frames since it was
	// found.
	alone           float64
	measured, paced int64
	began           time.Time // of what was measured
	last            time.Time // that somebody wanted to send
}

const (
	// fetchYield is the longest time that a chunk waits for frames; fetchLook how often
	// it looks whether some still wait.
	fetchYield = 50 * time.Millisecond
	fetchLook  = time.Millisecond
	// busyTime is how long after the last frame others are expected.
	busyTime = 20 * time.Millisecond
	// besides is which part of its own rate Fetch takes beside frames; slowest is the rate
	// that it takes at least, whatever was measured. A quarter made the 99th percentile of the
	// time between tokens 1.26 times as long where all nodes share two processors.
	besides = 0.1
	slowest = 1 << 20
	// unmeasured is the rate beside frames until its own is known, which is measured beside
	// them after measureAfter bytes without a pause: what a cluster of small experts moves at
	// once is less. With twice as much, tokens came a quarter later while five nodes on two
	// processors sent at once.
	unmeasured   = 2 << 20
	measureAfter = 24 << 20
	// measureBytes are sent without a rest to measure the rate: several times what may be on
	// its way at once, or it would be that of memory. measureEvery is after how many bytes
	// beside frames it is measured again: rarely, since it delays them.
	measureBytes = 4 << 20
	measureEvery = 256 << 20
	// measurePause is a pause after which measuring begins anew: nobody asked for more.
	measurePause = 2 * time.Second
	// bucketTime is how far a token bucket that was not used fills up.
	bucketTime = 100 * time.Millisecond
)

// chunkBytes is the size of chunks: at a low rate they are smaller, so that each takes
// about a tenth of a second.
func (p *pace) chunkBytes() int64 {
	if p.bytesPerSecond <= 0 {
		return maxFetchChunk
	}
	return min(max(p.bytesPerSecond/10, 4<<10), maxFetchChunk)
}

// wait returns when n bytes may be sent.
func (p *pace) wait(ctx context.Context, s *Server, n int64) error {
	if p.bytesPerSecond >= 0 {
		if err := s.pause(ctx, p.rest(time.Now(), n, s.frames.Load())); err != nil {
			return err
		}
		waited := time.Duration(0)
		for ; s.queue.waiting() > 0 && waited < fetchYield; waited += fetchLook {
			if err := s.pause(ctx, fetchLook); err != nil {
				return err
			}
		}
	}
	return s.pause(ctx, p.reserve(time.Now(), n))
}

// rest is how long to wait before the next n bytes, when so many frames have been computed.
func (p *pace) rest(now time.Time, n int64, frames uint64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if frames != p.frames {
		p.frames, p.busyUntil = frames, now.Add(busyTime)
	}
	rate, enough := besides*p.alone, int64(measureEvery)
	paused := now.Sub(p.last) > measurePause
	p.last = now
	if p.alone == 0 {
		rate, enough = unmeasured, measureAfter
		if paused {
			p.paced = 0
		}
	}
	if now.Before(p.busyUntil) && p.paced < enough {
		p.paced += n
		p.measured = 0
		p.next = later(p.next, now).Add(time.Duration(float64(n) / rate * float64(time.Second)))
		return p.next.Sub(now)
	}
	if p.measured == 0 || paused {
		p.began, p.measured = now, 0
	} else if p.measured >= measureBytes {
		p.alone = max(float64(p.measured)/max(now.Sub(p.began).Seconds(), 1e-6), slowest/besides)
		p.paced, p.measured, p.began = 0, 0, now
	}
	p.measured += n
	return 0
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// reserve takes n bytes out of the bucket and returns how long to wait for them.
func (p *pace) reserve(now time.Time, n int64) time.Duration {
	if p.bytesPerSecond <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = later(p.free, now.Add(-bucketTime))
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.bytesPerSecond) * float64(time.Second)))
	return p.free.Sub(now)
}

// pause waits, unless the stream or the server ends.
func (s *Server) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-s.done:
		return status.Error(codes.Unavailable, "the expert node is stopping")
	}
}
