package expertnode

import (
	"context"
	"sync/atomic"
	"time"

	"drover/moe"
)

// Drain makes the server answer new frames as draining; what is queued is still
// computed. Routers then go to other replicas.
func (s *Server) Drain() { s.draining.Store(true) }

const (
	// idleLook is how often Idle looks, and idleLooks how often in a row there must be
	// nothing to do: an answer that was computed has left by then.
	idleLook  = 2 * time.Millisecond
	idleLooks = 5
)

// Idle waits until no frame waits or is computed and no replica is being sent, and tells
// whether that was so before ctx ended. Call Drain before, or there will be more.
func (s *Server) Idle(ctx context.Context) bool {
	for looks := 0; looks < idleLooks; looks++ {
		if s.queue.waiting() > 0 || s.computing.Load() > 0 || s.fetchers.Load() > 0 {
			looks = 0
		}
		if s.pause(ctx, idleLook) != nil {
			return false
		}
	}
	return true
}

// counted are Replicas that know whether they compute.
type counted struct {
	Replicas
	computing *atomic.Int64
}

// ComputeBatch implements Replicas.
func (c *counted) ComputeBatch(b *moe.Batch, errs []error) {
	c.computing.Add(1)
	defer c.computing.Add(-1)
	c.Replicas.ComputeBatch(b, errs)
}
