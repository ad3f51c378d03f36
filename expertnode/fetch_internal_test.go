package expertnode

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drover/kernel"
	"drover/moe"
)

// waiting is a server without streams whose queue the test fills.
func waiting(frames int) *Server {
	s := &Server{queue: newFrameQueue(8), done: make(chan struct{})}
	for range frames {
		s.queue.push(new(frame))
	}
	return s
}

// TestFetchYields checks that chunks go after frames, but not for ever.
func TestFetchYields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := func(s *Server, p *pace) time.Duration {
			began := time.Now()
			if err := p.wait(t.Context(), s, 1000); err != nil {
				t.Fatal(err)
			}
			return time.Since(began)
		}
		if d := wait(waiting(0), &pace{}); d != 0 {
			t.Errorf("an idle node waits %v", d)
		}
		behind := waiting(1)
		time.AfterFunc(20*time.Millisecond-1, func() { behind.queue.take(nil, 0) })
		if d := wait(behind, &pace{}); d != 20*time.Millisecond {
			t.Errorf("a frame waits almost 20 ms, the chunk after it %v", d)
		}
		if d := wait(waiting(2), &pace{}); d != fetchYield {
			t.Errorf("frames always wait, the chunk waits %v, want %v", d, fetchYield)
		}
		if d := wait(waiting(2), &pace{bytesPerSecond: -1}); d != 0 {
			t.Errorf("told not to wait for frames it waits %v", d)
		}
	})
}

const chunk = 64 << 10 // what the tests send at a time

// TestFetchBesideFrames begins beside frames at a fixed rate, measures its own, takes a tenth
// of it while frames are computed, and all of it again afterwards.
func TestFetchBesideFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := waiting(0), &pace{}
		// send sends bytes over a link of 64 MiB/s and returns how fast that was.
		send := func(bytes int64, frames uint64) (perSecond float64) {
			began := time.Now()
			for sent := int64(0); sent < bytes; sent += chunk {
				if err := p.wait(t.Context(), s, chunk); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second / 1024)
				s.frames.Add(frames)
			}
			return float64(bytes) / time.Since(began).Seconds() / (1 << 20)
		}
		check := func(what string, got, least, most float64) {
			t.Helper()
			if got < least || got > most {
				t.Errorf("%s: %.1f MiB/s of 64, want %v to %v", what, got, least, most)
			}
		}
		check("beside frames, before it knows", send(measureAfter, 1), 1.8, 2.1)
		check("measuring", send(measureBytes, 1), 40, 65)
		check("beside frames", send(16<<20, 1), 5.5, 6.7)
		time.Sleep(busyTime)
		check("alone again", send(16<<20, 0), 55, 65)
		check("beside frames, almost as long as it goes", send(measureEvery-chunk, 1), 5.5, 6.7)
		check("measuring again", send(measureBytes, 1), 45, 65)
		check("beside frames again", send(16<<20, 1), 5.5, 6.7)
	})
	p := &pace{}
	now := time.Now()
	for range 1 + measureBytes/chunk {
		p.rest(now, chunk, 0)
		now = now.Add(time.Second)
	}
	if d := p.rest(now, 1<<20, 1); d != time.Second {
		t.Errorf("on the slowest link 1 MiB takes %v, want 1 s", d)
	}
	p = &pace{}
	for range 3 { // each time a node asks for less than can be measured
		for range measureBytes / chunk / 2 {
			p.rest(now, chunk, 0)
			now = now.Add(time.Second / 1024)
		}
		now = now.Add(time.Minute)
	}
	if p.alone != 0 {
		t.Errorf("the time in which nobody asks is measured: %.0f bytes/s", p.alone)
	}
	frames := uint64(0)
	for range 4 { // each time less is moved than is worth to measure for
		for n := range measureAfter / chunk / 2 {
			if frames++; p.rest(now, chunk, frames) == 0 {
				t.Fatalf("beside frames it sends without a rest after %d bytes", n*chunk)
			}
			now = later(now, p.next)
		}
		now = now.Add(time.Minute)
	}
}

// TestFetchBucket sends at a rate: after what an unused bucket holds, n bytes a second.
func TestFetchBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := &pace{bytesPerSecond: 1000}, waiting(0)
		began := time.Now()
		for range 20 {
			if err := p.wait(t.Context(), s, 100); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(began); d != 1900*time.Millisecond {
			t.Errorf("2000 bytes at 1000 a second, 100 of them at once, took %v", d)
		}
		time.Sleep(time.Hour)
		if d := p.reserve(time.Now(), 300); d != 200*time.Millisecond {
			t.Errorf("after an hour 300 bytes take %v", d)
		}
	})
	for rate, want := range map[int64]int64{0: maxFetchChunk, -1: maxFetchChunk, 1: 4096,
		500_000: 50_000, 1 << 40: maxFetchChunk} {
		if got := (&pace{bytesPerSecond: rate}).chunkBytes(); got != want {
			t.Errorf("chunks of %d bytes at a rate of %d, want %d", got, rate, want)
		}
	}
}

// TestFetchWaitEnds ends waits with their context and with the server.
func TestFetchWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := &pace{bytesPerSecond: 1}, waiting(0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.wait(ctx, s, 1<<30); err == nil {
			t.Errorf("the stream's end: %v", err)
		}
		close(s.done)
		if err := p.wait(t.Context(), s, 1<<30); err == nil {
			t.Error("the server's end is no error")
		}
	})
}

// busy is Replicas that compute until they are told.
type busy struct {
	Replicas
	release chan struct{}
}

func (b *busy) ComputeBatch(*moe.Batch, []error) { <-b.release }

// TestIdle waits for the frame that is computed, and for those in the queue.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := waiting(0), &busy{release: make(chan struct{})}
		s.opts.Replicas = &counted{b, &s.computing}
		began := time.Now()
		if !s.Idle(t.Context()) || time.Since(began) > 50*time.Millisecond {
			t.Errorf("an idle server is idle after %v", time.Since(began))
		}
		var done atomic.Bool
		go func() {
			s.opts.Replicas.ComputeBatch(nil, nil)
			done.Store(true)
		}()
		time.AfterFunc(time.Second, func() { close(b.release) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if s.Idle(ctx) || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Error("it is idle while it computes")
		}
		if !s.Idle(t.Context()) || !done.Load() {
			t.Error("it is not idle after the computation")
		}
		s.queue.push(new(frame))
		time.AfterFunc(time.Second, func() { s.queue.take(nil, 0) })
		began = time.Now()
		if !s.Idle(t.Context()) || time.Since(began) < time.Second {
			t.Errorf("idle after %v with a frame in the queue for 1 s", time.Since(began))
		}
	})
	if _, err := NewServer(Options{Replicas: nil, Mode: kernel.BF16, MaxFetches: -1}); err == nil {
		t.Error("a negative bound is accepted")
	}
}
