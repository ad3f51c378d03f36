package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"drover/placement"
)

// WatcherOptions says what a coordinator takes part in and which nodes it can use.
type WatcherOptions struct {
	Scope Scope
	// NumericMode must be that of a node for the node to be used: other modes give other
	// bytes. Empty accepts any.
	NumericMode string
	// KernelClass is the same for the nodes' kernel class. Empty accepts any.
	KernelClass string
	// Form is the form of the coordinator's checkpoint: it says whether a node with another
	// model has other weights only. Empty says nothing.
	Form string
	// TTL is how long nodes that vanished while the store was away count as registered
	// after its return. Zero means DefaultTTL; it should be no less than the nodes' lease.
	TTL time.Duration
	// Events reports what happens.
	Events WatcherEvents
}

// WatcherEvents are called from the Watcher's goroutine and must return soon. Each may
// be nil.
type WatcherEvents struct {
	// NodeJoined reports a registered node; reason says why it is not used, if so.
	NodeJoined func(node placement.Node, reason string)
	// NodeDraining reports that a node is to be emptied, or no longer.
	NodeDraining func(node placement.Node, draining bool)
	// NodeLost reports a node whose registration ended.
	NodeLost func(node placement.Node)
	// Committed reports the committed plan.
	Committed func(plan *placement.Plan)
	// StoreAway reports that the store does not answer; with nil, that it does again.
	StoreAway func(err error)
	// BadRecord reports a record that was ignored.
	BadRecord func(key string, err error)
}

// NodeState is a registered node, or one that the plan still uses.
type NodeState struct {
	placement.Node
	NumericMode string
	// Registered is false for a node of the plan that is not there.
	Registered bool
	// Reason says why the node is not used; empty if it is.
	Reason string
	// Quarantined says that the reason is a quarantine of its present life.
	Quarantined bool
	// Unable is set if the node said that it could not load what a plan gives it.
	Unable Unable
	// Revision is the placement revision that the node has loaded and tested.
	Revision uint64
	// Loading says that the node has yet to load the committed plan, or, where it holds
	// nothing by that, the intent.
	Loading bool
}

// state is what a Watcher knows. It is never edited once published.
type state struct {
	revision            int64 // of the store
	generation          int   // counts how often the state was read anew; 0: never
	plan, intent        *placement.Plan
	planMod, intentMod  int64 // 0: not in the store
	planner             Entry
	quarantines         []Quarantine
	quarantineMod       int64 // 0: not in the store
	nodes               map[string]NodeState
	ended               map[string]NodeState // of the plan, not registered any more
	readyMod            map[string]int64     // by node, of ready records that are in the store
	history             []string             // keys, ascending
	planSeen, intentRaw string               // records from which plan and intent were read
	bad                 map[string]error     // by key: records that were ignored
}

// pending returns the intent that waits to be committed, or nil.
func (s *state) pending() *placement.Plan {
	if s.intent == nil || s.plan != nil && s.intent.Revision <= s.plan.Revision {
		return nil
	}
	return s.intent
}

// loading tells whether a node has yet to load what it is to serve first.
func (s *state) loading(n NodeState) bool {
	if s.plan == nil || n.Revision < s.plan.Revision {
		return true
	}
	if _, holds := s.plan.Index(n.ID); holds {
		return false
	}
	_, will := s.pending().Index(n.ID)
	return will && n.Revision < s.pending().Revision
}

// usable lists the nodes that may hold replicas, by ID.
func (s *state) usable() []placement.Node {
	var nodes []placement.Node
	for _, id := range slices.Sorted(maps.Keys(s.nodes)) {
		if n := s.nodes[id]; n.Reason == "" {
			nodes = append(nodes, n.Node)
		}
	}
	return nodes
}

// life is one life of a node.
type life struct {
	id    string
	epoch uint64
}

