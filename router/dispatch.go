package router

import (
	"errors"
	"fmt"
	"slices"
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
	l.checkIdle()
	if l.failure != nil {
		return l.failure
	}
	if l.waiting == 0 && len(l.toCheck) == 0 {
		l.resort(l.now()) // of what is in flight and late
		return nil
	}
	l.pos, l.known = l.table.layer(l.batch.Layer)
	now := l.now()
	l.beginChoice()
	for i := range l.parts {
		p := &l.parts[i]
		if p.idle() && l.known {
			l.offer(i, now, nil)
		}
	}
	l.choose()
	l.sendChosen(now, purposeFirst)
	l.askOthers(now)
	if l.failure != nil {
		return l.failure
	}
	if l.known {
		l.probe(now)
	}
	if err := l.giveUp(now); err != nil {
		return err
	}
	l.resort(now)
	return nil
}

// idle tells whether a part is neither answered nor in flight nor waits for a verdict.
func (p *part) idle() bool {
	return !p.done && p.inFlight == 0 && (p.check == nil || len(p.check.opinions) == 0)
}

// beginChoice forgets what was chosen and takes what is known of the links.
func (l *lane) beginChoice() {
	for i := range l.parts {
		l.parts[i].target = nil
	}
	l.chosen = l.chosen[:0]
	l.plan.reset(len(l.table.nodes))
	base, each, known := 0., 1., false // for new links: as the best of the others
	for _, n := range l.table.nodes {
		if n == nil {
			continue
		}
		k := n.links[l.index]
		k.assigned = 0
		if s := k.session.Load(); s != nil && s.number != k.stateOf {
			k.stateOf = s.number
			k.state.renewed()
		}
		if u := &k.state.usual; u.n > 0 && (!known || u.at(1) < base+each) {
			base, each, known = u.at(0), u.slope(), true
		}
	}
	for i, n := range l.table.nodes {
		if n == nil {
			continue
		}
		to := &l.plan.nodes[i]
		to.base, to.each = base, each
		if u := &n.links[l.index].state.usual; u.n > 0 {
			to.base, to.each = u.at(0), u.slope()
		}
	}
	for _, f := range l.flights {
		if i := slices.Index(l.table.nodes, f.session.link.node); i >= 0 {
			l.plan.nodes[i].base += l.plan.nodes[i].each * float64(work(f.experts, f.rows))
		}
	}
}

// offer finds the links that a part may go to: connected ones, and of these the ones that
// are not suspected and not the one that just failed, if there are some. Links in without
// are excluded. Equally good ones are taken in an order that differs from expert to
// expert, so that no node takes all of a small batch.
func (l *lane) offer(index int, now time.Duration, without func(*link) bool) {
	p := &l.parts[index]
	on := l.table.replicas(l.pos, int(p.expert))
	first := spread(l.pos, int(p.expert))
	best, count := noClass, 0
	for pass := range 2 {
		for j := range on {
			at := int(on[(first+j)%len(on)])
			class := l.class(p, l.table.nodes[at], now)
			if class == noClass || without != nil && without(l.table.nodes[at].links[l.index]) {
				continue
			}
			switch {
			case pass == 0:
				best = min(best, class)
			case class != best:
			default:
				if count++; count == 1 {
					l.plan.item(1 + float64(p.rows)/8)
					l.chosen = append(l.chosen, index)
				}
				l.plan.option(at)
			}
		}
	}
}

// noClass is the class of links that cannot be used.
const noClass = 1 << 10

// class says how good it is to send a part to a node; less is better.
func (l *lane) class(p *part, n *node, now time.Duration) int {
	if n == nil || n.quarantined.Load() {
		return noClass
	}
	k := n.links[l.index]
	if k.session.Load() == nil || now < p.notBefore && (n == p.avoid || p.attempts > 2) {
		return noClass
	}
	if l.router.opts.Local != nil && (k.state.hopelessSince() > 0 || l.table.unready[n.id]) {
		return noClass // this machine is better, and what waits there tells when it is well
	}
	class := 0
	if l.table.unready[n.id] {
		class += 4
	}
	if k.state.suspect || l.table.suspect[n.id] {
		class += 2
	}
	if n == p.avoid {
		class++
	}
	return class
}

