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

// Hooks are what an expert node does when the placement changes. They are called from
// the Member's goroutines, Assign and Drop never at the same time.
type Hooks struct {
	// Assign loads those of the replicas that the node lacks, and tests all of them. It
	// returns soon after ctx ends. After an error it is called again, later.
	Assign func(ctx context.Context, replicas []placement.Replica) error
	// Locate, if not nil, is called before Assign, from the same goroutine, with the nodes
	// that hold the replicas by the committed plan, as far as they are registered, ready and
	// compute the same: those that other nodes could get the weights from.
	Locate func(holders map[placement.Replica][]placement.Node)
	// Commit says that a plan is in force and which replicas the node serves by it. It
	// must return at once.
	Commit func(revision uint64, replicas []placement.Replica)
	// Drop gives up replicas that no plan needs here any more.
	Drop func(replicas []placement.Replica)
}

// NodeConfig describes an expert node to the cluster.
type NodeConfig struct {
	// Cluster names the cluster. Empty means "default".
	Cluster string
	// Node is the node; its ID, address, capacity, kernel class and model digest must be
	// set. Epoch zero means the time of Join in nanoseconds.
	Node placement.Node
	// NumericMode is the mode that the node computes in.
	NumericMode string
	// TTL is how long the registration outlives the process. Zero means DefaultTTL, at
	// least 1 s; LocalTTL suits a cluster on one machine. Short leases lose nodes that
	// are only slow; long ones delay the repair of the placement.
	TTL time.Duration
	// Grace is how long replicas outlive the plan that needed them, for the frames under
	// way. Zero means 2 s.
	Grace time.Duration
	// Events reports what happens.
	Events MemberEvents
}

// MemberEvents are called from the Member's goroutines and must return soon. Each may
// be nil.
type MemberEvents struct {
	// Registered reports that the node is registered, for the first time or again.
	Registered func()
	// StoreAway reports that the store does not answer; with nil, that it does again. The
	// node goes on serving.
	StoreAway func(err error)
	// Assigning and Ready report that a plan's replicas are being loaded, and are loaded.
	Assigning func(revision uint64, replicas int)
	Ready     func(revision uint64)
	// AssignFailed reports an error of Hooks.Assign; it is called again after a while, unless
	// the planner, which is told, gives the replicas to others. An error while the node still
	// holds what it is about to drop is not reported: there may be room afterwards.
	AssignFailed func(revision uint64, err error)
	// Replaced reports that a later life of the node has registered: this process is not
	// used, unless the other's registration ends.
	Replaced func(epoch uint64)
	// Quarantined reports that coordinators use this process no more, since it computes wrongly.
	Quarantined func(reason string)
}

// Member is an expert node's part in a cluster.
type Member struct {
	cfg     NodeConfig
	hooks   Hooks
	store   Store
	scope   Scope
	session *session
	stop    context.CancelFunc
	running sync.WaitGroup

	mu           sync.Mutex // guards the fields below
	plan, intent *placement.Plan
	draining     bool          // since Drain
	sick         bool          // said that it is in quarantine
	vanished     bool          // plan is not in the store any more
	changed      chan struct{} // has room for one
	emptied      chan struct{} // closed when a draining node holds nothing
}

// Join makes an expert node known to the cluster and lets the placement reach it. It
// returns at once: a store that is away now is waited for. Close leaves.
func Join(ctx context.Context, store Store, cfg NodeConfig, hooks Hooks) (*Member, error) {
	if err := cfg.normalize(); err != nil {
		return nil, err
	}
	if hooks.Assign == nil || hooks.Commit == nil || hooks.Drop == nil {
		return nil, errors.New("cluster: join: all hooks must be set")
	}
	m := &Member{cfg: cfg, hooks: hooks, store: store, changed: make(chan struct{}, 1),
		emptied: make(chan struct{}),
		scope:   Scope{Cluster: cfg.Cluster, Model: cfg.Node.ModelDigest}}
	away := cfg.Events.StoreAway
	if away == nil {
		away = func(error) {}
	}
	m.session = newSession(store, m.scope, cfg.TTL, away)
	ctx, m.stop = context.WithCancel(ctx)
	f := &follower{store: store, scope: m.scope, prefix: m.scope.placement(),
		apply: m.apply, away: func(error) {}, probeEvery: slowProbe, answered: func() {}}
	m.running.Go(func() { f.run(ctx) })
	m.running.Go(func() { m.session.run(ctx) })
	m.running.Go(func() { m.run(ctx) })
	return m, nil
}

// Close ends the registration and returns when no hook runs any more.
func (m *Member) Close() {
	m.stop()
	m.running.Wait()
}

func (c *NodeConfig) normalize() error {
	if c.Cluster == "" {
		c.Cluster = "default"
	}
	if c.Node.Epoch == 0 {
		c.Node.Epoch = uint64(time.Now().UnixNano())
	}
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	if c.Grace == 0 {
		c.Grace = 2 * time.Second
	}
	if err := checkName("cluster", c.Cluster); err != nil {
		return err
	}
	if err := checkName("node id", c.Node.ID); err != nil {
		return err
	}
	if err := recordOf(c.Node, c.NumericMode).validate(); err != nil {
		return fmt.Errorf("cluster: node %s: %w", c.Node.ID, err)
	}
	if c.TTL < minTTL || c.Grace < 0 {
		return fmt.Errorf("cluster: node %s: lease time %v, at least %v; grace %v, at least 0",
			c.Node.ID, c.TTL, minTTL, c.Grace)
	}
	return nil
}