// Watcher keeps a coordinator's View of the cluster up to date.
type Watcher struct {
	opts    WatcherOptions
	stop    context.CancelFunc
	stopped chan struct{}
	view    atomic.Pointer[placement.View]
	state   atomic.Pointer[state]

	mu       sync.Mutex // guards the fields below
	entries  map[string]Entry
	revision int64
	contact  contact
	doubt    time.Time        // until then, absence proves nothing
	vanished map[string]Entry // what nodes last wrote and is not there any more
	timer    *time.Timer      // ends the doubt; nil: none waits for that
	suspect  map[life]bool
	changed  chan struct{}
}

// Watch starts a Watcher. It returns at once; the View is empty until the store answers.
func Watch(ctx context.Context, store Store, opts WatcherOptions) (*Watcher, error) {
	opts.Scope.setDefaults()
	if err := opts.Scope.validate(); err != nil {
		return nil, err
	}
	if opts.TTL == 0 {
		opts.TTL = DefaultTTL
	}
	if opts.TTL < minTTL {
		return nil, fmt.Errorf("cluster: lease time %v, at least %v", opts.TTL, minTTL)
	}
	ctx, stop := context.WithCancel(ctx)
	w := &Watcher{opts: opts, stop: stop, stopped: make(chan struct{}),
		contact: contact{patience: opts.TTL / 2}, vanished: map[string]Entry{},
		suspect: map[life]bool{}, changed: make(chan struct{})}
	w.state.Store(&state{})
	w.view.Store(&placement.View{Plan: &placement.Plan{}, Nodes: map[string]placement.Node{}})
	f := &follower{store: store, scope: opts.Scope, prefix: opts.Scope.prefix(),
		apply: w.apply, away: w.storeAway, probeEvery: opts.TTL / 6, answered: w.answered}
	go func() {
		defer close(w.stopped)
		f.run(ctx)
	}()
	return w, nil
}

// Close stops the Watcher; the last View stays readable.
func (w *Watcher) Close() {
	w.stop()
	<-w.stopped
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}

// View returns the present View. It is never nil, and neither is its plan.
func (w *Watcher) View() *placement.View { return w.view.Load() }

// Changes returns a channel that is closed when View or Nodes change next. Take it
// before the View that it is to follow.
func (w *Watcher) Changes() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Nodes lists the registered nodes, used or not, and those that the plan misses, by ID.
func (w *Watcher) Nodes() []NodeState {
	s := w.state.Load()
	var nodes []NodeState
	for _, n := range s.nodes {
		n.Loading = s.loading(n)
		nodes = append(nodes, n)
	}
	if s.plan != nil {
		for _, id := range s.plan.NodeIDs {
			if _, ok := s.nodes[id]; !ok {
				nodes = append(nodes, NodeState{Node: placement.Node{ID: id}})
			}
		}
	}
	slices.SortFunc(nodes, func(a, b NodeState) int { return strings.Compare(a.ID, b.ID) })
	return nodes
}

// SetSuspect notes a hint about one life of a node: it seems to be dead, or alive
// again. A hint about an earlier life says nothing of the present one.
func (w *Watcher) SetSuspect(nodeID string, epoch uint64, suspect bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := life{nodeID, epoch}
	if w.suspect[l] == suspect {
		return
	}
	if suspect {
		w.suspect[l] = true
	} else {
		delete(w.suspect, l)
	}
	w.publish(w.state.Load())
}

func (w *Watcher) storeAway(err error) {
	if f := w.opts.Events.StoreAway; f != nil {
		f(err)
	}
}

func (w *Watcher) answered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.contact.answered(time.Now())
}

// apply takes over a new copy of the store's entries.
func (w *Watcher) apply(entries map[string]Entry, revision int64, fresh bool) {
	w.mu.Lock()
	old, now := w.state.Load(), time.Now()
	for key, e := range w.entries {
		if _, ok := entries[key]; !ok && w.isNodes(key) {
			w.vanished[key] = e
		}
	}
	if fresh && old.generation > 0 {
		w.doubt = now.Add(w.opts.TTL) // a break of unknown length
	}
	w.entries, w.revision = entries, revision
	w.rebuild(old, now, fresh) // it unlocks
}

