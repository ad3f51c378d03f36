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
	rows    atomic.Uint64   // answered
	eighths []atomic.Uint64 // of work, by position of the layer
	micros  atomic.Uint64
	traffic

	left uint64 // the number of its departure, 0 while it is there; belongs to workCounts
}

// maxGone bounds the nodes that left and whose counts are kept, to go on if they come back.
const maxGone = 1024

// workCounts are those of the nodes that are there, and of those that left last.
type workCounts struct {
	byID       map[string]*workCount
	gone       int
	departures uint64
}

// enter returns the counts of a node that is there from now on.
func (w *workCounts) enter(id string, layers int) *workCount {
	c := w.byID[id]
	switch {
	case c == nil:
		c = &workCount{eighths: make([]atomic.Uint64, layers)}
		w.byID[id] = c
	case c.left > 0:
		c.left = 0
		w.gone--
	}
	return c
}

// leave takes note that a node which is there leaves. If that makes too many, those that left
// first are forgotten.
func (w *workCounts) leave(id string) {
	w.departures++
	w.byID[id].left = w.departures
	if w.gone++; w.gone <= maxGone {
		return
	}
	first := id
	for other, c := range w.byID {
		if c.left > 0 && c.left < w.byID[first].left {
			first = other
		}
	}
	delete(w.byID, first)
	w.gone--
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

// WorkByNode returns what each node has computed, by node ID; of those that left long ago
// and were followed by many others it knows nothing.
func (r *Router) WorkByNode() map[string]NodeWork {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]NodeWork, len(r.work.byID))
	for id, c := range r.work.byID {
		out[id] = NodeWork{Work: c.all(),
			Compute: time.Duration(c.micros.Load()) * time.Microsecond}
	}
	return out
}