// choose sets the targets of the parts that were offered, so that the node that finishes
// last finishes early.
func (l *lane) choose() {
	random := l.router.opts.pick
	if random == nil {
		l.plan.solve()
	}
	for n, i := range l.chosen {
		item := &l.plan.items[n]
		if random != nil {
			options := l.plan.options[item.first:item.last]
			item.on = options[random(len(options))]
		}
		k := l.table.nodes[item.on].links[l.index]
		k.assigned++
		l.parts[i].target = k
	}
}

// sendChosen sends the parts that have a target.
func (l *lane) sendChosen(now time.Duration, why purpose) (rows int) {
	for _, n := range l.table.nodes {
		if n != nil {
			rows += l.sendParts(n.links[l.index], now, why)
		}
	}
	return rows
}

// spread hashes a layer's position and an expert (Knuth's multiplicative hash).
func spread(layer, expert int) int {
	return int(uint32(layer<<16|expert) * 2654435761 >> 16)
}

// probe sends a copy of some work to a link that could have been used again and again and
// was not, since others are preferred: that way it is seen when it is well again.
func (l *lane) probe(now time.Duration) {
	for at, n := range l.table.nodes {
		if n == nil || n.quarantined.Load() || l.table.unready[n.id] {
			continue
		}
		k := n.links[l.index]
		s := k.session.Load()
		if k.assigned > 0 || k.state.hopelessSince() > 0 || s == nil || l.expects(s) {
			continue
		}
		least := l.smallest(at)
		if least < 0 || !k.state.passedOver() || !l.extra.spend(l.parts[least].rows) {
			continue
		}
		l.beginChoice()
		l.parts[least].target, k.assigned = k, 1
		l.sendParts(k, now, purposeProbe)
		return
	}
}

// smallest is the part with the fewest rows that is in flight and that a node holds too, or -1.
func (l *lane) smallest(node int) int {
	least := -1
	for i := range l.parts {
		p := &l.parts[i]
		if p.done || p.inFlight == 0 || least >= 0 && p.rows >= l.parts[least].rows {
			continue
		}
		if slices.Contains(l.table.replicas(l.pos, int(p.expert)), uint16(node)) {
			least = i
		}
	}
	return least
}

// purpose says what a frame is sent for.
type purpose uint8

const (
	purposeFirst  purpose = iota // its parts are in flight nowhere else
	purposeHedge                 // they wait elsewhere for too long
	purposeProbe                 // to learn about the link
	purposeCheck                 // to compare what nodes return
	purposeRepeat                // they may be lost on the way
)

// sendParts sends the parts chosen for a link, in as few frames as their bound and
// the link's credit allow, and returns the rows sent.
func (l *lane) sendParts(k *link, now time.Duration, why purpose) (rows int) {
	if k.assigned == 0 {
		return 0
	}
	s := k.session.Load()
	f := l.newFlight(why)
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
			rows += l.send(f, s, now)
			f = l.newFlight(why)
		}
		f.parts = append(f.parts, i)
		f.rows += p.rows
	}
	if len(f.parts) > 0 {
		return rows + l.send(f, s, now)
	}
	l.idle = append(l.idle, f)
	return rows
}

