package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"drover/placement"
)

// PlannerOptions says what to place and how patiently.
type PlannerOptions struct {
	// ID names this coordinator among those that may plan.
	ID string
	// Form is the form of the model's checkpoint, under which this coordinator says which
	// weights it serves: LearnModel. Empty says nothing.
	Form string
	// Layers, Experts and ReplicaBytes are the model's shape, as in placement.Input.
	Layers       []int
	Experts      int
	ReplicaBytes int64
	// Replicas is how many replicas of each expert to place. Zero means 1: the loss of a
	// node then stops its experts until others have loaded them.
	Replicas int
	// MinNodes is how many nodes the first plan waits for. Zero means 1.
	MinNodes int
	// Settle is how long the nodes must stay the same before a plan follows them, so
	// that ten nodes that join make one plan. An expert without a replica does not wait.
	// Zero means 200 ms.
	Settle time.Duration
	// LoadTimeout bounds how long nodes may take to load what a plan gives them; the slow
	// ones are then left out for as long. It is also the longest time for which a node that
	// says that it cannot load more is given no more. Zero means 15 min.
	LoadTimeout time.Duration
	// TTL is the lease of the election, and how long absences are not acted on after the
	// store was away. Zero means the Watcher's.
	TTL time.Duration
	// HistoryPlans is how many committed plans stay in the store. Zero means 16.
	HistoryPlans int
	// Spare, MaxReplicas, Tolerance, MinGain and MaxMoveBytes are those of placement.Input.
	Spare              float64
	MaxReplicas        int
	Tolerance, MinGain float64
	MaxMoveBytes       int64
	// RebalanceEvery is how often the elected planner looks at the load. Zero means 30 s.
	RebalanceEvery time.Duration
	// Measure returns what this coordinator measured; the planner adds up what all have
	// written to the store. It is called from a goroutine of the Planner and must return
	// soon. Nil means nothing.
	Measure func() Measured
	// Events reports what happens.
	Events PlannerEvents
}

// PlannerEvents are called from the Planner's goroutine and must return soon. Each may
// be nil.
type PlannerEvents struct {
	// Elected reports that this Planner plans, or no longer does.
	Elected func(elected bool)
	// Intended reports a new intent, Committed that it is in force.
	Intended  func(revision uint64, why placement.Explanation)
	Committed func(revision uint64)
	// Refused reports that no plan could be made.
	Refused func(err error)
	// Kept reports, once, that the plan stays although a layer is uneven: no moves would
	// gain enough.
	Kept func(why placement.Explanation)
	// LeftOut reports a node that did not load its replicas in time.
	LeftOut func(nodeID string)
	// Limited reports a node that says that it cannot load what a plan gives it, and why: for
	// so long it is given no more than it has.
	Limited func(nodeID, reason string, pause time.Duration)
}

// Planner takes part in the election and, while elected, makes the placement follow
// the nodes.
type Planner struct {
	opts    PlannerOptions
	watcher *Watcher
	store   Store
	session *session
	stop    context.CancelFunc
	running sync.WaitGroup

	// Only run touches the fields below.
	elected    bool
	generation int   // of the state that wrote belongs to
	wrote      int64 // store's revision after the last write
	nodes      []placement.Node
	nodesSince time.Time
	slow       uint64 // revision whose loading is timed; 0: none
	slowSince  time.Time
	leftOut    map[string]time.Time
	setbacks   map[string]setback // by node
	refused    string
	balance    balance
}

// StartPlanner starts a Planner beside a Watcher of the same store.
func StartPlanner(ctx context.Context, store Store, w *Watcher, opts PlannerOptions) (
	*Planner, error) {
	if err := opts.normalize(w); err != nil {
		return nil, err
	}
	p := &Planner{opts: opts, watcher: w, store: store, leftOut: map[string]time.Time{},
		setbacks: map[string]setback{}}
	p.session = newSession(store, w.opts.Scope, opts.TTL, func(error) {})
	ctx, p.stop = context.WithCancel(ctx)
	p.running.Go(func() { p.session.run(ctx) })
	p.running.Go(func() { p.run(ctx) })
	if opts.Form != "" {
		p.running.Go(func() { p.announce(ctx) })
	}
	if opts.Measure != nil {
		r := &reporter{p: p}
		p.running.Go(func() { r.run(ctx) })
	}
	return p, nil
}

