package router

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"drover/tensor"
)

// Some frames are computed twice, by nodes that do not know of it, and the rows compared:
// by F1 they are the same bytes, so who differs computes wrongly, whatever checksums say.
// The rows of such a frame are used only after a verdict.

var (
	errQuarantined = errors.New("the node returned wrong numbers")
	errDisputed    = errors.New("nodes answer differently and there is no third opinion")
)

// checking is the state of a part that is computed twice.
type checking struct {
	opinions []opinion
	asked    []*node       // that were asked, also if they did not answer
	local    bool          // this machine is to be asked, or was
	since    time.Duration // nothing but this machine's opinion is waited for; 0: not yet
	// usual is the time of such a frame on the first link: one that takes far longer is
	// not asked for a mere check, since the rows wait for it.
	usual time.Duration
}

// opinion is what one node, or this machine, computed.
type opinion struct {
	by   *node // nil for this machine
	rows []float32
}

// hasAsked tells whether a node was asked for its opinion.
func (c *checking) hasAsked(n *node) bool { return c != nil && slices.Contains(c.asked, n) }

// slowCheck is how many times as long a node may take as the first, to be asked.
const slowCheck = 3

// sampled tells whether a frame is to be checked: pseudo-random, so that no layer and no
// node is always left out.
func (l *lane) sampled(frameID uint64) bool {
	x := frameID*0x9e3779b97f4a7c15 + uint64(l.index)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return float64(x>>11)/(1<<53) < l.router.opts.CheckFraction
}

// startCheck makes the parts of a frame that was sent be checked.
func (l *lane) startCheck(f *flight) {
	usual := f.session.link.state.expected(work(f.experts, f.rows))
	for _, i := range f.parts {
		if p := &l.parts[i]; p.check == nil {
			p.check = &checking{asked: []*node{f.session.link.node}, usual: usual}
			l.toCheck = append(l.toCheck, i)
		}
	}
}

// askOthers sends the parts that are to be checked to others, who were not asked yet: to
// other replicas or, where there are none, to this machine. Parts for which there is
// nobody are not checked.
func (l *lane) askOthers(now time.Duration) {
	if len(l.toCheck) == 0 {
		return
	}
	l.beginChoice()
	for _, i := range l.toCheck {
		p := &l.parts[i]
		l.offer(i, now, func(k *link) bool { return !p.check.mayAsk(k) })
	}
	l.choose()
	again := l.toCheck[:0]
	for _, i := range l.toCheck {
		p := &l.parts[i]
		switch {
		case p.target != nil:
			p.check.asked = append(p.check.asked, p.target.node)
		case l.canAskLocal(p):
			p.check.local = true
		case len(p.check.opinions) < 2:
			l.endCheck(p)
		case l.mayComeBack(p, now):
			again = append(again, i)
		default:
			l.disputed(p)
		}
	}
	l.toCheck = again
	l.sendChosen(now, purposeCheck)
}

// mayAsk tells whether a node is to be asked for its opinion: not twice, and none that is
// stuck or slow for a mere check; in a dispute everybody who has not yet answered.
func (c *checking) mayAsk(k *link) bool {
	if len(c.opinions) < 2 {
		least := k.router.opts.FrameTimeout / 32 // below it is no matter
		slow := c.usual > 0 && k.state.expected(1) > max(slowCheck*c.usual, least)
		return k.state.hopelessSince() == 0 && !slow && !c.hasAsked(k.node)
	}
	return !c.heard(k.node)
}

// heard tells whether the opinion of a node is there, or with nil this machine's.
func (c *checking) heard(n *node) bool {
	return slices.ContainsFunc(c.opinions, func(o opinion) bool { return o.by == n })
}

// mayComeBack tells whether a dispute may still be settled by a replica that cannot be
// asked just now, and makes sure that it is tried again.
func (l *lane) mayComeBack(p *part, now time.Duration) bool {
	if p.failedAt == 0 {
		p.failedAt, p.lastReason = now, errDisputed
	}
	if now >= p.failedAt+l.router.opts.FailAfter {
		return false
	}
	for _, i := range l.table.replicas(l.pos, int(p.expert)) {
		if n := l.table.nodes[i]; n != nil && !n.quarantined.Load() && !p.check.heard(n) {
			l.due(now + maxRetryDelay)
			return true
		}
	}
	return false
}

// checksAll tells whether rows wait for a second opinion however long that takes: all of them
// are to be checked, and this machine can.
func (l *lane) checksAll() bool {
	return l.router.opts.CheckFraction >= 1 && l.router.opts.Local != nil
}

// canAskLocal tells whether this machine may be asked for an opinion: always to settle a
// dispute or where all is checked, else where that does not take long, since rows wait for it.
func (l *lane) canAskLocal(p *part) bool {
	if l.router.opts.Local == nil || p.check.local || p.localErr != nil {
		return false
	}
	return len(p.check.opinions) > 1 || l.checksAll() ||
		l.local.usual.at(1) < float64(l.router.opts.FrameTimeout/4)
}

// endCheck uses the only opinion of a part, if there is one, since nobody can be asked for
// another.
func (l *lane) endCheck(p *part) {
	c := p.check
	p.check = nil
	if len(c.opinions) > 0 {
		l.useRows(p, c.opinions[0].rows, c.opinions[0].by)
	}
}

// useRows writes a part's rows to the batch.
func (l *lane) useRows(p *part, rows []float32, by *node) {
	copy(l.batch.Y.Slice(p.first, p.first+p.rows).Data, rows)
	p.by = by
	l.finishPart(p)
}

