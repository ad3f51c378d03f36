package expertnode

import (
	"sync/atomic"

	"drover/internal/measure"
	"drover/wire"
)

// Metrics are what a Server has counted since NewServer, and what it holds now.
type Metrics struct {
	// Streams are open, Waiting frames wait for computation of at most MaxWaiting.
	Streams, Waiting, MaxWaiting int
	Replicas                     int
	WeightBytes                  int64
	Draining                     bool
	// Frames, Rows and Batches count what was computed.
	Frames, Rows, Batches uint64
	// Queue is how long frames waited; Compute how long computations took, for all of their
	// frames; BatchRows their sizes.
	Queue, Compute, BatchRows measure.Counts
	// Refused counts the frames that were answered without having been computed, by why.
	Refused map[wire.Status]uint64
	// CorruptMessages counts messages so corrupt that they ended their stream.
	CorruptMessages uint64
	// PingFloods counts streams that ended since too many pings came on them.
	PingFloods uint64
	// Panics counts computations that panicked.
	Panics uint64
	// FetchedBytes counts what was sent of packed weights to other nodes.
	FetchedBytes uint64
}

// recorder is a Server's Metrics in the making.
type recorder struct {
	queue, compute, rows *measure.Histogram
	refused              [statuses]atomic.Uint64
	corrupt, panics      atomic.Uint64
	floods               atomic.Uint64
}

// statuses is a bound of wire's statuses.
const statuses = 16

// newRecorder has the bounds that the router has for the same times: from 50 µs to 6.5 s.
func newRecorder() *recorder {
	times := func() *measure.Histogram { return measure.New(measure.Powers(50e-6, 2, 18)...) }
	return &recorder{queue: times(), compute: times(),
		rows: measure.New(measure.Powers(1, 2, 12)...)}
}

func (r *recorder) refuse(s wire.Status) {
	if int(s) < len(r.refused) {
		r.refused[s].Add(1)
	}
}

// Metrics returns what was counted so far.
func (s *Server) Metrics() Metrics {
	s.mu.Lock()
	streams := s.streams
	s.mu.Unlock()
	r := s.recorder
	m := Metrics{Streams: streams, Waiting: s.queue.waiting(), MaxWaiting: s.opts.QueueFrames,
		Replicas: s.opts.Replicas.Count(), WeightBytes: s.opts.Replicas.Bytes(),
		Draining: s.draining.Load(), Frames: s.frames.Load(), Rows: s.rows.Load(),
		Batches: s.batches.Load(), Queue: r.queue.Counts(), Compute: r.compute.Counts(),
		BatchRows: r.rows.Counts(), Refused: map[wire.Status]uint64{},
		CorruptMessages: r.corrupt.Load(), PingFloods: r.floods.Load(), Panics: r.panics.Load(),
		FetchedBytes: s.fetchedBytes.Load()}
	for _, status := range []wire.Status{wire.StatusNotHosted, wire.StatusOverloaded,
		wire.StatusCorrupt, wire.StatusDraining, wire.StatusDeadline, wire.StatusCancelled,
		wire.StatusBadShape, wire.StatusInternal} {
		m.Refused[status] = r.refused[status].Load()
	}
	return m
}
