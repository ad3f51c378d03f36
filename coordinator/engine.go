package coordinator

import (
	"context"
	"runtime/debug"
	"time"

	"drover/model"
	"drover/scheduler"
)

// engine is what one step needs; the goroutine of run owns it (C1).
type engine struct {
	c       *Coordinator
	model   model.Model
	cache   *model.Cache
	sched   *scheduler.Scheduler
	sampler sampler
	pace    pace

	requests map[uint64]*request
	inbox    []command // scratch: what was taken last
	batch    model.Batch
	results  []scheduler.Result
}

func newEngine(m model.Model, cache *model.Cache, s *scheduler.Scheduler, c *Coordinator) *engine {
	return &engine{c: c, model: m, cache: cache, sched: s, requests: map[uint64]*request{},
		pace: newPace(m, c.opts)}
}

// run is the engine's only goroutine.
func (c *Coordinator) run(ctx context.Context) {
	defer close(c.done)
	for ctx.Err() == nil {
		if err := c.turn(ctx); err != nil {
			c.engine.reset(err)
		}
	}
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.engine.obey()
	c.engine.finishAll(ErrClosed)
}

// turn obeys the inbox and runs one step, or waits for something to run. A panic of the
// scheduler comes back as an error.
func (c *Coordinator) turn(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, debug.Stack()}
		}
	}()
	e := c.engine
	e.obey()
	batch, ok := e.sched.Next()
	e.publish(func(*Stats) {})
	if ok {
		e.step(ctx, batch)
		return nil
	}
	idle := time.Now()
	select {
	case <-c.wake:
	case <-ctx.Done():
	}
	e.publish(func(s *Stats) { s.IdleTime += time.Since(idle) })
	return nil
}

// obey carries out the commands in the inbox.
func (e *engine) obey() {
	e.c.mu.Lock()
	e.inbox, e.c.inbox = e.c.inbox, e.inbox[:0]
	e.c.mu.Unlock()
	for _, cmd := range e.inbox {
		r := cmd.request
		switch cmd.verb {
		case verbAdd:
			e.requests[r.id] = r
			if err := e.sched.Add(r.sequence()); err != nil {
				e.finish(r, err)
			}
		case verbCancel:
			if e.requests[r.id] != nil {
				e.sched.Cancel(r.id)
				e.finish(r, context.Canceled)
			}
		case verbRelease:
			e.sched.Release(r.id)
		}
	}
	clear(e.inbox)
}

// step runs a batch and delivers what came of it.
func (e *engine) step(ctx context.Context, b *scheduler.Batch) {
	start := time.Now()
	forward, err := e.compute(ctx, b)
	if err != nil {
		e.fail(b, stepError(ctx, err))
		e.publish(func(s *Stats) {
			s.Steps++
			s.FailedSteps++
			s.StepTime += time.Since(start)
			s.ForwardTime += forward
		})
		if report := e.c.opts.Events.StepFailed; report != nil {
			report(err)
		}
		return
	}
	done := StepDone{Sequences: len(b.Parts)}
	for i := range b.Parts {
		if p := &b.Parts[i]; p.Logits == 1 && len(p.Tokens) == 1 &&
			p.Start >= e.requests[p.ID].knownCount() {
			done.DecodeTokens++
		} else {
			done.PrefillTokens += len(p.Tokens)
		}
	}
	e.commit(b)
	done.Duration = time.Since(start)
	record := e.c.recorder
	record.step.ObserveTime(done.Duration)
	record.sequences.Observe(float64(done.Sequences))
	record.tokens.Observe(float64(done.PrefillTokens + done.DecodeTokens))
	e.publish(func(s *Stats) {
		s.Steps++
		s.PrefillTokens += done.PrefillTokens
		s.DecodeTokens += done.DecodeTokens
		s.StepTime += done.Duration
		s.ForwardTime += forward
	})
	if report := e.c.opts.Events.StepDone; report != nil {
		report(done)
	}
}

