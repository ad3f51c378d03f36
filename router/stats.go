package router

import "sync/atomic"

// Stats counts what a Router has done since New.
type Stats struct {
	// LastResort counts the experts that were computed on this machine since no node did:
	// one for each layer of a step in which an expert had rows.
	LastResort uint64
}

// counters are a Router's Stats in the making.
type counters struct {
	lastResort atomic.Uint64
}

// Stats returns what was counted so far.
func (r *Router) Stats() Stats {
	return Stats{LastResort: r.stats.lastResort.Load()}
}
