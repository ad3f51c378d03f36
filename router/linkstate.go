package router

import "time"

// linkState is what a lane knows of one link, and what it decides from that: how long an
// answer may take, when silence is a bad sign, what one more frame would take. It is a
// plain value: events and their times in, decisions out; it has no clock, so that a
// script or a simulation can drive it.
type linkState struct {
	// suspect is set while the link lets a frame wait; others are preferred until its
	// next answer.
	suspect bool
	// silentSince is when the node was found to be silent, 0 after its next message;
	// stuckSince when a frame was given up though the node said that it is alive, 0 after
	// its next answer.
	silentSince, stuckSince time.Duration

	timing  timing // of frames, by their work: what is unusually long
	usual   line   // time of frames by their work: what is usual
	network line   // of that, the time on the way, by the bytes both ways
	unused  int    // rounds in which it could have been used and was not
}

// sample is what an answer tells about its frame.
type sample struct {
	work  int
	bytes int           // of rows, there and back
	took  time.Duration // from sending to the answer
	node  time.Duration // of that, in the node's queue and computation
	// probe tells that the frame was sent to learn something: it counts more.
	probe bool
	// refused tells that not everything was computed: only that it took long is believed.
	refused bool
}

// answered takes note of an answer.
func (s *linkState) answered(m sample) {
	s.renewed()
	if m.refused && m.took <= s.expected(m.work) {
		return
	}
	if !m.refused {
		s.timing.add(m.work, m.took)
		s.network.add(float64(m.bytes), float64(max(m.took-m.node, 0)), false)
	}
	s.usual.add(float64(m.work), float64(m.took), m.probe)
}

// renewed takes note that the link is a new one, or as good as new.
func (s *linkState) renewed() {
	s.suspect, s.silentSince, s.stuckSince, s.unused = false, 0, 0, 0
}

// heard takes note of a message that is no answer.
func (s *linkState) heard() { s.silentSince = 0 }

// late takes note that a frame waits unusually long.
func (s *linkState) late() { s.suspect = true }

// stuck takes note that a frame was given up.
func (s *linkState) stuck(now time.Duration) {
	s.suspect = true
	if s.stuckSince == 0 {
		s.stuckSince = now
	}
}

// hopelessSince is since when no answer is to be hoped for, 0 if one is.
func (s *linkState) hopelessSince() time.Duration {
	if s.silentSince == 0 || s.stuckSince == 0 {
		return max(s.silentSince, s.stuckSince)
	}
	return min(s.silentSince, s.stuckSince)
}

// silent takes note that the node has said nothing for too long, and tells whether that
// is new.
func (s *linkState) silent(now time.Duration) bool {
	s.suspect = true
	if s.silentSince > 0 {
		return false
	}
	s.silentSince = now
	return true
}

// expected is how long a frame usually takes, 0 if nothing is known.
func (s *linkState) expected(work int) time.Duration {
	return time.Duration(s.usual.at(float64(work)))
}

// known tells whether enough frames were answered to say what is usual.
func (s *linkState) known() bool { return s.usual.n >= lineClipFrom }

// hedgeAfter is how long to wait for an answer before another replica is asked, too.
// Where only frames of other sizes are known it is guessed from them; where nothing is
// known it is the timeout, longer the more work there is.
func (s *linkState) hedgeAfter(work int, timeout time.Duration) time.Duration {
	after := s.timing.hedgeAfter(work, timeout)
	if s.known() && !s.timing.knows(work) {
		after = min(after, max(8*s.expected(work), timeout/4))
	}
	return after
}

// silentAfter is how long a node may take to say anything to a ping that is sent behind
// so many bytes: several times what the way takes, at least a quarter of the timeout,
// since processes are not always scheduled at once, at most half of it without the bytes.
func (s *linkState) silentAfter(bytes int64, timeout time.Duration) time.Duration {
	way := time.Duration(s.network.at(0))
	// Bytes before the ping delay it.
	queued := time.Duration(max(s.network.slope(), slowNetwork) * float64(bytes))
	return min(max(8*way, timeout/4), timeout/2) + queued
}

// slowNetwork is how many nanoseconds a byte takes on one, 400 Mbit/s.
const slowNetwork = 20

// passedOver takes note that the link could have been used in a round and was not, and
// tells whether it is time to probe it: what is known of it grows old.
func (s *linkState) passedOver() (probe bool) {
	s.unused = (s.unused + 1) % probeAfter
	return s.unused == 0
}

// probeAfter is the number of rounds after which a link that others are preferred to is
// probed with a copy of some work: at most 1 of so many rounds is done twice.
const probeAfter = 64

// line estimates y = a + b·x from measurements of which the newest count most. What is
// far above the estimate is taken for only several times as much, so that one stall
// changes little and a lasting change soon all.
type line struct {
	n, x, y, xx, xy float64 // sums of weights and of weighted products
}

const (
	lineKeeps    = 7. / 8 // of the weight of older measurements, for each new one
	lineClip     = 4      // times the estimate that one measurement counts at most
	lineClipFrom = 4      // weight of measurements from which on there is an estimate to clip by
)

// add records a measurement; one that is rare counts as much as all before it.
func (l *line) add(x, y float64, rare bool) {
	if e := l.at(x); l.n >= lineClipFrom && e > 0 {
		y = min(y, lineClip*e)
	}
	keep := lineKeeps
	if rare {
		keep = min(1/max(l.n, 1), keep)
	}
	l.n, l.x, l.y = l.n*keep+1, l.x*keep+x, l.y*keep+y
	l.xx, l.xy = l.xx*keep+x*x, l.xy*keep+x*y
}

// slope is b, at least 0 and not so large that a would be negative. Of measurements that
// all have about the same x half is taken to grow with x.
func (l *line) slope() float64 {
	if l.n == 0 || l.x == 0 {
		return 0
	}
	mx, my := l.x/l.n, l.y/l.n
	variance := l.xx/l.n - mx*mx
	if variance < mx*mx/100 {
		return my / mx / 2
	}
	return min(max((l.xy/l.n-mx*my)/variance, 0), my/mx)
}

// at is the estimate for x, 0 if there is none.
func (l *line) at(x float64) float64 {
	if l.n == 0 {
		return 0
	}
	b := l.slope()
	return max(l.y/l.n-b*l.x/l.n, 0) + b*x
}

// budget bounds what is sent twice to a fraction of what is sent.
type budget struct {
	rows float64 // that may still be sent twice; less than 0 after a large frame
}

// budgetRows is the most that is saved up.
const budgetRows = 64

// newBudget has some rows to begin with: the first fault comes at any time.
func newBudget() budget { return budget{budgetRows / 2} }

// earn takes note of rows sent, of which a fraction may be sent twice.
func (b *budget) earn(rows int, fraction float64) {
	b.rows = min(b.rows+fraction*float64(rows), budgetRows)
}

// spend tells whether so many rows may be sent twice now, and counts them if so. Frames
// may be larger than what can be saved up, so it is enough that nothing is owed.
func (b *budget) spend(rows int) bool {
	if b.rows <= 0 {
		return false
	}
	b.rows -= float64(rows)
	return true
}
