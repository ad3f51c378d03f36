package role

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

const (
	// proofLasts is how old the last proof of a coordinator that says it is ready may be.
	// From one proof to the end of the next try is canaryEvery + canaryTimeout, which must
	// be less.
	proofLasts    = 5 * time.Second
	canaryEvery   = 2 * time.Second
	canaryTimeout = 2500 * time.Millisecond
	// readyPoll is how often WaitReady tries.
	readyPoll = 5 * time.Millisecond
	// linksEvery is how often keep looks whether every expert is within reach.
	linksEvery = 250 * time.Millisecond
)

// proof is what is known of a coordinator's readiness.
type proof struct {
	at  time.Time // when a token had passed through every layer; zero: never
	err error     // why the last try failed, nil if it did not
}

// unready says why the coordinator is not ready now, nil if it is.
func (p proof) unready(now time.Time) error {
	switch {
	case p.err != nil:
		return p.err
	case p.at.IsZero():
		return errors.New("no token has passed through every layer yet")
	case now.Sub(p.at) >= proofLasts:
		return fmt.Errorf("no token has passed through every layer for %v",
			now.Sub(p.at).Round(time.Second))
	}
	return nil
}

// prover proves again and again that a coordinator is ready.
type prover struct {
	try func(context.Context) error
	// say is called when the answer changes: nil is ready.
	say func(unready error)
	// links says whether an expert is out of reach, at once; nil is never.
	links func() error

	said error // nil while ready was said last; wait, then keep, owns it

	mu   sync.Mutex // guards the field below
	last proof
}

func newProver(try func(context.Context) error, say func(error)) *prover {
	return &prover{try: try, say: say, said: proof{}.unready(time.Time{})}
}

// reason says why the coordinator is not ready, nil if it is.
func (p *prover) reason() error {
	p.mu.Lock()
	err := p.last.unready(time.Now())
	p.mu.Unlock()
	if err == nil && p.links != nil {
		err = p.links()
	}
	return err
}

// proven is when a token had passed through every layer last, zero if none has.
func (p *prover) proven() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last.at
}

// attempt tries once.
func (p *prover) attempt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, canaryTimeout)
	defer cancel()
	return p.try(ctx)
}

// took takes what came of a try.
func (p *prover) took(err error) {
	p.mu.Lock()
	if p.last.err = err; err == nil {
		p.last.at = time.Now()
	}
	p.mu.Unlock()
	p.look()
}

// look says what has changed. Only the goroutine of wait or keep calls it.
func (p *prover) look() {
	now := p.reason()
	if (now == nil) != (p.said == nil) {
		p.said = now
		p.say(now)
	}
}

// wait tries until the coordinator is ready, and calls waiting now and then meanwhile.
func (p *prover) wait(ctx context.Context, waiting func(since time.Duration, why error)) error {
	began, told := time.Now(), time.Now()
	for {
		err := p.attempt(ctx)
		p.took(err)
		if err == nil {
			return nil
		}
		if time.Since(told) > logEvery {
			told = time.Now()
			waiting(told.Sub(began).Round(time.Second), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the experts: %w (last: %v)", context.Cause(ctx), err)
		case <-time.After(readyPoll):
		}
	}
}

// keep tries until ctx ends. A try that hangs does not keep an old proof alive.
func (p *prover) keep(ctx context.Context) {
	next, old := time.NewTimer(canaryEvery), time.NewTimer(proofLasts)
	defer next.Stop()
	defer old.Stop()
	looks := time.NewTicker(linksEvery) // the canary visits a few experts only
	defer looks.Stop()
	tried, trying := make(chan error), false
	for {
		select {
		case <-next.C:
			trying = true
			go func() { tried <- p.attempt(ctx) }()
		case err := <-tried:
			trying = false
			if ctx.Err() == nil { // else it failed for that
				p.took(err)
			}
			next.Reset(canaryEvery)
			old.Reset(proofLasts)
		case <-old.C:
			p.look()
		case <-looks.C:
			p.look()
		case <-ctx.Done():
			if trying {
				<-tried
			}
			return
		}
	}
}

// WaitReady waits until the coordinator is ready, then keeps its health service
// truthful until Close.
func (c *Coordinator) WaitReady(ctx context.Context) error {
	err := c.prover.wait(ctx, func(since time.Duration, why error) {
		c.log.Info("waiting for the experts", "since", since, "reason", why)
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.prover.keep(ctx)
	}()
	c.undo.push(func() {
		cancel()
		<-done
	})
	return nil
}

// tryReady proves that the coordinator is ready. A last resort is not to be the first:
// before the first proof every expert must have a connected replica.
func (c *Coordinator) tryReady(ctx context.Context) error {
	if !c.begun.Load() {
		if err := c.connected(); err != nil {
			return err
		}
	}
	err := c.Ready(ctx)
	if err == nil {
		c.begun.Store(true)
	}
	return err
}

// sayReady updates the health service.
func (c *Coordinator) sayReady(unready error) {
	if unready != nil {
		c.live.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
		c.log.Warn("not ready", "reason", unready)
		return
	}
	c.live.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
	c.log.Info("a token has passed through every layer")
}

// holds is what a node holds: the revisions of the committed placement, and of the last
// one of which it has loaded all that is its own. The Member's goroutine writes it.
type holds struct {
	committed, loaded atomic.Uint64
}

// ready tells whether the node has all that the committed placement gives it. A node that
// has seen no placement is not ready.
func (h *holds) ready() bool {
	committed := h.committed.Load()
	return committed > 0 && h.loaded.Load() >= committed
}

// unready says why the node is not ready, nil if it is.
func (n *ExpertNode) unready() error {
	if n.closing.Load() {
		return errors.New("the node ends")
	}
	if n.gone.Load() {
		return errors.New("the node's device is lost")
	}
	if !n.holds.ready() {
		return errors.New("the node has not loaded all that a placement in force gives it")
	}
	return nil
}

// sayReady changes what the node holds and tells the health service.
func (n *ExpertNode) sayReady(change func(*holds)) {
	change(&n.holds)
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if n.holds.ready() && !n.gone.Load() {
		status = healthv1.HealthCheckResponse_SERVING
	}
	n.live.SetServingStatus("", status)
}