// rebuild makes the state of what is known now. The caller holds mu, which it gives back.
func (w *Watcher) rebuild(old *state, now time.Time, fresh bool) {
	if d := w.contact.doubt(now, w.opts.TTL); d.After(w.doubt) {
		w.doubt = d
	}
	next := w.build(old, fresh, now.Before(w.doubt))
	w.publish(next)
	if len(w.vanished) > 0 && now.Before(w.doubt) && w.timer == nil {
		w.timer = time.AfterFunc(w.doubt.Sub(now), w.endDoubt)
	}
	w.mu.Unlock()
	w.report(old, next)
}

func (w *Watcher) endDoubt() {
	w.mu.Lock()
	w.timer = nil
	w.rebuild(w.state.Load(), time.Now(), false)
}

// isNodes tells whether a key is one that nodes write under their lease.
func (w *Watcher) isNodes(key string) bool {
	return strings.HasPrefix(key, w.opts.Scope.nodes()) ||
		strings.HasPrefix(key, w.opts.Scope.ready())
}

// publish makes a state and its View visible. A node of the plan whose registration has
// ended stays in the View, suspect: only that the store says so, and not that it is
// dead, is known. The caller holds mu.
func (w *Watcher) publish(s *state) {
	v := &placement.View{Plan: s.plan, Nodes: map[string]placement.Node{},
		Suspect: map[string]bool{}, Unready: map[string]bool{}}
	if v.Plan == nil {
		v.Plan = &placement.Plan{}
	}
	for id, n := range s.ended {
		if n.Reason == "" {
			v.Nodes[id], v.Suspect[id] = n.Node, true
		}
	}
	for id, n := range s.nodes {
		if n.Reason == "" {
			v.Nodes[id] = n.Node
		}
		if _, planned := s.plan.Index(id); planned && n.Revision == 0 {
			v.Unready[id] = true
		}
		if w.suspect[life{id, n.Epoch}] {
			v.Suspect[id] = true
		}
	}
	maps.DeleteFunc(w.suspect, func(l life, _ bool) bool { return s.nodes[l.id].Epoch > l.epoch })
	w.state.Store(s)
	w.view.Store(v)
	close(w.changed)
	w.changed = make(chan struct{})
}

// build reads the entries. What is missing of the plan stays as it was, and while there
// is doubt, nodes that vanished count as registered (C4).
func (w *Watcher) build(old *state, fresh, doubt bool) *state {
	scope := w.opts.Scope
	s := &state{revision: w.revision, generation: old.generation,
		plan: old.plan, planSeen: old.planSeen, intent: old.intent, intentRaw: old.intentRaw,
		planner: w.entries[scope.planner()], nodes: map[string]NodeState{},
		ended: map[string]NodeState{}, readyMod: map[string]int64{}, bad: map[string]error{}}
	if fresh {
		s.generation++
	}
	s.planMod = w.entries[scope.plan()].ModRevision
	s.intentMod = w.entries[scope.intent()].ModRevision
	if s.intentMod == 0 {
		s.intent, s.intentRaw = nil, ""
	}
	if e, ok := w.entries[scope.quarantine()]; ok {
		s.quarantineMod = e.ModRevision
		var err error
		if s.quarantines, err = decodeQuarantines(e.Value); err != nil {
			s.bad[e.Key] = err
		}
	}
	w.readPlan(s, scope.plan(), &s.plan, &s.planSeen)
	w.readPlan(s, scope.intent(), &s.intent, &s.intentRaw)
	w.buildVanished(s, doubt)
	for key, e := range w.entries {
		if id, ok := strings.CutPrefix(key, scope.nodes()); ok {
			w.readNode(s, s.nodes, id, e)
		} else if id, ok := strings.CutPrefix(key, scope.ready()); ok {
			s.readyMod[id] = e.ModRevision
		} else if strings.HasPrefix(key, scope.history()) {
			s.history = append(s.history, key)
		}
	}
	slices.Sort(s.history)
	return s
}

