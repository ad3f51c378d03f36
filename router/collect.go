package router

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"drover/wire"
)

var (
	errBadAnswer = errors.New("the answer does not fit the frame")
	errSlow      = errors.New("no answer within the slow timeout")
	errLate      = errors.New("it lets a frame wait")
	errStray     = errors.New("it answers no frame that waits")
	errLost      = errors.New("an answer is missing after a frame was corrupt")
)

// take acts on an answer, which is no longer the caller's, and sends what can be sent.
func (l *lane) take(a *answer) error {
	l.note(a)
	return l.dispatch()
}

// note acts on an answer, which is no longer the caller's.
func (l *lane) note(a *answer) {
	defer l.drop(a)
	c := &a.response.Combine
	if corrupt(a) {
		l.router.stats.corrupt.Add(1)
		l.doubt(a.session)
	}
	index := -1
	for i, f := range l.flights {
		if f.id == c.FrameID && f.session == a.session {
			index = i
			break
		}
	}
	if index < 0 {
		l.badAnswer(a.session.link, cmp.Or(a.response.Verify(), errStray))
		return
	}
	f := l.flights[index]
	l.land(index)
	k := f.session.link
	k.node.work.received.Add(uint64(len(a.response.RowBytes())))
	k.state.answered(sample{work: work(f.experts, f.rows), took: a.at - f.sent,
		bytes: int(f.bytes) + len(a.response.RowBytes()),
		node:  time.Duration(c.QueueMicros+c.ComputeMicros) * time.Microsecond,
		probe: f.why == purposeProbe, refused: len(c.Statuses) > 0 || a.response.Verify() != nil})
	k.perKiB.Store(int64(1024 * k.state.network.slope()))
	if len(f.parts) > 0 {
		l.settle(f, a)
	}
	f.session = nil
	l.idle = append(l.idle, f)
}

// corrupt tells whether a frame did not arrive as it was sent: the answer, or the frame
// that it answers.
func corrupt(a *answer) bool {
	c := &a.response.Combine
	return a.response.Verify() != nil || len(c.Statuses) > 0 && c.Statuses[0] == wire.StatusCorrupt
}

// doubt limits the time of what is in flight on a session: the frame that was corrupt may
// have been any of them, since its id may be wrong, and then no answer comes.
func (l *lane) doubt(s *session) {
	now := l.now()
	for _, f := range l.flights {
		if f.session == s && f.doubtAt == 0 {
			wait := l.hedgeAfter(s.link, work(f.experts, f.rows))
			f.doubtAt = now + max(wait, l.router.opts.FrameTimeout)
			l.due(f.doubtAt)
		}
	}
}

func (l *lane) badAnswer(k *link, reason error) {
	l.router.stats.badAnswers.Add(1)
	if e := l.router.opts.Events.BadAnswer; e != nil {
		e(k.node.id, l.index, reason)
	}
}

// noteArrived acts on the answers that have arrived and tells whether there were any.
func (l *lane) noteArrived() (took bool) {
	for {
		select {
		case a := <-l.arrived:
			l.note(a)
			took = true
		default:
			return took
		}
	}
}

// land removes a flight and gives its credit back.
func (l *lane) land(index int) {
	f := l.flights[index]
	last := len(l.flights) - 1
	l.flights[index] = l.flights[last]
	l.flights[last] = nil
	l.flights = l.flights[:last]
	f.session.creditBytes.Add(-f.bytes)
	f.session.flights--
	for _, i := range f.parts {
		p := &l.parts[i]
		if p.inFlight--; p.inFlight > 0 {
			p.late = !l.hopeful(i) // of those that are left
		} else if !p.done {
			l.waiting++
		}
	}
}

// settle takes the rows of an answer, and marks the parts that it failed to bring.
func (l *lane) settle(f *flight, a *answer) {
	k := f.session.link
	c := &a.response.Combine
	if err := l.fits(f, a); err != nil {
		if err != errQuarantined {
			l.badAnswer(k, err)
		}
		l.failed(f, err)
		return
	}
	bytes, at, failures := a.response.RowBytes(), 0, 0
	var reason error
	for j, i := range f.parts {
		p := &l.parts[i]
		if len(c.Statuses) > 0 && c.Statuses[j] != wire.StatusOK {
			failures++
			reason = statusError(c.Statuses[j], c.Detail)
			l.failedPart(p, k.node, reason)
			continue
		}
		n := p.rows * l.router.rowBytes
		if !p.done {
			y := l.batch.Y.Slice(p.first, p.first+p.rows)
			wire.TakeRows(y.Data, bytes[at:at+n], l.router.dtype)
			if p.check != nil {
				l.hear(i, k.node, y)
			} else {
				p.by = k.node
				l.finishPart(p)
			}
		}
		at += n
	}
	k.node.work.rows.Add(uint64(c.RowCount))
	if failures > 0 {
		l.retried(k.node, failures, reason)
		return
	}
	l.noteCall(f, a.at-f.sent, c)
	l.router.network.add(a.at-f.sent,
		time.Duration(c.QueueMicros+c.ComputeMicros)*time.Microsecond)
	k.node.work.add(l.pos, f.experts, f.rows, c.ComputeMicros)
}

