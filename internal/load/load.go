// Package load asks a coordinator many questions and takes the time of every token.
//
// Run is an open loop: requests are sent when they are due, however many are still unanswered,
// and what a request waits is counted from when it was due, not from when it was sent. So a
// server that stalls cannot hide it by keeping later requests from being asked. Ask is one
// request, for loops of another kind.
package load

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	droverv1 "drover/proto/drover/v1"
)

// Options describes an open loop. Client, Questions, Arrivals and Each are required, and so is
// Requests or Duration when Arrivals does not end.
type Options struct {
	Client    droverv1.CoordinatorServiceClient
	Questions []Question // asked in turn
	// Arrivals are the times at which requests are due, from the start, ascending.
	Arrivals iter.Seq[time.Duration]
	// Requests ends the loop after so many arrivals, Duration at a time from the start. Zero
	// means no such end.
	Requests int
	Duration time.Duration
	// MaxInflight bounds the requests that are unanswered at once. One that is due beyond it is
	// dropped and counted: with too few the server is asked less than was meant. Zero means 1024.
	MaxInflight int
	// Timeout ends a request that is not answered, from when it was due. Zero means 2 minutes.
	Timeout time.Duration
	// Each is called with every record, by one goroutine.
	Each func(Record)
}

// Summary is what a loop did.
type Summary struct {
	// Arrivals counts the requests that were due, Dropped those of them that were not sent.
	Arrivals, Dropped int
	// Began is the moment from which arrivals count, Ended that of the last answer.
	Began, Ended time.Time
}

const maxInflight = 1 << 16

func (o *Options) setDefaults() {
	if o.MaxInflight == 0 {
		o.MaxInflight = 1024
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
}

func (o *Options) validate() error {
	switch {
	case len(o.Questions) == 0:
		return errors.New("no questions to ask")
	case o.MaxInflight < 0 || o.MaxInflight > maxInflight:
		return fmt.Errorf("%d requests in flight: must be 1 to %d", o.MaxInflight, maxInflight)
	case o.Timeout < 0 || o.Duration < 0 || o.Requests < 0:
		return errors.New("a negative timeout, duration or number of requests")
	}
	return nil
}

// Run sends the requests and returns when all of them have ended, or with an error if ctx ends
// before.
func Run(ctx context.Context, o Options) (Summary, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return Summary{}, err
	}
	l := &loop{o: o, done: make(chan Record, o.MaxInflight)}
	next, stop := iter.Pull(o.Arrivals)
	defer stop()
	l.sum.Began = time.Now()
	err := l.send(ctx, next)
	for l.inflight > 0 {
		l.take(<-l.done)
	}
	l.sum.Ended = time.Now()
	return l.sum, err
}

// loop is one Run under way, owned by its goroutine.
type loop struct {
	o        Options
	done     chan Record // has room for all that are in flight
	inflight int
	sum      Summary
}

// send sends every request when it is due, and takes records in between.
func (l *loop) send(ctx context.Context, next func() (time.Duration, bool)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		at, ok := next()
		if !ok || l.o.Requests > 0 && l.sum.Arrivals == l.o.Requests ||
			l.o.Duration > 0 && at >= l.o.Duration {
			return context.Cause(ctx)
		}
		due := l.sum.Began.Add(at)
		timer.Reset(time.Until(due))
		for waiting := true; waiting; {
			select {
			case <-timer.C:
				waiting = false
			case r := <-l.done:
				l.take(r)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		l.ask(ctx, due)
	}
}

// ask sends one request, unless too many are in flight.
func (l *loop) ask(ctx context.Context, due time.Time) {
	question := l.sum.Arrivals % len(l.o.Questions)
	l.sum.Arrivals++
	if l.inflight == l.o.MaxInflight {
		l.sum.Dropped++
		return
	}
	l.inflight++
	go func() {
		ctx, cancel := context.WithDeadline(ctx, due.Add(l.o.Timeout))
		defer cancel()
		r := Ask(ctx, l.o.Client, l.o.Questions[question].Request, due)
		r.Question = question
		l.done <- r
	}()
}

func (l *loop) take(r Record) {
	l.inflight--
	l.o.Each(r)
}
