package storm

import (
	"slices"
	"time"
)

// windows finds the largest gap in each of some times that follow each other: of the gaps that
// overlap it. One that overlaps several counts for each fault, but not for a calm time before
// its end.
type windows struct {
	length time.Duration
	spans  []span // in order of time
}

// span is what begins with a fault, or is calm before one: a window of the common length, cut off
// by the next span, and the rest of the time until then. The largest gaps are negative while
// there was none.
type span struct {
	at          time.Time
	calm        bool
	worst, rest time.Duration
}

// start begins a span. Gaps that end later are added later.
func (w *windows) start(at time.Time, calm bool) {
	w.spans = append(w.spans, span{at, calm, -1, -1})
}

// add takes a gap. It need not be the latest, but all spans before its end must be known.
func (w *windows) add(from, to time.Time) {
	gap := to.Sub(from)
	last := true // of the spans before the gap's end
	for i := len(w.spans) - 1; i >= 0; i-- {
		s := &w.spans[i]
		if s.at.After(to) {
			continue
		}
		switch {
		case from.Before(s.at.Add(w.length)) && (last || !s.calm):
			s.worst = max(s.worst, gap)
		case last:
			s.rest = max(s.rest, gap)
		}
		if !from.Before(s.at) {
			return // it began after all earlier ones' time
		}
		last = false
	}
}

// sinceFault is the time from the last fault before a moment, or zero.
func (w *windows) sinceFault(at time.Time) time.Duration {
	for _, s := range slices.Backward(w.spans) {
		if !s.calm && !s.at.After(at) {
			return at.Sub(s.at)
		}
	}
	return 0
}

// worst are the largest gaps, less what is usual, of windows that begin with faults, of calm
// windows, and of the times between faults' windows and the calm ones. Those without any gap are
// left out.
func (w *windows) worst(usual time.Duration) (faults, calm, between []time.Duration) {
	add := func(to *[]time.Duration, gap time.Duration) {
		if gap >= 0 {
			*to = append(*to, max(0, gap-usual))
		}
	}
	for _, s := range w.spans {
		if s.calm {
			add(&calm, s.worst)
			continue
		}
		add(&faults, s.worst)
		add(&between, s.rest)
	}
	return faults, calm, between
}