// statusError is a failure as the node named it.
func statusError(s wire.Status, detail string) error {
	if detail == "" {
		return errors.New(s.String())
	}
	return fmt.Errorf("%v: %s", s, detail)
}

// fits checks an answer against the frame that it claims to answer.
func (l *lane) fits(f *flight, a *answer) error {
	if f.session.link.node.quarantined.Load() {
		return errQuarantined
	}
	if err := a.response.Verify(); err != nil {
		return err
	}
	c := &a.response.Combine
	if len(c.Statuses) != 0 && len(c.Statuses) != len(f.parts) {
		if len(c.Statuses) == 1 {
			return statusError(c.Statuses[0], c.Detail) // the node could not read the header
		}
		return errBadAnswer
	}
	rows := 0
	for j, i := range f.parts {
		if len(c.Statuses) == 0 || c.Statuses[j] == wire.StatusOK {
			rows += l.parts[i].rows
		}
	}
	if int(c.RowCount) != rows || len(a.response.RowBytes()) != rows*l.router.rowBytes ||
		rows > 0 && c.DType != l.router.dtype {
		return errBadAnswer
	}
	return nil
}

// failed marks all parts of a flight that has landed.
func (l *lane) failed(f *flight, reason error) {
	for _, i := range f.parts {
		l.failedPart(&l.parts[i], f.session.link.node, reason)
	}
	l.retried(f.session.link.node, len(f.parts), reason)
}

func (l *lane) retried(n *node, experts int, reason error) {
	l.router.stats.retries.Add(1)
	n.work.failures.Add(1)
	if e := l.router.opts.Events.Retried; e != nil {
		e(n.id, l.batch.Layer, experts, reason)
	}
}

// failedPart notes that a node did not compute a part. It may go to another one at
// once, and to the same one after a while.
func (l *lane) failedPart(p *part, n *node, reason error) {
	if p.done {
		return
	}
	now := l.now()
	if p.failedAt == 0 {
		p.failedAt = now
	}
	p.avoid, p.lastNode, p.lastReason = n, n, reason
	p.notBefore = now + min(retryDelay<<min(p.attempts, 10), maxRetryDelay)
	p.attempts++
}

// check does what is due: flights of dead sessions, hedges, signs of life, retries.
func (l *lane) check() error {
	now := l.now()
	if now < l.checkAt {
		return nil
	}
	l.checkAt = 0
	l.buryDead()
	for i := 0; i < len(l.flights); i++ {
		f := l.flights[i]
		if f.hedgeAt > 0 && now >= f.hedgeAt {
			l.hedgeLate(f, now)
		}
		if f.doubtAt > 0 && now >= f.doubtAt {
			f.session.cancel(errLost)
		} else if f.doubtAt > 0 {
			l.due(f.doubtAt)
		}
		if now >= f.checkAt {
			l.checkLife(f, now)
		}
		if f.hedgeAt > 0 {
			l.due(f.hedgeAt)
		}
		l.due(f.checkAt)
	}
	return l.dispatch()
}

// buryDead lands the flights of sessions that have ended. Their answers cannot come: a
// session hands over its last answer before it fails, so those are taken first.
func (l *lane) buryDead() {
	for i := 0; i < len(l.flights); {
		f := l.flights[i]
		reason := f.session.failed.Load()
		if reason == nil {
			i++
			continue
		}
		if l.noteArrived() {
			i = 0 // the flights are others now
			continue
		}
		l.land(i)
		if len(f.parts) > 0 {
			l.router.stats.failovers.Add(1)
			l.failed(f, *reason)
		}
		f.session = nil
		l.idle = append(l.idle, f)
	}
}

// checkLife looks whether the node of a waiting flight shows signs of life: any
// message since the last ping. A busy node answers pings while it computes, a
// hung one does not. Silence makes it suspected, long silence ends the session.
func (l *lane) checkLife(f *flight, now time.Duration) {
	timeout := l.router.opts.FrameTimeout
	s := f.session
	state := &s.link.state
	f.checkAt = now + timeout/2
	if heard := time.Duration(s.heard.Load()); f.pingAt > 0 && heard > f.pingAt {
		f.pingAt = 0
		state.heard()
	}
	silence := state.silentAfter(f.queued, timeout)
	switch {
	case now-f.sent > l.router.opts.SlowTimeout:
		s.cancel(errSlow)
	case f.pingAt == 0:
		f.pingAt, f.queued = now, s.creditBytes.Load()
		f.checkAt = now + state.silentAfter(f.queued, timeout)
		s.enqueue(l.router.ping())
	case now-f.pingAt > 3*timeout+silence:
		s.cancel(errSilent)
	case now-f.pingAt >= silence:
		l.silent(f, now)
		l.hedge(f, now)
		l.checkLate(f)
	default:
		f.checkAt = f.pingAt + silence
	}
}