// hear takes an opinion on a part and judges if it can.
func (l *lane) hear(index int, by *node, rows tensor.Rows) {
	p := &l.parts[index]
	if p.check.heard(by) {
		return
	}
	p.check.opinions = append(p.check.opinions, opinion{by, slices.Clone(rows.Data)})
	l.judge(index)
}

// judge decides which rows of a part are right: this machine's, else what two agree on. If
// it cannot, others are asked.
func (l *lane) judge(index int) {
	p := &l.parts[index]
	right := -1
	for i, o := range p.check.opinions {
		if o.by == nil {
			right = i
			break
		}
		for _, other := range p.check.opinions[:i] {
			if sameRows(o.rows, other.rows) {
				right = i
			}
		}
	}
	switch {
	case len(p.check.opinions) > 1 && right >= 0:
	case len(p.check.opinions) == 1 && p.late:
		l.hearNobody(p)
		return
	default:
		l.toCheckAgain(index)
		return
	}
	c := p.check
	p.check = nil
	l.router.stats.checked.Add(1)
	l.useRows(p, c.opinions[right].rows, c.opinions[right].by)
	for _, o := range c.opinions {
		if o.by != nil && !sameRows(o.rows, c.opinions[right].rows) {
			l.router.stats.mismatches.Add(1)
			l.convict(o.by, int(p.expert), c.agree(right))
		}
	}
}

// hearNobody acts on a part of which one opinion is there and from other nodes nothing is heard
// any more: that opinion is used, unless this machine is to have one in any case.
func (l *lane) hearNobody(p *part) {
	switch {
	case !l.checksAll():
		l.endCheck(p)
	case l.canAskLocal(p):
		p.check.local = true
	case !l.awaitsLocal(p):
		l.endCheck(p)
	}
}

// awaitsLocal tells whether this machine's opinion is on its way.
func (l *lane) awaitsLocal(p *part) bool {
	return p.local || p.check.local && p.localErr == nil && !p.check.heard(nil)
}

// agree tells whether somebody else has the same opinion as one.
func (c *checking) agree(one int) bool {
	for i, o := range c.opinions {
		if i != one && sameRows(o.rows, c.opinions[one].rows) {
			return true
		}
	}
	return false
}

// toCheckAgain asks somebody else about a part, unless an opinion is on its way.
func (l *lane) toCheckAgain(index int) {
	p := &l.parts[index]
	if p.inFlight == 0 && !l.awaitsLocal(p) && !slices.Contains(l.toCheck, index) {
		l.toCheck = append(l.toCheck, index)
	}
}

func sameRows(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool {
		return math.Float32bits(x) == math.Float32bits(y)
	})
}

// convict stops the use of a node, and of what it computed for this batch.
func (l *lane) convict(n *node, expert int, agreed bool) {
	if l.router.quarantine(n) {
		if e := l.router.opts.Events.Quarantined; e != nil {
			e(Verdict{n.id, n.epoch, l.batch.Layer, expert, agreed})
		}
	}
	for i := range l.parts {
		p := &l.parts[i]
		if p.done && p.by == n {
			p.done = false
			l.remaining++
			if p.inFlight == 0 {
				l.waiting++
			}
		}
	}
}

// disputed gives up a part on which nobody can decide.
func (l *lane) disputed(p *part) {
	l.router.stats.mismatches.Add(1)
	l.router.stats.disputes.Add(1)
	var ids []string
	for _, o := range p.check.opinions {
		ids = append(ids, o.by.id)
	}
	if e := l.router.opts.Events.Disputed; e != nil {
		e(ids, l.batch.Layer, int(p.expert))
	}
	l.failure = fmt.Errorf("layer %d expert %d: %w (%v: %w)", l.batch.Layer, p.expert,
		ErrNoReplica, ids, errDisputed)
}

// checkIdle goes on with checks whose frames failed: others are asked, or the only
// opinion is used.
func (l *lane) checkIdle() {
	for i := range l.parts {
		p := &l.parts[i]
		if p.check == nil || p.done || len(p.check.opinions) == 0 {
			continue
		}
		if p.inFlight == 0 && l.awaitsLocal(p) {
			l.boundVerdict(p)
			continue
		}
		l.toCheckAgain(i)
	}
}

// boundVerdict ends the wait for this machine's opinion, all that a part waits for, after
// FailAfter: as if this machine could not compute it.
func (l *lane) boundVerdict(p *part) {
	now := l.now()
	if p.check.since == 0 {
		p.check.since = now
	}
	deadline := p.check.since + l.router.opts.FailAfter
	switch {
	case now < deadline:
		l.due(deadline)
	case len(p.check.opinions) == 1:
		l.endCheck(p)
	default:
		l.disputed(p)
	}
}

// checkLate gives up waiting for the other opinions on the parts of a late flight for
// which nobody else can be asked, except this machine.
func (l *lane) checkLate(f *flight) {
	for _, i := range f.parts {
		p := &l.parts[i]
		switch {
		case p.done || p.check == nil || len(p.check.opinions) == 0:
		case l.canAskLocal(p):
			p.check.local = true
		case len(p.check.opinions) == 1 && !l.awaitsLocal(p):
			l.endCheck(p)
		}
	}
}

// quarantine stops the use of a node until it has another epoch, and tells whether that is
// new.
func (r *Router) quarantine(n *node) bool {
	if n.quarantined.Swap(true) {
		return false
	}
	r.stats.quarantined.Add(1)
	r.mu.Lock()
	r.convicted[n.id] = n.epoch
	r.mu.Unlock()
	return true
}

// Quarantined tells whether a node returned wrong numbers in its present life and is not
// used any more.
func (r *Router) Quarantined(nodeID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.nodes[nodeID]
	return n != nil && n.quarantined.Load()
}
