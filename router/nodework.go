package router

import (
	"sync/atomic"
	"time"
)

// NodeWork is what a node has computed for this Router since New.
type NodeWork struct {
	// Work counts experts that a frame had rows of, and an eighth of their rows.
	Work uint64
	// Compute is how long the node says that it computed for that.
	Compute time.Duration
}

// workCount counts a node's work. Lanes add to it, once for each answer.
type workCount struct {
	eighths, micros atomic.Uint64
	traffic
}

func (c *workCount) add(experts, rows int, micros uint32) {
	c.eighths.Add(uint64(8*experts + rows))
	c.micros.Add(uint64(micros))
}

// WorkByNode returns what each node has computed, by node ID.
func (r *Router) WorkByNode() map[string]NodeWork {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]NodeWork, len(r.work))
	for id, c := range r.work {
		out[id] = NodeWork{Work: c.eighths.Load() / 8,
			Compute: time.Duration(c.micros.Load()) * time.Microsecond}
	}
	return out
}
