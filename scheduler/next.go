package scheduler

import "slices"

// Next admits sequences and builds the next batch: a token of every sequence that decodes,
// then pieces of prompts as far as the token budget goes. It returns false when nothing
// can run. The batch must be given back with Commit or Fail before Next is called again.
func (s *Scheduler) Next() (*Batch, bool) {
	if s.inFlight {
		panic("scheduler: Next while a batch is out")
	}
	s.admit()
	s.batch.Parts = s.batch.Parts[:0]
	s.budget = s.opts.MaxBatchTokens
	s.order = append(s.order[:0], s.running...)
	for _, q := range s.order {
		if q.decodes() {
			s.plan(q, 1)
		}
	}
	for _, q := range s.order {
		if !q.decodes() && s.budget > 0 {
			s.plan(q, min(s.pending(q), s.budget, s.opts.MaxPrefillTokens))
		}
	}
	clear(s.order)
	s.inFlight = len(s.batch.Parts) > 0
	return &s.batch, s.inFlight
}

func (q *sequence) decodes() bool { return !q.Score && len(q.tokens)-q.computed == 1 }

// pending is how many of q's tokens may run next.
func (s *Scheduler) pending(q *sequence) int {
	n := len(q.tokens) - q.computed
	if q.Score {
		n = min(n, q.scored-q.computed+s.opts.MaxScoreTokens)
	}
	return n
}

// logits is how many of the next count tokens of q need logits.
func (q *sequence) logits(count int) int {
	first := len(q.tokens) - 1
	if q.Score {
		first = q.scored
	}
	return max(0, q.computed+count-max(first, q.computed))
}

// admit lets waiting sequences run, in order of arrival (S1). Held ones neither run nor
// stand in the way.
func (s *Scheduler) admit() {
	for i := 0; i < len(s.waiting); {
		q := s.waiting[i]
		if q.held {
			i++
			continue
		}
		for len(s.running) == s.opts.MaxSequences || !s.fits(q) {
			v := s.latestHeld()
			if v == nil {
				return
			}
			if v.arrival < q.arrival {
				i++ // it will wait before q
			}
			s.evict(v)
		}
		s.waiting = without(s.waiting, q)
		s.running = with(s.running, q)
		q.running = true
	}
}

// plan puts the next tokens of q into the batch, at most count. When blocks are short it
// takes fewer tokens, and when there is no block at all it preempts.
func (s *Scheduler) plan(q *sequence, count int) {
	if !q.running || q.held {
		return
	}
	s.pass(q)
	n := s.room(q, count)
	for n < 1 {
		v := s.latestHeld()
		if v == nil {
			v = s.running[len(s.running)-1]
		}
		s.evict(v)
		if v == q {
			return
		}
		n = s.room(q, count)
	}
	s.extend(q, n)
	s.budget -= n
	s.batch.Parts = append(s.batch.Parts, Part{
		ID:     q.ID,
		Start:  q.computed,
		Tokens: q.tokens[q.computed : q.computed+n],
		Tables: q.tables,
		Logits: q.logits(n),
	})
}

// latestHeld is the running sequence that arrived last among the held ones, or nil.
func (s *Scheduler) latestHeld() *sequence {
	for _, q := range slices.Backward(s.running) {
		if q.held {
			return q
		}
	}
	return nil
}

// evict ends a life of q: it gives up its blocks, leaves the batch that is being built
// and waits at its place in the order of arrival.
func (s *Scheduler) evict(q *sequence) {
	s.preempt++
	s.release(q)
	q.computed = 0
	q.running = false
	s.running = without(s.running, q)
	s.waiting = with(s.waiting, q)
	i := slices.IndexFunc(s.batch.Parts, func(p Part) bool { return p.ID == q.ID })
	if i >= 0 {
		s.budget += len(s.batch.Parts[i].Tokens)
		s.batch.Parts = slices.Delete(s.batch.Parts, i, i+1)
	}
}