func (o *PlannerOptions) normalize(w *Watcher) error {
	o.Replicas, o.MinNodes = max(o.Replicas, 1), max(o.MinNodes, 1)
	setDuration(&o.Settle, 200*time.Millisecond)
	setDuration(&o.LoadTimeout, 15*time.Minute)
	setDuration(&o.RebalanceEvery, 30*time.Second)
	setDuration(&o.TTL, w.opts.TTL)
	if o.HistoryPlans == 0 {
		o.HistoryPlans = 16
	}
	if err := checkName("planner id", o.ID); err != nil {
		return err
	}
	if o.Form != "" {
		if err := checkName("model form", o.Form); err != nil {
			return err
		}
	}
	switch {
	case len(o.Layers) == 0 || o.Experts <= 0 || o.ReplicaBytes <= 0:
		return fmt.Errorf("cluster: planner: %d layers of %d experts of %d bytes: nothing to place",
			len(o.Layers), o.Experts, o.ReplicaBytes)
	case o.Settle < 0 || o.LoadTimeout < 0 || o.TTL < minTTL:
		return fmt.Errorf("cluster: planner: settle %v, load timeout %v, lease time %v: want them"+
			" positive, the last at least %v", o.Settle, o.LoadTimeout, o.TTL, minTTL)
	case o.RebalanceEvery < time.Second:
		return fmt.Errorf("cluster: planner: a look at the load each %v, want at least 1s",
			o.RebalanceEvery)
	case o.HistoryPlans < 1 || o.HistoryPlans > 64:
		return fmt.Errorf("cluster: planner: a history of %d plans, want 1 to 64", o.HistoryPlans)
	}
	return nil
}

