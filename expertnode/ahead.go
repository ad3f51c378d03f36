package expertnode

import "time"

// aheadComputer is a computer whose batch may be under way.
type aheadComputer struct {
	computer
	begun  Begun
	detail string // of a panic when it began
}

// startAhead starts the two goroutines that take the place of computeFrames: one takes
// frames from the queue and begins to compute them, the other one waits and answers. So
// frames are received, copied to the device, computed, copied back and sent at a time, each
// at another stage, in order.
func (s *Server) startAhead() {
	n := s.opts.Ahead.Ahead()
	free, under := make(chan *aheadComputer, n), make(chan *aheadComputer, n)
	for range n {
		free <- &aheadComputer{computer: computer{server: s,
			maxRows: s.opts.MaxFrameBytes / (s.spec.Hidden * s.dtype.Size())}}
	}
	s.running.Go(func() {
		defer close(under)
		s.beginFrames(free, under)
	})
	s.running.Go(func() { s.endFrames(under, free) })
}

// beginFrames begins computations until Close.
func (s *Server) beginFrames(free <-chan *aheadComputer, under chan<- *aheadComputer) {
	var c *aheadComputer
	for {
		if c == nil {
			select {
			case c = <-free:
			case <-s.done:
				return
			}
		}
		select {
		case <-s.done:
			return
		default:
		}
		if c.frames = s.queue.take(c.frames[:0], c.maxRows); len(c.frames) == 0 {
			select {
			case <-s.queue.wake:
			case <-s.done:
				return
			}
			continue
		}
		if c.open() {
			s.computing.Add(1)
			c.gather(c.shares)
			c.begin()
			under <- c
			c = nil
		}
	}
}

// begin begins to compute c.batch.
func (c *aheadComputer) begin() {
	c.begun, c.detail = Begun{}, ""
	defer c.recovered(&c.detail)
	c.begun = c.server.opts.Ahead.Begin(&c.batch, c.errs)
}

// end ends it. If it panicked, nothing is there.
func (c *aheadComputer) end() (detail string) {
	if c.detail != "" {
		return c.detail
	}
	defer c.recovered(&detail)
	c.begun.Wait()
	c.server.opts.Ahead.End(&c.batch, c.errs, c.begun)
	return ""
}

// endFrames answers the frames of computations, in the order in which they began, until there
// are no more. What a computation took begins when the one before had ended.
func (s *Server) endFrames(under <-chan *aheadComputer, free chan<- *aheadComputer) {
	var last time.Time
	for c := range under {
		c.fill(c.end())
		s.computing.Add(-1)
		now := time.Now()
		if c.started.Before(last) {
			c.started = last
		}
		c.answer(now, now.Sub(c.started))
		last = now
		clear(c.shares)
		free <- c
	}
}