// readPlan decodes a plan if its record is new.
func (w *Watcher) readPlan(s *state, key string, plan **placement.Plan, seen *string) {
	e, ok := w.entries[key]
	if !ok || string(e.Value) == *seen {
		return
	}
	p, err := placement.Decode(e.Value)
	if err != nil {
		s.bad[key] = err
		return
	}
	*plan, *seen = p, string(e.Value)
}

// buildVanished reads what vanished, and forgets what came back or is of no use any more.
func (w *Watcher) buildVanished(s *state, doubt bool) {
	scope := w.opts.Scope
	for key, e := range w.vanished {
		if _, back := w.entries[key]; back {
			delete(w.vanished, key)
			continue
		}
		id, ok := strings.CutPrefix(key, scope.nodes())
		if _, planned := s.plan.Index(id); !ok {
			continue // it goes with its node
		} else if doubt {
			w.readNode(s, s.nodes, id, e)
		} else if planned {
			w.readNode(s, s.ended, id, e)
		} else {
			delete(w.vanished, key)
			delete(w.vanished, scope.ready()+id)
		}
	}
}

// readNode reads the record of a node, and what it is ready for, into one of s's maps.
func (w *Watcher) readNode(s *state, into map[string]NodeState, id string, e Entry) {
	r, err := decodeNode(e.Value)
	if err == nil {
		err = checkName("node id", id)
	}
	if err != nil {
		s.bad[e.Key] = err
		return
	}
	n := NodeState{Node: r.node(id), NumericMode: r.NumericMode, Registered: true,
		Reason: w.mismatch(r), Unable: r.Unable}
	for _, q := range s.quarantines {
		if q.InForce && n.Reason == "" && q.NodeID == id && q.Epoch == n.Epoch {
			n.Reason, n.Quarantined = q.reason(), true
		}
	}
	if _, ok := w.entries[w.opts.Scope.drain()+id]; ok {
		n.Draining = true
	}
	key := w.opts.Scope.ready() + id
	e, ok := w.entries[key]
	if !ok {
		e, ok = w.vanished[key]
	}
	if ok {
		var ready readyRecord
		if err := decodeJSON(e.Value, &ready); err != nil {
			s.bad[e.Key] = err
		} else if ready.Epoch == r.Epoch {
			n.Revision = ready.Revision
		}
	}
	into[id] = n
}

// mismatch says why a node cannot be used.
func (w *Watcher) mismatch(r nodeRecord) string {
	if form := w.opts.Form; form != "" && r.ModelForm == form && r.ModelDigest != w.opts.Scope.Model {
		return fmt.Sprintf("it has other weights of the same configuration, another training or"+
			" damaged files: its model is %q, the coordinator's %q; give both the same files",
			r.ModelDigest, w.opts.Scope.Model)
	}
	for _, f := range []struct{ what, got, want string }{
		{"model", r.ModelDigest, w.opts.Scope.Model},
		{"numeric mode", r.NumericMode, w.opts.NumericMode},
		{"kernel class", r.KernelClass, w.opts.KernelClass},
	} {
		if f.want != "" && f.got != f.want {
			return fmt.Sprintf("%s is %q, the coordinator's is %q", f.what, f.got, f.want)
		}
	}
	return ""
}

// report tells what differs between two states.
func (w *Watcher) report(old, next *state) {
	ev := w.opts.Events
	for id, n := range next.nodes {
		was, ok := old.nodes[id]
		if ev.NodeJoined != nil && (!ok || was.Epoch != n.Epoch || was.Reason != n.Reason) {
			ev.NodeJoined(n.Node, n.Reason)
		}
		if ev.NodeDraining != nil && was.Draining != n.Draining {
			ev.NodeDraining(n.Node, n.Draining)
		}
	}
	for id, n := range old.nodes {
		if _, ok := next.nodes[id]; !ok && ev.NodeLost != nil {
			ev.NodeLost(n.Node)
		}
	}
	if ev.Committed != nil && next.plan != old.plan {
		ev.Committed(next.plan)
	}
	for key, err := range next.bad {
		if was := old.bad[key]; ev.BadRecord != nil && (was == nil || was.Error() != err.Error()) {
			ev.BadRecord(key, err)
		}
	}
}