// compute runs the model and puts the results into the outboxes. A panic comes back as
// an error.
func (e *engine) compute(
	ctx context.Context, b *scheduler.Batch,
) (forward time.Duration, err error) {
	start := time.Now()
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, debug.Stack()}
		}
	}()
	rows := e.load(b)
	e.batch.MicroBatches = e.pace.choose(len(e.batch.Tokens))
	err = e.model.Forward(ctx, e.cache, &e.batch)
	forward = time.Since(start)
	if err != nil {
		return forward, err
	}
	e.pace.observe(&e.batch, forward)
	if l := e.batch.Logits; rows > 0 && (l.N != rows || l.Dim != e.c.spec.Vocabulary ||
		len(l.Data) < rows*l.Dim) {
		return forward, shapeError(l.N, l.Dim, rows, e.c.spec.Vocabulary)
	}
	row := 0
	e.results = e.results[:0]
	for i := range b.Parts {
		p := &b.Parts[i]
		logits := e.batch.Logits.Data[row*e.c.spec.Vocabulary:]
		logits = logits[:p.Logits*e.c.spec.Vocabulary]
		row += p.Logits
		var result scheduler.Result
		if p.Logits > 0 {
			result = e.requests[p.ID].deliver(e, p, logits)
		}
		e.results = append(e.results, result)
	}
	return forward, nil
}

// load fills the model's batch and returns how many rows of logits it asks for.
func (e *engine) load(b *scheduler.Batch) (rows int) {
	e.batch.Tokens = e.batch.Tokens[:0]
	e.batch.Sequences = e.batch.Sequences[:0]
	for i := range b.Parts {
		p := &b.Parts[i]
		e.noteBegin(e.requests[p.ID])
		e.batch.Tokens = append(e.batch.Tokens, p.Tokens...)
		e.batch.Sequences = append(e.batch.Sequences, model.Sequence{
			Start:  p.Start,
			Count:  len(p.Tokens),
			Tables: p.Tables,
			Logits: p.Logits,
			Trace:  e.requests[p.ID].trace(len(p.Tokens)),
		})
		rows += p.Logits
	}
	return rows
}

// noteBegin measures how long a request waited for its first step.
func (e *engine) noteBegin(r *request) {
	if !r.begun && !r.canary {
		e.c.recorder.wait.ObserveTime(time.Since(r.queued))
	}
	r.begun = true
}

// commit tells the scheduler the results, and forgets or holds the requests that are done
// or not read.
func (e *engine) commit(b *scheduler.Batch) {
	e.sched.Commit(b, e.results)
	for i := range b.Parts {
		r := e.requests[b.Parts[i].ID]
		switch {
		case r.done:
			e.sched.Cancel(r.id) // a scored sequence that ended early
			e.finish(r, r.err)
		case r.hold:
			e.sched.Hold(r.id)
			r.hold = false
		}
	}
}

// fail ends the requests of a batch.
func (e *engine) fail(b *scheduler.Batch, err error) {
	ids := make([]uint64, len(b.Parts))
	for i := range b.Parts {
		ids[i] = b.Parts[i].ID
	}
	e.sched.Fail(b)
	for _, id := range ids {
		e.finish(e.requests[id], err)
	}
}

// reset begins anew after a panic of the scheduler, whose state can't be trusted any more.
func (e *engine) reset(err error) {
	e.finishAll(err)
	sched, newErr := scheduler.New(e.c.schedOpts)
	if newErr != nil {
		panic(newErr) // the same options were fine before
	}
	e.sched = sched
	e.publish(func(s *Stats) { s.FailedSteps++ })
	if report := e.c.opts.Events.StepFailed; report != nil {
		report(err)
	}
}

// finishAll forgets all requests; the scheduler is not used any more.
func (e *engine) finishAll(err error) {
	for _, r := range e.requests {
		e.finish(r, err)
	}
}

// finish forgets a request, with the error that ended it or nil. What is in its outbox
// stays there to be taken.
func (e *engine) finish(r *request, err error) {
	if e.requests[r.id] == nil {
		return
	}
	delete(e.requests, r.id)
	end := r.ending()
	r.box.put(func(o *results) {
		o.done, o.err, o.ending = true, err, end
	}, func(*results) bool { return false })
	e.c.mu.Lock()
	e.c.open--
	if r.scoring != nil {
		e.c.scores--
	}
	e.c.mu.Unlock()
	if report := e.c.opts.Events.RequestDone; report != nil {
		report(RequestDone{ID: r.name, PromptTokens: len(r.prompt), ResumedTokens: len(r.resumed),
			Tokens: end.tokens, FirstToken: end.firstToken, Total: end.total, Err: err})
	}
}

// publish changes the counters and takes over those of the scheduler.
func (e *engine) publish(change func(*Stats)) {
	now := e.sched.Stats()
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	e.c.stats.Stats = now
	e.pace.publish(&e.c.stats)
	change(&e.c.stats)
}
