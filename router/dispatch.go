package router

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"drover/wire"
)

// retryDelay is how long a part waits before it goes to the same node again; it
// doubles with each attempt up to maxRetryDelay.
const (
	retryDelay    = 2 * time.Millisecond
	maxRetryDelay = 64 * time.Millisecond
)

var errNoLink = errors.New("no link is connected")

// dispatch sends every part that is neither answered nor in flight, if it can.
func (l *lane) dispatch() error {
	if l.waiting == 0 {
		return nil
	}
	l.pos, l.known = l.table.layer(l.batch.Layer)
	now := l.now()
	l.resetAssigned()
	// First the parts without a choice, so that the others can even out the load.
	for _, choices := range []int{1, 0} {
		for i := range l.parts {
			p := &l.parts[i]
			if p.done || p.inFlight > 0 || choices == 0 && p.target != nil {
				continue
			}
			p.target = nil
			if !l.known || choices == 1 && len(l.table.replicas(l.pos, int(p.expert))) != 1 {
				continue
			}
			p.target = l.choose(p, now, nil)
		}
	}
	for _, n := range l.table.nodes {
		if n != nil {
			l.sendParts(n.links[l.index], now)
		}
	}
	if err := l.giveUp(now); err != nil {
		return err
	}
	l.resort(now)
	return nil
}

func (l *lane) resetAssigned() {
	for _, n := range l.table.nodes {
		if n != nil {
			n.links[l.index].assigned = 0
		}
	}
}

// choose picks the link for a part: a connected one, not suspected and not the one
// that just failed, and of these the one with the fewest experts. Equals are spread by
// a hash of layer and expert, so that no node takes all of a small batch. Links in
// without are excluded.
func (l *lane) choose(p *part, now time.Duration, without func(*link) bool) *link {
	var best *link
	bestClass, equals := 0, 0
	on := l.table.replicas(l.pos, int(p.expert))
	first := spread(l.pos, int(p.expert))
	for j := range on {
		n := l.table.nodes[on[(first+j)%len(on)]]
		if n == nil {
			continue
		}
		k := n.links[l.index]
		early := now < p.notBefore && (n == p.avoid || p.attempts > 2)
		if k.session.Load() == nil || early || without != nil && without(k) {
			continue
		}
		class := 0
		if k.suspect || l.table.suspect[n.id] {
			class += 2
		}
		if n == p.avoid {
			class++
		}
		random := l.router.opts.pick
		switch {
		case best == nil || class < bestClass:
			best, bestClass, equals = k, class, 1
		case class == bestClass && random != nil:
			if equals++; random(equals) == 0 {
				best = k
			}
		case class == bestClass && k.assigned < best.assigned:
			best = k
		}
	}
	if best != nil {
		best.assigned++
	}
	return best
}

// spread hashes a layer's position and an expert (Knuth's multiplicative hash).
func spread(layer, expert int) int {
	return int(uint32(layer<<16|expert) * 2654435761 >> 16)
}

// sendParts sends the parts chosen for a link, in as few frames as their bound and
// the link's credit allow.
func (l *lane) sendParts(k *link, now time.Duration) {
	if k.assigned == 0 {
		return
	}
	s := k.session.Load()
	f := l.newFlight()
	for i := range l.parts {
		p := &l.parts[i]
		if p.target != k {
			continue
		}
		p.target = nil
		if s == nil {
			continue
		}
		if n := len(f.parts); n > 0 && (f.rows+p.rows > l.router.maxRows ||
			l.parts[f.parts[n-1]].expert == p.expert) {
			l.send(f, s, now)
			f = l.newFlight()
		}
		f.parts = append(f.parts, i)
		f.rows += p.rows
	}
	if len(f.parts) > 0 {
		l.send(f, s, now)
		return
	}
	l.idle = append(l.idle, f)
}

// send encodes one frame and hands it to the link. Without credit it does nothing:
// the parts stay where they are until an answer gives some back.
func (l *lane) send(f *flight, s *session, now time.Duration) {
	r := l.router
	f.bytes = int64(f.rows * r.rowBytes)
	if s.creditBytes+f.bytes > s.creditLimit || s.flights >= wire.MaxStreamFrames {
		l.blocked(f, s, now)
		l.idle = append(l.idle, f)
		return
	}
	l.nextID++
	f.id, f.session, f.experts = l.nextID, s, len(f.parts)
	request := r.requests.Get().(*wire.Request)
	l.encode(f, request)
	s.unanswered.Add(1)
	if !s.enqueueFrame(request, f.bytes) {
		s.unanswered.Add(-1)
		l.blocked(f, s, now)
		l.idle = append(l.idle, f)
		return
	}
	s.creditBytes += f.bytes
	s.flights++
	for _, i := range f.parts {
		if l.parts[i].inFlight == 0 {
			l.waiting--
		}
		l.parts[i].inFlight++
		l.parts[i].late = s.link.silentSince > 0
	}
	f.sent, f.pingAt = now, 0
	f.hedgeAt = now + s.link.timing.hedgeAfter(work(f.experts, f.rows), r.opts.FrameTimeout)
	f.checkAt = now + r.opts.FrameTimeout/2
	l.due(min(f.checkAt, f.hedgeAt))
	l.flights = append(l.flights, f)
}

