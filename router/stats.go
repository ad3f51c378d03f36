package router

import "sync/atomic"

// Stats counts what a Router has done since New.
type Stats struct {
	// Rows counts rows sent to nodes; not those that were sent twice on purpose.
	Rows uint64
	// HedgedRows counts rows sent to another node as well since the first was late, and
	// ProbedRows those sent to learn how fast a node is.
	HedgedRows, ProbedRows uint64
	// Hedges counts the frames that were sent to another node as well for that.
	Hedges uint64
	// Retries counts frames of which something had to be sent again: their link was lost, or
	// something of them was refused or not usable. Failovers are those of a lost link.
	Retries, Failovers uint64
	// Suspicions counts how often a link let a frame wait and said nothing, Stuck how often one
	// answered no frame for seconds and said that it is alive.
	Suspicions, Stuck uint64
	// Mismatches counts the checked experts' rows in which a node differed, Disputes those
	// of them on which nobody could decide.
	Mismatches, Disputes uint64
	// CheckedRows counts rows sent to another node to compare what they return, Checked the
	// experts' rows that were compared, and Quarantined the nodes that were found wrong.
	CheckedRows, Checked, Quarantined uint64
	// CorruptFrames counts frames whose checksum did not fit, in both directions, and
	// BadAnswers those answers that did not fit a frame that waits.
	CorruptFrames, BadAnswers uint64
	// SilentLinks counts links that were cut since their node gave no sign of life, though
	// nobody waited for an answer.
	SilentLinks uint64
	// LastResort counts the experts that were computed on this machine since no node did:
	// one for each layer of a step in which an expert had rows.
	LastResort uint64
}

// counters are a Router's Stats in the making.
type counters struct {
	rows, hedgedRows, probedRows atomic.Uint64
	checkedRows, checked         atomic.Uint64
	quarantined                  atomic.Uint64
	corrupt, badAnswers          atomic.Uint64
	silent                       atomic.Uint64
	lastResort                   atomic.Uint64
	hedges, retries, failovers   atomic.Uint64
	suspicions, stuck            atomic.Uint64
	mismatches, disputes         atomic.Uint64
}

// Stats returns what was counted so far.
func (r *Router) Stats() Stats {
	c := &r.stats
	return Stats{Rows: c.rows.Load(), HedgedRows: c.hedgedRows.Load(),
		ProbedRows: c.probedRows.Load(), CheckedRows: c.checkedRows.Load(),
		Checked: c.checked.Load(), Quarantined: c.quarantined.Load(),
		CorruptFrames: c.corrupt.Load(), BadAnswers: c.badAnswers.Load(),
		SilentLinks: c.silent.Load(), LastResort: c.lastResort.Load(),
		Hedges: c.hedges.Load(), Retries: c.retries.Load(),
		Failovers: c.failovers.Load(), Suspicions: c.suspicions.Load(), Stuck: c.stuck.Load(),
		Mismatches: c.mismatches.Load(), Disputes: c.disputes.Load()}
}