// apply takes over the plan and the intent. A plan that vanished stays in force (C4),
// and a record that cannot be read is as good as none.
func (m *Member) apply(entries map[string]Entry, _ int64, _ bool) {
	read := func(key string, present *placement.Plan) *placement.Plan {
		e, ok := entries[key]
		if !ok {
			return present
		}
		p, err := placement.Decode(e.Value)
		if err != nil {
			return present
		}
		return p
	}
	m.mu.Lock()
	m.plan, m.intent = read(m.scope.plan(), m.plan), read(m.scope.intent(), nil)
	_, there := entries[m.scope.plan()]
	m.vanished = !there
	reason := ""
	for _, q := range sound(entries[m.scope.quarantine()].Value) {
		if q.InForce && q.NodeID == m.cfg.Node.ID && q.Epoch == m.cfg.Node.Epoch && !m.sick {
			m.sick, reason = true, q.reason()
		}
	}
	m.mu.Unlock()
	if reason != "" {
		call1(m.cfg.Events.Quarantined, reason)
	}
	m.poke()
}

// poke makes run look again.
func (m *Member) poke() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// target is what the placement wants of a node.
type target struct {
	revision  uint64 // to say in ready
	replicas  []placement.Replica
	committed *placement.Plan
	newest    *placement.Plan // committed, or what is to follow it
	// instead are the replicas of the intent alone, if committed vanished from the store: whoever
	// intends something else then does not know that the node holds what committed says.
	instead []placement.Replica
}

func (m *Member) target() target {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := target{committed: m.plan, newest: m.plan}
	if m.plan != nil {
		t.revision, t.replicas = m.plan.Revision, m.plan.Holds(m.cfg.Node.ID)
	}
	if i := m.intent; i != nil && (m.plan == nil || i.Revision > m.plan.Revision) {
		t.revision, t.newest = i.Revision, i
		if m.vanished && m.plan != nil {
			t.instead = i.Holds(m.cfg.Node.ID)
		}
		t.replicas = append(t.replicas, i.Holds(m.cfg.Node.ID)...)
		slices.SortFunc(t.replicas, placement.Replica.Compare)
		t.replicas = slices.Compact(t.replicas)
	}
	return t
}

// run is the goroutine that calls the hooks and writes the node's records.
func (m *Member) run(ctx context.Context) {
	r := &holding{m: m, done: make(chan error, 1), held: map[placement.Replica]bool{}}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		tenure := m.session.current()
		wait := min(r.step(ctx, time.Now()), r.publish(ctx, tenure))
		wait = min(wait, r.leave(m.target(), time.Now()))
		timer.Reset(wait)
		select {
		case err := <-r.done:
			r.assigned(time.Now(), err)
		case <-m.changed:
		case <-tenure.changed:
		case <-timer.C:
		case <-ctx.Done():
			r.cancelAssign()
			return
		}
	}
}

// publish writes the node's records under the lease if they changed. It returns when to
// look again.
func (r *holding) publish(ctx context.Context, held tenure) time.Duration {
	m, lease := r.m, held.lease
	now := published{held.lease, r.readyRevision, m.isDraining(), r.unable}
	if lease == 0 || now == r.published {
		return forever
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key := m.scope.nodes() + m.cfg.Node.ID
	entries, _, err := m.store.List(ctx, key)
	if err != nil {
		return retryDelay
	}
	w := Write{If: []Cond{{Key: key}}}
	if i := slices.IndexFunc(entries, func(e Entry) bool { return e.Key == key }); i >= 0 {
		w.If[0].ModRevision = entries[i].ModRevision
		other, err := decodeNode(entries[i].Value)
		if err == nil && other.Epoch > m.cfg.Node.Epoch {
			if !r.replaced {
				r.replaced = true
				call1(m.cfg.Events.Replaced, other.Epoch)
			}
			return m.cfg.TTL / 3
		}
	}
	record := recordOf(m.cfg.Node, m.cfg.NumericMode)
	record.Draining, record.Unable = now.draining, now.unable
	w.Put = []Put{{key, encodeJSON(record), lease}}
	ready := m.scope.ready() + m.cfg.Node.ID
	if now.ready == 0 {
		w.Delete = []string{ready} // of an earlier life whose lease has not ended
	} else {
		w.Put = append(w.Put, Put{ready,
			encodeJSON(readyRecord{m.cfg.Node.Epoch, now.ready}), lease})
	}
	if _, err := m.store.Commit(ctx, w); err != nil {
		return retryDelay
	}
	if r.published.lease != lease && m.cfg.Events.Registered != nil {
		m.cfg.Events.Registered()
	}
	r.published = now
	return forever
}

// forever is a wait that something else ends.
const forever = time.Hour

func call1[T any](f func(T), v T) {
	if f != nil {
		f(v)
	}
}