// encode fills the request of a frame.
func (l *lane) encode(f *flight, request *wire.Request) {
	r := l.router
	request.Kind = wire.KindDispatch
	d := &request.Dispatch
	*d = wire.Dispatch{
		FrameID:           f.id,
		PlacementRevision: l.table.plan.Revision,
		Layer:             uint32(l.batch.Layer),
		DType:             r.dtype,
		RowCount:          uint32(f.rows),
		ExpertIDs:         d.ExpertIDs[:0],
		ExpertRowCounts:   d.ExpertRowCounts[:0],
		BudgetMicros:      uint32(min(r.opts.SlowTimeout.Microseconds(), 1<<31)),
	}
	rows, bytes := r.pool.NewBuffer(f.rows * r.rowBytes)
	at := 0
	for _, i := range f.parts {
		p := &l.parts[i]
		d.ExpertIDs = append(d.ExpertIDs, uint32(p.expert))
		d.ExpertRowCounts = append(d.ExpertRowCounts, uint32(p.rows))
		x := l.batch.X.Slice(p.first, p.first+p.rows)
		n := p.rows * r.rowBytes
		wire.PutRows(bytes[at:at+n], x.Data, r.dtype)
		at += n
	}
	request.Rows = rows
}

// blocked keeps the parts of a frame that found no credit. An answer on the link
// brings them back; if none can come, they count as failed.
func (l *lane) blocked(f *flight, s *session, now time.Duration) {
	for _, i := range f.parts {
		if p := &l.parts[i]; p.failedAt == 0 && !l.expects(s) {
			p.failedAt = now
			p.lastReason = fmt.Errorf("%d bytes of rows unanswered, the credit", s.creditBytes)
		}
	}
}

// expects tells whether an answer to this batch is on its way on a session.
func (l *lane) expects(s *session) bool {
	for _, f := range l.flights {
		if f.session == s && len(f.parts) > 0 {
			return true
		}
	}
	return false
}

// giveUp sets when to look again at parts that could not be sent, and returns an
// error if one of them has been without a replica for too long.
func (l *lane) giveUp(now time.Duration) error {
	if l.waiting == 0 {
		return nil
	}
	for i := range l.parts {
		p := &l.parts[i]
		if p.done || p.inFlight > 0 || p.local {
			continue
		}
		if p.failedAt == 0 {
			if l.hasLive(p) {
				continue // it waits for credit, and an answer will bring it
			}
			p.failedAt, p.lastReason = now, errNoLink
		}
		deadline := p.failedAt + l.router.opts.FailAfter
		if now >= deadline {
			return l.noReplica(p)
		}
		next := deadline
		if p.notBefore > now {
			next = min(next, p.notBefore)
		}
		l.due(next)
	}
	return nil
}

// hasLive tells whether any replica of the part has a connected link.
func (l *lane) hasLive(p *part) bool {
	for _, i := range l.table.replicas(l.pos, int(p.expert)) {
		if n := l.table.nodes[i]; n != nil && n.links[l.index].session.Load() != nil {
			return true
		}
	}
	return false
}

// noReplica is the error for a part that nobody computed.
func (l *lane) noReplica(p *part) error {
	detail := ""
	if !l.known {
		detail = fmt.Sprintf("placement revision %d has no such layer", l.table.plan.Revision)
	} else {
		detail = l.table.reasons(l.pos, int(p.expert), l.index)
	}
	if p.lastNode != nil && !strings.Contains(detail, p.lastReason.Error()) {
		detail = fmt.Sprintf("%s; last answer, of node %s: %v", detail, p.lastNode.id, p.lastReason)
	}
	if p.localErr != nil {
		detail = fmt.Sprintf("%s; on this machine: %v", detail, p.localErr)
	}
	return fmt.Errorf("layer %d expert %d: %w (%s)", l.batch.Layer, p.expert, ErrNoReplica, detail)
}

// due makes the lane check again no later than at a time.
func (l *lane) due(at time.Duration) {
	if l.checkAt == 0 || at < l.checkAt {
		l.checkAt = at
	}
}

// newFlight returns an empty flight.
func (l *lane) newFlight() *flight {
	if n := len(l.idle); n > 0 {
		f := l.idle[n-1]
		l.idle = l.idle[:n-1]
		*f = flight{parts: f.parts[:0]}
		return f
	}
	return new(flight)
}
