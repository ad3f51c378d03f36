package router

import (
	"errors"
	"time"

	"drover/wire"
)

// Signs of life of links on which nothing is sent. Nobody waits for these times while a
// token is made: frames have deadlines of their own (linkState).
const (
	// pulseEvery is how often each link is looked at.
	pulseEvery = 250 * time.Millisecond
	// askAfter is the silence after which a link is asked for a sign of life. With the look
	// that finds the answer, an idle link is asked once in a second.
	askAfter = 3 * pulseEvery
	// The answer has time for several times what answers took lately, but within these
	// bounds, and for the rows that are on their way. The upper one keeps readiness honest
	// within 5 s.
	leastWait   = 5 * pulseEvery
	mostWait    = 12 * pulseEvery
	patienceFor = 4 // times the slowest of the last answers
	// slowestKeeps is how much of the slowest answer's time is left after another one.
	slowestKeeps = 7. / 8
	// stuckAfter is how long a node that shows signs of life may answer none of the frames that
	// it has before that is told. Frames that wait went elsewhere long before.
	stuckAfter = 8 * pulseEvery
)

// errUnasked is why a message of a node is no sign of life.
var errUnasked = errors.New("nobody asked for it")

// pulse is what is known of one link's signs of life, and what follows from that. It is a
// plain value: times in, decisions out; it has no clock.
//
// Silence is counted in the time that this process ran, which is at most pulseEvery for
// each look. A process that stood still, or got no processor, has not read what its nodes
// said meanwhile, and does not blame them.
type pulse struct {
	heard   time.Duration // the last sign of life, as the lane's now
	silence time.Duration // counted since then
	asked   time.Duration // when it was asked since then, as the lane's now; 0 if not
	from    time.Duration // of the silence, from where on the answer is waited for
	lost    bool          // said already
	slowest time.Duration // answer of the last ones

	answers int64         // to frames, as of the last look
	waits   time.Duration // counted since there were fewer, or no frame waited
	stuck   bool          // said already
}

// verdict is what to do about a link.
type verdict int

const (
	linkWell verdict = iota
	linkAsk          // for a sign of life
	linkLost         // cut it
)

// renew begins anew, with what answers took before.
func (p *pulse) renew() { *p = pulse{slowest: p.slowest} }

// look counts time that has passed, and judges by when the link was last heard. What is on
// its way takes the time queued.
func (p *pulse) look(heard, passed, queued time.Duration) verdict {
	if heard > p.heard {
		if p.asked > 0 {
			p.slowest = max(heard-p.asked, time.Duration(slowestKeeps*float64(p.slowest)))
		}
		p.heard, p.silence, p.asked, p.from, p.lost = heard, 0, 0, askAfter, false
		return linkWell
	}
	p.silence += min(passed, pulseEvery)
	switch {
	case p.lost || p.silence < askAfter:
		return linkWell
	case p.silence-p.from >= p.patience()+queued:
		p.lost = true
		return linkLost
	case p.asked == 0:
		return linkAsk
	}
	return linkWell
}

// looksStuck counts time that has passed with frames unanswered and tells, once, if none was
// answered for too long. What is on its way takes the time queued.
func (p *pulse) looksStuck(answers int64, waiting bool, passed, queued time.Duration) bool {
	if answers != p.answers || !waiting {
		p.answers, p.waits, p.stuck = answers, 0, false
		return false
	}
	p.waits += min(passed, pulseEvery)
	if p.stuck || p.waits < stuckAfter+queued {
		return false
	}
	p.stuck = true
	return true
}

// wasAsked takes note that the question was written. Until then the link's silence counts
// as well: where nothing can be written for so long, nobody reads.
func (p *pulse) wasAsked(now time.Duration) { p.asked, p.from = now, p.silence }

// patience is how long an answer may take.
func (p *pulse) patience() time.Duration {
	return min(max(patienceFor*p.slowest, leastWait), mostWait)
}

// watchLinks looks at all links until the Router closes.
func (r *Router) watchLinks() {
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	var links []*link
	for last := time.Now(); ; {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return
		}
		now := time.Now()
		links = r.linksOf(links[:0])
		for _, k := range links {
			k.takePulse(now.Sub(last))
		}
		clear(links)
		last = now
	}
}

// linksOf appends the links of all nodes.
func (r *Router) linksOf(links []*link) []*link {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.nodes {
		links = append(links, n.links...)
	}
	return links
}

// takePulse looks at a link after some time. Only watchLinks calls it.
func (k *link) takePulse(passed time.Duration) {
	s, number, full := k.session.Load(), uint64(0), false
	if s != nil {
		number, full = s.number, s.full.Load()
	}
	if number != k.pulseOf || full {
		k.pulse.renew()
		k.pulseOf = number
	}
	if s == nil {
		return
	}
	if full { // it is this process that does not read; the node is to know that it is there
		s.ask()
		return
	}
	if k.pulse.looksStuck(s.answers.Load(), s.unanswered.Load() > 0, passed, s.onTheWay()) {
		k.router.stats.stuck.Add(1)
		if e := k.router.opts.Events.Stuck; e != nil {
			e(k.node.id, k.lane.index)
		}
	}
	switch k.pulse.look(time.Duration(s.heard.Load()), passed, s.onTheWay()) {
	case linkAsk:
		if s.ask() {
			k.pulse.wasAsked(k.lane.now())
		}
	case linkLost:
		k.router.stats.silent.Add(1)
		s.cancel(errSilent)
	}
}

// onTheWay is how long the rows that are not answered yet may keep the link busy, there and
// back: as measured, at least as on a slow network.
func (s *session) onTheWay() time.Duration {
	perByte := max(float64(s.link.perKiB.Load())/1024, slowNetwork)
	return min(time.Duration(2*perByte*float64(s.creditBytes.Load())),
		s.link.router.opts.SlowTimeout)
}

// ask sends a ping, unless something else waits to be written: then it tells so.
func (s *session) ask() bool {
	if !s.queued.CompareAndSwap(0, 1) {
		return false
	}
	s.out <- s.link.router.ping() // there is room: nothing is queued
	return true
}

// ping returns a request for a sign of life. Its nonce is drawn when it is written.
func (r *Router) ping() *wire.Request {
	request := r.requests.Get().(*wire.Request)
	request.Kind = wire.KindPing
	return request
}

// ponged tells whether a Pong answers a ping that waits. Nonces rise, and a node may leave
// some out. The receiving goroutine calls it.
func (s *session) ponged(nonce uint64) bool {
	if nonce <= s.answered || nonce > s.asked.Load() {
		return false
	}
	s.answered = nonce
	return true
}
