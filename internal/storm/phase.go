package storm

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"drover/internal/load"
)

// phase is one part of a storm: its load, and what came of it.
type phase struct {
	o     *Options
	quiet *phase // whose answers are right; nil for the quiet part itself

	next atomic.Int64 // how many questions were asked

	mu           sync.Mutex // guards the fields below
	answers      []*load.Record
	answered     int
	tokens       int
	failed       int
	failures     []Failure // the first ones
	differed     int
	differences  []Difference // the first ones
	itl, ttft    load.Histogram
	gaps, firsts windows
	faults       int
	began, ended time.Time
}

// maxTold is how many failures and differences are told one by one.
const maxTold = 20

func newPhase(o *Options, quiet *phase) *phase {
	w := windows{length: o.Window}
	return &phase{o: o, quiet: quiet, answers: make([]*load.Record, len(o.Questions)), gaps: w,
		firsts: w}
}

// run asks until meanwhile returns and the last answers have come.
func (p *phase) run(ctx context.Context, meanwhile func(context.Context, *phase) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var enough atomic.Bool
	var wg sync.WaitGroup
	p.began = time.Now()
	for range p.o.Clients {
		wg.Go(func() {
			for !enough.Load() && ctx.Err() == nil {
				p.ask(ctx)
			}
		})
	}
	err := meanwhile(ctx, p)
	enough.Store(true)
	if err != nil && !errors.As(err, new(notHealed)) {
		cancel(err) // nobody wants the last answers
	}
	wg.Wait()
	p.ended = time.Now()
	return err
}

// ask asks the next question and takes its record.
func (p *phase) ask(ctx context.Context) {
	i := int((p.next.Add(1) - 1) % int64(len(p.o.Questions)))
	asked, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	r := load.Ask(asked, p.o.Coordinator, p.o.Questions[i].Request, time.Now())
	r.Question = i
	if ctx.Err() != nil {
		return // it was not the coordinator that ended it
	}
	p.take(&r)
	if r.Err != nil {
		_ = sleep(ctx, 50*time.Millisecond) // a coordinator that is away is not asked in a spin
	}
}

func (p *phase) take(r *load.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answered++
	p.tokens += len(r.Tokens)
	p.compare(r)
	if len(r.Deltas) > 0 {
		p.ttft.Add(r.FirstToken())
		p.firsts.add(r.Due, r.Deltas[0].At)
	}
	r.Gaps(func(from, to time.Time) {
		p.itl.Add(to.Sub(from))
		p.gaps.add(from, to)
	})
	if r.Err != nil {
		if p.failed++; len(p.failures) < maxTold {
			p.failures = append(p.failures, Failure{Question: p.o.Questions[r.Question].ID,
				Tokens: len(r.Tokens), Error: r.Err.Error(),
				Seconds:    r.Ended.Sub(r.Due).Seconds(),
				AfterFault: p.gaps.sinceFault(r.Ended).Seconds()})
		}
	}
}

// compare wants the quiet part's answer, or its beginning from a request that failed. The quiet
// part compares with its own first ones.
func (p *phase) compare(r *load.Record) {
	var want *load.Record
	if p.quiet != nil {
		want = p.quiet.answers[r.Question] // no longer changed
	} else if want = p.answers[r.Question]; want == nil {
		if r.Err == nil {
			p.answers[r.Question] = r
		}
		return
	}
	if r.Err == nil && r.Answer == want.Answer {
		return
	}
	same := 0
	for same < min(len(r.Tokens), len(want.Tokens)) && r.Tokens[same] == want.Tokens[same] {
		same++
	}
	if r.Err != nil && same == len(r.Tokens) {
		return // right as far as it went
	}
	if p.differed++; len(p.differences) < maxTold {
		p.differences = append(p.differences, Difference{
			Question: p.o.Questions[r.Question].ID, Token: same,
			Got: beginning(r.Tokens, same), Want: beginning(want.Tokens, same),
			AfterFault: p.gaps.sinceFault(r.Ended).Seconds()})
	}
}

// beginning is some of the tokens around one.
func beginning(tokens []int32, at int) []int32 {
	return slices.Clone(tokens[max(0, min(at, len(tokens))-2):min(at+4, len(tokens))])
}

// fault notes that a fault comes now.
func (p *phase) fault(at time.Time) { p.start(at, false) }

// calm notes that there is no fault for a window's time.
func (p *phase) calm(at time.Time) { p.start(at, true) }

func (p *phase) start(at time.Time, calm bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !calm {
		p.faults++
	}
	p.gaps.start(at, calm)
	p.firsts.start(at, calm)
}

// complete says whether every question has an answer, or one has failed.
func (p *phase) complete() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed > 0 || !slices.Contains(p.answers, nil)
}

// count returns how many requests have ended.
func (p *phase) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answered
}
