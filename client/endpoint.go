package client

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

// endpoint is one coordinator of the pool. What is not fixed is guarded by Client.mu.
type endpoint struct {
	address     string
	conn        conn
	coordinator droverv1.CoordinatorServiceClient
	health      healthv1.HealthClient

	state   state
	tried   bool   // state has been found out at least once
	err     error  // of an endpoint that is dead
	active  int    // streams of this client
	restart func() // makes watch ask anew
	// answers is how long the slowest of the last health checks took, 0 if there was none.
	answers time.Duration
}

// state is what is known of a coordinator; more is better.
type state int

const (
	// dead is out of reach, or not known yet.
	dead state = iota
	// answering is there, but says that it can't answer prompts just now.
	answering
	// serving is ready.
	serving
)

// Waits between tries double from the first to the last.
const (
	firstWait = 20 * time.Millisecond
	lastWait  = time.Second
)

// next is the wait after a wait.
func next(wait time.Duration) time.Duration { return min(max(2*wait, firstWait), lastWait) }

// sleep waits for about d, so that many that wait do not wake at once.
func sleep(ctx context.Context, d time.Duration) error {
	if d > 0 {
		d = d*3/4 + rand.N(d/2)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// watch keeps an endpoint's state up to date until ctx ends.
func (c *Client) watch(ctx context.Context, e *endpoint) {
	for wait := firstWait; ; wait = next(wait) {
		began := time.Now()
		err := c.follow(ctx, e)
		if err != nil {
			c.set(e, dead, err)
		}
		if err == nil || time.Since(began) > lastWait {
			wait = firstWait
		}
		if sleep(ctx, wait) != nil {
			return
		}
	}
}

// follow takes an endpoint's state from its health service until that fails, or until
// restart is called: then there is no error. A coordinator without a health service counts
// as ready until it is suspected.
func (c *Client) follow(ctx context.Context, e *endpoint) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	e.restart = cancel
	c.mu.Unlock()
	stream, err := e.health.Watch(ctx, &healthv1.HealthCheckRequest{})
	for err == nil {
		var r *healthv1.HealthCheckResponse
		if r, err = stream.Recv(); err == nil {
			c.set(e, stateOf(r.GetStatus()), nil)
			c.measure(ctx, e)
		}
	}
	if status.Code(err) == codes.Unimplemented {
		c.set(e, serving, nil)
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// measure finds out how long an endpoint takes to answer, if that is not known: on a long way
// a late answer is no bad sign.
func (c *Client) measure(ctx context.Context, e *endpoint) {
	c.mu.Lock()
	known := e.answers > 0
	c.mu.Unlock()
	if !known {
		c.wg.Go(func() { _ = c.check(ctx, e, c.opts.StallAfter) }) // watch sees how it is
	}
}

// patience is how long an endpoint may take to say how it is, whose stream is silent for long:
// several times what it took before.
func (c *Client) patience(e *endpoint, quiet time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.answers == 0 {
		return max(quiet, c.opts.StallAfter)
	}
	return max(quiet, min(stallGaps*e.answers, c.opts.StallAfter))
}

// took takes note of how long a health check took that was answered.
func (c *Client) took(e *endpoint, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.answers = max(d, e.answers*7/8, 1)
}

func stateOf(s healthv1.HealthCheckResponse_ServingStatus) state {
	if s == healthv1.HealthCheckResponse_SERVING {
		return serving
	}
	return answering
}

// set changes an endpoint's state and wakes those who wait for that.
func (c *Client) set(e *endpoint, s state, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.state, e.tried, e.err = s, true, err
	alive := false
	for _, e := range c.endpoints {
		alive = alive || e.state != dead
	}
	switch {
	case alive:
		c.deadSince = time.Time{}
	case c.deadSince.IsZero():
		c.deadSince = time.Now()
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// check asks an endpoint whether it is well, and gives it some time to answer. One that is
// there but not ready is well enough as long as no other is better.
func (c *Client) check(ctx context.Context, e *endpoint, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	began := time.Now()
	r, err := e.health.Check(ctx, &healthv1.HealthCheckRequest{})
	if err == nil {
		c.took(e, time.Since(began))
	}
	switch {
	case status.Code(err) == codes.Unimplemented:
		return nil
	case err != nil:
		return status.Errorf(codes.Unavailable, "coordinator %s is silent: %v", e.address, err)
	case stateOf(r.GetStatus()) == answering && c.better(e):
		return status.Errorf(codes.Unavailable, "coordinator %s is silent and not ready", e.address)
	}
	return nil
}

// better says whether another endpoint is ready.
func (c *Client) better(than *endpoint) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.endpoints {
		if e != than && e.state == serving {
			return true
		}
	}
	return false
}

// pick chooses a coordinator: in the best state, not the one to avoid if there is another,
// with the fewest streams of this client. While all are dead it waits, until the pool has
// been away for as long as Patience allows.
func (c *Client) pick(ctx context.Context, avoid *endpoint) (*endpoint, error) {
	for {
		if isDone(c.done) {
			return nil, errClosed
		}
		c.mu.Lock()
		if e := c.best(avoid); e != nil {
			e.active++
			c.mu.Unlock()
			return e, nil
		}
		changed, err := c.changed, c.whyDead()
		left := time.Until(c.deadSince.Add(c.opts.Patience))
		c.mu.Unlock()
		if left <= 0 {
			return nil, err
		}
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		case <-c.done:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// best is the endpoint to choose, or nil if all are dead; c.mu is held.
func (c *Client) best(avoid *endpoint) *endpoint {
	c.turn++
	var best *endpoint
	for i := range c.endpoints {
		e := c.endpoints[(c.turn+i)%len(c.endpoints)]
		if e.state == dead {
			continue
		}
		if best == nil || e.state > best.state || e.state == best.state &&
			(best == avoid || e != avoid && e.active < best.active) {
			best = e
		}
	}
	return best
}

// whyDead is the error of a pool of which nobody answers; c.mu is held.
func (c *Client) whyDead() error {
	for _, e := range c.endpoints {
		if e.err != nil && (status.Code(e.err) == codes.Unavailable || len(c.endpoints) == 1) {
			return e.err
		}
	}
	return status.Error(codes.Unavailable, "no coordinator answers")
}

// release gives an endpoint back.
func (c *Client) release(e *endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.active--
}

// suspect has an endpoint's state found out anew: a stream to it was lost.
func (c *Client) suspect(e *endpoint) {
	c.mu.Lock()
	restart := e.restart
	c.mu.Unlock()
	restart()
}
