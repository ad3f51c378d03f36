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
	eighths []atomic.Uint64 // of work, by position of the layer
	micros  atomic.Uint64
	traffic
}

func newWorkCount(layers int) *workCount {
	return &workCount{eighths: make([]atomic.Uint64, layers)}
}

func (c *workCount) add(pos, experts, rows int, micros uint32) {
	c.eighths[pos].Add(uint64(8*experts + rows))
	c.micros.Add(uint64(micros))
}

// all is the work of all layers.
func (c *workCount) all() uint64 {
	sum := uint64(0)
	for pos := range c.eighths {
		sum += c.eighths[pos].Load()
	}
	return sum / 8
}

// WorkByNode returns what each node has computed, by node ID.
func (r *Router) WorkByNode() map[string]NodeWork {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]NodeWork, len(r.work))
	for id, c := range r.work {
		out[id] = NodeWork{Work: c.all(),
			Compute: time.Duration(c.micros.Load()) * time.Microsecond}
	}
	return out
}
