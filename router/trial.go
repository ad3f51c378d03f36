package router

import "time"

// trial says when a link that others are preferred to is used all the same, since what is known of
// it grows old. It is part of a linkState and as plain.
//
// A copy of some work is enough to see that a node is slow, but it makes nodes that are not used
// look slow: they have slept, and the copy waits behind what others compute meanwhile. So after a
// copy a link that might be as good as the others is taken for that, for a few frames in a row.
type trial struct {
	unused int // rounds since its last answer in which it could have been used and was not
	passed int // the same since the last trial
	left   int // frames for which it is to be taken for as good as the others
	rest   int // rounds until the next trial; doubles with each, up to mostRest
}

const (
	// probeAfter is the number of rounds after which a link that was not used gets a copy: at most
	// 1 of so many rounds is done twice.
	probeAfter = 64
	// trialFrames are sent in a trial.
	trialFrames = 4
	// trialWithin is how many times as long as on the best link a frame may take for a trial.
	trialWithin = 4
	// favour is what a frame in a trial is taken to need in the place of 1 on the best link: of
	// equally good ones it comes first.
	favour = 0.9
	// A new link is tried after leastRest rounds, one that is known for long after mostRest: where
	// six nodes shared two processors, trials after 64 rounds each cost 7 % of all tokens.
	leastRest = 16
	mostRest  = 1024
)

// passedOver takes note that the link could have been used in a round and was not, where the best
// one is expected to take so long for one expert's row, and tells whether to send it a copy of some
// work now.
func (s *linkState) passedOver(best time.Duration) bool {
	t := &s.trial
	if t.left > 0 {
		return false
	}
	t.unused++
	t.passed++
	if s.suspect || s.expected(1) > trialWithin*best {
		t.rest = 0 // when it is well it is as new
		return t.unused%probeAfter == 0
	}
	t.rest = max(t.rest, leastRest)
	if t.passed < t.rest {
		return false
	}
	t.passed, t.left, t.rest = 0, trialFrames, min(2*t.rest, mostRest)
	return t.unused >= probeAfter // it wakes the node, and nobody waits for it
}

// costs returns what a frame is expected to take, and each row of an expert in it: as on the best
// link, which is given, if nothing is known, and a little less in a trial.
func (s *linkState) costs(base, each float64) (float64, float64) {
	switch u := &s.usual; {
	case s.trial.left > 0 && u.at(1) > favour*(base+each):
		return favour * base, favour * each
	case u.n > 0:
		return u.at(0), u.slope()
	}
	return base, each
}

// used takes note that a frame is sent, and tells whether it is part of a trial.
func (t *trial) used() bool {
	if t.left == 0 {
		return false
	}
	t.left--
	return true
}