// silent marks the parts of a flight whose link is silent.
func (l *lane) silent(f *flight, now time.Duration) {
	k := f.session.link
	if k.state.silent(now) {
		l.router.stats.suspicions.Add(1)
		if e := l.router.opts.Events.Suspected; e != nil {
			e(k.node.id, l.index)
		}
	}
	l.giveLate(f, errSilent)
}

// giveLate lets this machine compute the parts of a flight that are in flight nowhere else
// where an answer is to be hoped for.
func (l *lane) giveLate(f *flight, reason error) {
	f.late = true
	for _, i := range f.parts {
		p := &l.parts[i]
		if p.failedAt == 0 {
			p.failedAt = f.sent
			p.lastReason = fmt.Errorf("node %s: %w", f.session.link.node.id, reason)
		}
		p.late = !l.hopeful(i)
	}
}

// hopeful tells whether a part is in flight and not late.
func (l *lane) hopeful(index int) bool {
	for _, f := range l.flights {
		if !f.late && f.session.link.state.hopelessSince() == 0 && slices.Contains(f.parts, index) {
			return true
		}
	}
	return false
}

// hedgeAfter is how long to wait for an answer on a link before another replica is asked,
// too. A new link may take as long as the slowest of the others: the first frames to a node
// that was started just now are those that wait most.
func (l *lane) hedgeAfter(k *link, work int) time.Duration {
	timeout := l.router.opts.FrameTimeout
	if k.state.known() {
		return k.state.hedgeAfter(work, timeout)
	}
	slowest := time.Duration(0)
	for _, n := range l.table.nodes {
		if n != nil && n.links[l.index].state.known() {
			slowest = max(slowest, n.links[l.index].state.hedgeAfter(work, timeout))
		}
	}
	if slowest == 0 {
		return k.state.hedgeAfter(work, timeout)
	}
	return slowest
}

// hedgeLate hedges a flight that waits for unusually long, if what may be sent twice is not
// used up or the frame timeout is over; else it is looked at again later. A link that has
// answered nothing yet owes no patience: what is sent twice for it is owed, and it gets
// nothing more before it answers.
func (l *lane) hedgeLate(f *flight, now time.Duration) {
	timeout := l.router.opts.FrameTimeout
	f.hedgeAt = 0
	fresh := f.session.link.state.usual.n == 0
	if l.extra.rows <= 0 && f.why != purposeCheck && !fresh && now-f.sent < timeout {
		f.hedgeAt = min(now+max((now-f.sent)/2, minHedge), f.sent+timeout)
		return
	}
	rows := l.hedge(f, now)
	if rows > 0 {
		f.session.link.state.late()
		l.extra.spend(rows)
	}
	f.hedgeAt = now + max(now-f.sent, minHedge) // also after a hedge: who was asked may refuse
	if now-f.sent >= timeout {
		if rows == 0 {
			l.checkLate(f)
			f.session.link.state.stuck(now)
		}
		l.giveLate(f, errLate)
		l.repeat(f, now)
	}
}

// repeatAfter is the number of frame timeouts after which a frame is sent again to a node
// that shows signs of life.
const repeatAfter = 4

// repeat sends a frame that was given up to the same node again, each time after twice as
// long. A frame or an answer may be lost without a trace, by a corrupt byte in what is
// around it; a node that lost nothing and is slow computes the frame several times.
func (l *lane) repeat(f *flight, now time.Duration) {
	k := f.session.link
	if f.why != purposeFirst && f.why != purposeHedge || k.session.Load() != f.session ||
		now-f.sent < repeatAfter*l.router.opts.FrameTimeout {
		return
	}
	l.beginChoice()
	for _, i := range f.parts {
		if p := &l.parts[i]; !p.done {
			p.target = k
			k.assigned++
		}
	}
	l.extra.spend(l.sendParts(k, now, purposeRepeat))
}

// hedge sends the parts of a waiting flight to another replica too, where there is
// one that they are not waiting for already. It returns the rows sent.
func (l *lane) hedge(f *flight, now time.Duration) int {
	if len(f.parts) == 0 {
		return 0
	}
	l.beginChoice()
	for _, i := range f.parts {
		if p := &l.parts[i]; !p.done {
			l.offer(i, now, func(k *link) bool {
				return k.state.suspect || l.table.unready[k.node.id] || l.waitsFor(i, k) ||
					p.check.hasAsked(k.node)
			})
		}
	}
	l.choose()
	for _, i := range f.parts {
		if p := &l.parts[i]; p.check != nil && p.target != nil {
			p.check.asked = append(p.check.asked, p.target.node)
		}
	}
	rows := l.sendChosen(now, purposeHedge)
	if e := l.router.opts.Events.Hedged; rows > 0 && e != nil {
		e(f.session.link.node.id, l.batch.Layer)
	}
	return rows
}

// waitsFor tells whether a part is in flight on a link.
func (l *lane) waitsFor(index int, k *link) bool {
	for _, f := range l.flights {
		if f.session.link != k {
			continue
		}
		for _, i := range f.parts {
			if i == index {
				return true
			}
		}
	}
	return false
}