// send encodes one frame and hands it to the link. Without credit it does nothing:
// the parts stay where they are until an answer gives some back. It returns the rows sent.
func (l *lane) send(f *flight, s *session, now time.Duration) int {
	r := l.router
	f.bytes = int64(f.rows * r.rowBytes)
	if s.creditBytes.Load()+f.bytes > s.creditLimit || s.flights >= wire.MaxStreamFrames {
		l.blocked(f, s, now)
		l.idle = append(l.idle, f)
		return 0
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
		return 0
	}
	s.creditBytes.Add(f.bytes)
	s.flights++
	for _, i := range f.parts {
		if l.parts[i].inFlight == 0 {
			l.waiting--
		}
		l.parts[i].inFlight++
		l.parts[i].late = false
	}
	f.sent, f.pingAt = now, 0
	f.hedgeAt = now + l.hedgeAfter(s.link, work(f.experts, f.rows))
	f.checkAt = now + r.opts.FrameTimeout/4
	l.due(min(f.checkAt, f.hedgeAt))
	l.flights = append(l.flights, f)
	l.count(f)
	if f.why == purposeFirst && l.sampled(f.id) {
		l.startCheck(f)
	}
	return f.rows
}

// count counts a frame that was sent.
func (l *lane) count(f *flight) {
	c := &l.router.stats
	rows := uint64(f.rows)
	f.session.link.node.work.sent.Add(uint64(f.bytes))
	switch f.why {
	case purposeFirst:
		c.rows.Add(rows)
		l.extra.earn(f.rows, l.router.opts.HedgeFraction)
	case purposeHedge, purposeRepeat:
		c.hedges.Add(1)
		c.hedgedRows.Add(rows)
	case purposeProbe:
		c.probedRows.Add(rows)
	case purposeCheck:
		c.checkedRows.Add(rows)
	}
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
			p.lastReason = fmt.Errorf("%d bytes of rows unanswered, the credit",
				s.creditBytes.Load())
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

// giveUp sets when to look again at parts that could not be sent, and returns an error if
// one of them has been without a replica for too long, also while this machine is about it.
func (l *lane) giveUp(now time.Duration) error {
	if l.waiting == 0 {
		return nil
	}
	for i := range l.parts {
		p := &l.parts[i]
		if !p.idle() {
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
		if p.notBefore > now && !p.local {
			next = min(next, p.notBefore)
		}
		l.due(next)
	}
	return nil
}

// hasLive tells whether any replica of the part has a connected link.
func (l *lane) hasLive(p *part) bool {
	for _, i := range l.table.replicas(l.pos, int(p.expert)) {
		n := l.table.nodes[i]
		if n != nil && !n.quarantined.Load() && n.links[l.index].session.Load() != nil &&
			(l.router.opts.Local == nil || n.links[l.index].state.hopelessSince() == 0 &&
				!l.table.unready[n.id]) {
			return true
		}
	}
	return false
}

// noReplica is the error for a part that nobody computed.
func (l *lane) noReplica(p *part) error {
	detail, none := l.table.noPlan()
	if none {
		return fmt.Errorf("layer %d expert %d: %w (%s)", l.batch.Layer, p.expert, ErrNoReplica, detail)
	}
	if !l.known {
		detail = fmt.Sprintf("placement revision %d has no such layer", l.table.plan.Revision)
	} else {
		detail = l.table.reasons(l.pos, int(p.expert), l.index)
	}
	if p.lastNode != nil && !strings.Contains(detail, p.lastReason.Error()) {
		detail = fmt.Sprintf("%s; last answer, of node %s: %v", detail, p.lastNode.id, p.lastReason)
	}
	switch {
	case p.localErr != nil:
		detail = fmt.Sprintf("%s; on this machine: %v", detail, p.localErr)
	case p.local:
		detail = fmt.Sprintf("%s; on this machine: not loaded and computed within %v, loading goes on",
			detail, l.router.opts.FailAfter)
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
func (l *lane) newFlight(why purpose) *flight {
	if n := len(l.idle); n > 0 {
		f := l.idle[n-1]
		l.idle = l.idle[:n-1]
		*f = flight{parts: f.parts[:0], why: why}
		return f
	}
	return &flight{why: why}
}