func setDuration(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Close leaves the election and returns when the Planner has stopped.
func (p *Planner) Close() {
	p.stop()
	p.running.Wait()
}

func (p *Planner) run(ctx context.Context) {
	for ctx.Err() == nil {
		changes := p.watcher.Changes()
		tenure := p.session.current()
		wait := p.step(ctx, tenure.lease, tenure.returned)
		timer := time.NewTimer(wait)
		select {
		case <-changes:
		case <-tenure.changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	p.setElected(false)
}

// step does what is to be done now and returns when to look again.
func (p *Planner) step(ctx context.Context, lease Lease, returned time.Time) time.Duration {
	s := p.watcher.state.Load()
	if s.generation != p.generation {
		p.generation, p.wrote = s.generation, 0
	}
	if lease == 0 || s.generation == 0 {
		p.setElected(false)
		return forever
	}
	if s.revision < p.wrote {
		return p.opts.TTL // the Watcher has yet to see what was written
	}
	me := fmt.Sprintf("%s/%x", p.opts.ID, uint64(lease))
	p.setElected(string(s.planner.Value) == me)
	if s.planner.Key == "" {
		key := p.watcher.opts.Scope.planner()
		return p.write(ctx, Write{If: []Cond{{Key: key}}, Put: []Put{{key, []byte(me), lease}}})
	}
	if !p.elected {
		return forever
	}
	now := time.Now()
	p.measure(ctx, now)
	d := p.decide(s, now, returned.Add(p.opts.TTL))
	if d.write == nil {
		return d.wait
	}
	wait := p.write(ctx, p.fenced(s, *d.write))
	if wait == forever && d.wrote != nil {
		d.wrote()
	}
	return wait
}

func (p *Planner) setElected(elected bool) {
	if p.elected != elected {
		p.elected, p.refused = elected, ""
		p.nodes, p.nodesSince, p.slow = nil, time.Time{}, 0
		p.balance = balance{}
		call1(p.opts.Events.Elected, elected)
	}
}

// fenced makes a write conditional on the election and on the records that it was
// decided from (C2).
func (p *Planner) fenced(s *state, w Write) Write {
	scope := p.watcher.opts.Scope
	w.If = append(w.If, Cond{s.planner.Key, s.planner.ModRevision},
		Cond{scope.plan(), s.planMod}, Cond{scope.intent(), s.intentMod},
		Cond{scope.quarantine(), s.quarantineMod})
	return w
}

// write writes, and returns forever if that was done: the Watcher will see it.
func (p *Planner) write(ctx context.Context, w Write) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	revision, err := p.store.Commit(ctx, w)
	switch {
	case err == nil:
		p.wrote = revision
		return forever
	case errors.Is(err, ErrConflict):
		return p.opts.TTL / 3 // somebody else wrote; the Watcher will see it
	}
	return retryDelay
}

// decision is one write, or a wait.
type decision struct {
	write *Write
	wrote func() // after the write
	wait  time.Duration
}

// decide says what the elected planner does next. Until calm, absences prove nothing (C4).
func (p *Planner) decide(s *state, now, calm time.Time) decision {
	nodes := p.eligible(s, now)
	loading := s.plan
	if intent := s.pending(); intent != nil && p.fits(intent) {
		loading = intent
	}
	missing, slow := p.unready(s, loading, nodes, now)
	patience := p.patience(loading, slow, now)
	if patience <= 0 {
		return decision{wait: 0} // without the slow ones
	}
	if loading != s.plan && len(missing) == 0 {
		if len(slow) == 0 {
			return p.commit(s, loading)
		}
		return decision{wait: patience}
	}
	if wait := calm.Sub(now); s.plan != nil && wait > 0 && p.absent(s, nodes) {
		return decision{wait: wait}
	}
	if s.plan != nil && s.planMod == 0 {
		record := s.plan.Encode()
		return decision{write: &Write{Put: []Put{{Key: p.watcher.opts.Scope.plan(), Value: record}}}}
	}
	if wait := p.settle(s, nodes, now); wait > 0 {
		return decision{wait: wait}
	}
	d := p.intend(s, nodes, now)
	d.wait = min(d.wait, patience)
	return d
}

// shrunk tells whether a node has less room than the committed plan takes there: it cannot
// load that, nor anything more, until a plan without it is in force.
func (p *Planner) shrunk(s *state, n placement.Node) bool {
	return s.plan != nil && p.fits(s.plan) &&
		int64(s.plan.Count(n.ID)) > n.CapacityBytes/p.opts.ReplicaBytes
}

// fits tells whether a plan places the experts of this model.
func (p *Planner) fits(plan *placement.Plan) bool {
	return plan.Experts == p.opts.Experts && slices.Equal(plan.Layers, p.opts.Layers)
}

// unready lists the nodes of a plan that are gone, or cannot load what it gives them, and
// those that have yet to load it.
func (p *Planner) unready(s *state, plan *placement.Plan, nodes []placement.Node,
	now time.Time) (missing, slow []string) {
	if plan == nil {
		return nil, nil
	}
	for _, id := range plan.NodeIDs {
		here := slices.ContainsFunc(nodes, func(n placement.Node) bool { return n.ID == id })
		if !here && (gives(s.plan, plan, id) || bares(s.plan, plan, nodes)) {
			missing = append(missing, id)
		} else if !here {
			continue // where there is no room yet, experts stay listed where they were
		} else if p.limited(s, id, now) && gives(s.plan, plan, id) {
			missing = append(missing, id)
		} else if s.nodes[id].Revision < plan.Revision || s.readyMod[id] == 0 {
			// What is only remembered from before the store was away is not enough: who died
			// meanwhile holds nothing.
			slow = append(slow, id)
		}
	}
	return missing, slow
}

// gives tells whether a change of plan gives a node anything that it had not.
func gives(old, next *placement.Plan, id string) bool {
	i, had := old.Index(id)
	return slices.ContainsFunc(next.Holds(id), func(r placement.Replica) bool {
		return !had || !slices.Contains(old.On(r.Layer, r.Expert), i)
	})
}

// bares tells whether a change of plan takes the last replica on any of the nodes from an
// expert.
func bares(old, next *placement.Plan, nodes []placement.Node) bool {
	here := make(map[string]placement.Node, len(nodes))
	for _, n := range nodes {
		here[n.ID] = n
	}
	before := placement.View{Plan: old, Nodes: here}
	after := placement.View{Plan: next, Nodes: here}
	bare := map[placement.Replica]bool{}
	for _, r := range before.Uncovered() {
		bare[r] = true
	}
	return slices.ContainsFunc(after.Uncovered(), func(r placement.Replica) bool { return !bare[r] })
}

// patience returns how long the slow nodes of a plan may go on loading. When it is used
// up they are left out for a while.
func (p *Planner) patience(plan *placement.Plan, slow []string, now time.Time) time.Duration {
	if len(slow) == 0 {
		p.slow = 0
		return forever
	}
	if p.slow != plan.Revision {
		p.slow, p.slowSince = plan.Revision, now
	}
	left := p.slowSince.Add(p.opts.LoadTimeout).Sub(now)
	if left <= 0 {
		for _, id := range slow {
			p.leftOut[id] = now.Add(p.opts.LoadTimeout)
			call1(p.opts.Events.LeftOut, id)
		}
		p.slow = 0
	}
	return left
}

// absent tells whether the plan, or its record, misses a node.
func (p *Planner) absent(s *state, nodes []placement.Node) bool {
	return s.planMod == 0 || slices.ContainsFunc(s.plan.NodeIDs, func(id string) bool {
		return !slices.ContainsFunc(nodes, func(n placement.Node) bool { return n.ID == id })
	})
}

// settle returns how long to wait for the nodes to stay as they are.
func (p *Planner) settle(s *state, nodes []placement.Node, now time.Time) time.Duration {
	if s.plan == nil && len(nodes) < p.opts.MinNodes {
		return forever
	}
	if s.plan != nil && len(nodes) > 0 {
		here := map[string]placement.Node{}
		for _, n := range nodes {
			here[n.ID] = n
		}
		v := placement.View{Plan: s.plan, Nodes: here}
		if len(v.Uncovered()) > 0 {
			return 0
		}
	}
	return p.nodesSince.Add(p.opts.Settle).Sub(now)
}

// intend decides the next plan and makes it the intent.
func (p *Planner) intend(s *state, nodes []placement.Node, now time.Time) decision {
	next, why, err := p.next(s, nodes, now)
	if err != nil {
		if err.Error() != p.refused {
			p.refused = err.Error()
			call1(p.opts.Events.Refused, err)
		}
		return decision{wait: p.nextReturn()}
	}
	p.refused = ""
	if next == s.plan {
		if s.pending() == nil {
			return decision{wait: min(p.nextReturn(), p.nextLook(now))}
		}
		// The intent is not wanted any more. The committed plan takes its place under a
		// new revision, since the intent's is used up (C3).
		same := *s.plan
		next = &same
	}
	next.Revision = s.lastRevision() + 1
	key := p.watcher.opts.Scope.intent()
	return decision{
		write: &Write{Put: []Put{{Key: key, Value: next.Encode()}}},
		wrote: func() {
			if f := p.opts.Events.Intended; f != nil {
				f(next.Revision, why)
			}
		},
	}
}

// nextReturn is when the next node that was left out, or is limited, may be used again.
func (p *Planner) nextReturn() time.Duration {
	wait := forever
	for id, until := range p.leftOut {
		if d := time.Until(until); d > 0 {
			wait = min(wait, d)
		} else {
			delete(p.leftOut, id)
		}
	}
	for _, b := range p.setbacks {
		if d := time.Until(b.until); d > 0 {
			wait = min(wait, d)
		}
	}
	return wait
}

// lastRevision is the largest revision that anybody is known to have used (C3).
func (s *state) lastRevision() uint64 {
	var last uint64
	if s.plan != nil {
		last = s.plan.Revision
	}
	if s.intent != nil {
		last = max(last, s.intent.Revision)
	}
	for _, n := range s.nodes {
		last = max(last, n.Revision)
	}
	return last
}

// commit puts an intent in force and into the history.
func (p *Planner) commit(s *state, intent *placement.Plan) decision {
	scope, record := p.watcher.opts.Scope, intent.Encode()
	w := &Write{If: p.grounds(s, intent), Put: []Put{{Key: scope.plan(), Value: record},
		{Key: scope.historyOf(intent.Revision), Value: record}}}
	if n := len(s.history) + 1 - p.opts.HistoryPlans; n > 0 {
		w.Delete = s.history[:min(n, 32)]
	}
	return decision{write: w, wrote: func() {
		call1(p.opts.Events.Committed, intent.Revision)
	}}
}
