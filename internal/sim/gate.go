package sim

import (
	"context"
	"sync"
	"time"
)

// gate is whether a process runs, stands still or has ended.
type gate struct {
	mu      sync.Mutex // guards the fields below
	paused  int
	dead    bool
	changed chan struct{} // closed and replaced at each change
}

func newGate() *gate { return &gate{changed: make(chan struct{})} }

func (g *gate) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *gate) pause()  { g.change(func() { g.paused++ }) }
func (g *gate) resume() { g.change(func() { g.paused-- }) }
func (g *gate) kill()   { g.change(func() { g.dead = true }) }

func (g *gate) alive() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.dead
}

// pass waits while the process stands still, and tells whether it goes on.
func (g *gate) pass() bool {
	for {
		g.mu.Lock()
		paused, dead, changed := g.paused > 0, g.dead, g.changed
		g.mu.Unlock()
		if dead || !paused {
			return !dead
		}
		<-changed
	}
}

// sleep waits, and returns false if ctx or the process ended first.
func (g *gate) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		g.mu.Lock()
		dead, changed := g.dead, g.changed
		g.mu.Unlock()
		if dead {
			return false
		}
		select {
		case <-changed:
		case <-t.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}
