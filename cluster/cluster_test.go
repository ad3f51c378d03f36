package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drover/placement"
)

const testModel = "sha256:test"

var testLayers = []int{1, 3}

const (
	testExperts  = 8
	testReplicas = 100 // bytes of one
)

// testNode is an expert node that loads nothing but remembers what it should hold.
type testNode struct {
	id     string
	member *Member
	store  *mortalStore
	gone   atomic.Bool // it is known to have ended
	// failed is how often AssignFailed was reported, refused how often Assign had no room.
	failed, refused atomic.Int32

	mu       sync.Mutex // guards the fields below
	held     map[placement.Replica]bool
	revision uint64
	fail     error         // what Assign returns
	delay    time.Duration // of Assign
	capacity int64         // beyond which Assign refuses; 0: none
}

func (n *testNode) assign(ctx context.Context, want []placement.Replica) error {
	n.mu.Lock()
	fail, delay := n.fail, n.delay
	n.mu.Unlock()
	if delay > 0 && !pause(ctx, delay) {
		return ctx.Err()
	}
	if fail != nil {
		return fail
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	missing := int64(0)
	for _, r := range want {
		if !n.held[r] {
			missing++
		}
	}
	if need := (int64(len(n.held)) + missing) * testReplicas; n.capacity > 0 && need > n.capacity {
		n.refused.Add(1)
		return fmt.Errorf("%d bytes, room for %d", need, n.capacity)
	}
	for _, r := range want {
		n.held[r] = true
	}
	return nil
}

func (n *testNode) commit(revision uint64, holds []placement.Replica) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.revision = revision
}

func (n *testNode) drop(replicas []placement.Replica) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range replicas {
		delete(n.held, r)
	}
}

func (n *testNode) set(fail error, delay time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail, n.delay = fail, delay
}

func (n *testNode) holds(r placement.Replica) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held[r]
}

func (n *testNode) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.held)
}

// world is one store with a coordinator and its nodes.
type world struct {
	t       *testing.T
	store   Store
	ttl     time.Duration
	watcher *Watcher
	planner *Planner
	fail    error // of the nodes that join
	// locate, if not nil, is told by the nodes that join from now on who holds what.
	locate func(id string, holders map[placement.Replica][]placement.Node)

	mu    sync.Mutex // guards the fields below
	nodes map[string]*testNode
	bare  []placement.Replica // committed experts that no node held

	lost atomic.Int32 // nodes
}

func newWorld(t *testing.T, store Store, opts PlannerOptions) *world {
	w := &world{t: t, store: store, ttl: LocalTTL, nodes: map[string]*testNode{}}
	w.watcher = w.watch("avx2", WatcherEvents{Committed: w.committed,
		NodeLost: func(placement.Node) { w.lost.Add(1) }})
	if opts.ID == "" {
		opts.ID = "c1"
	}
	w.planner = w.plan(w.watcher, store, opts)
	return w
}

func (w *world) watch(class string, events WatcherEvents) *Watcher {
	w.t.Helper()
	watcher, err := Watch(w.t.Context(), w.store, WatcherOptions{Scope: Scope{Model: testModel},
		NumericMode: "bf16", KernelClass: class, TTL: w.ttl, Events: events})
	if err != nil {
		w.t.Fatal(err)
	}
	return watcher
}

func (w *world) plan(watcher *Watcher, store Store, opts PlannerOptions) *Planner {
	w.t.Helper()
	opts.Layers, opts.Experts, opts.ReplicaBytes = testLayers, testExperts, testReplicas
	p, err := StartPlanner(w.t.Context(), store, watcher, opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// committed checks the promise of every commit: each expert has a replica on a node that
// has loaded it, unless none has.
func (w *world) committed(p *placement.Plan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, layer := range p.Layers {
		for e := range p.Experts {
			r := placement.Replica{Layer: layer, Expert: e}
			if !slices.ContainsFunc(p.On(layer, e), func(n uint16) bool {
				node := w.nodes[p.NodeIDs[n]]
				return node != nil && node.holds(r)
			}) && w.somebody(r) {
				w.bare = append(w.bare, r)
			}
		}
	}
}

// somebody tells whether any node has loaded a replica. The caller holds mu.
func (w *world) somebody(r placement.Replica) bool {
	for _, n := range w.nodes {
		if !n.gone.Load() && n.holds(r) {
			return true
		}
	}
	return false
}

func (w *world) node(id string) placement.Node {
	return placement.Node{ID: id, Address: id + ":1", CapacityBytes: 1 << 20,
		KernelClass: "avx2", ModelDigest: testModel}
}

func (w *world) join(id string) *testNode {
	w.t.Helper()
	return w.joinAs(w.node(id), w.store)
}

func (w *world) joinAs(node placement.Node, store Store) *testNode {
	w.t.Helper()
	n := &testNode{id: node.ID, held: map[placement.Replica]bool{}, store: &mortalStore{Store: store},
		fail: w.fail, capacity: node.CapacityBytes}
	w.mu.Lock()
	w.nodes[n.id] = n
	w.mu.Unlock()
	hooks := Hooks{Assign: n.assign, Commit: n.commit, Drop: n.drop}
	if locate := w.locate; locate != nil {
		hooks.Locate = func(h map[placement.Replica][]placement.Node) { locate(n.id, h) }
	}
	var err error
	n.member, err = Join(w.t.Context(), n.store, NodeConfig{Node: node, NumericMode: "bf16",
		TTL: w.ttl, Events: MemberEvents{AssignFailed: func(uint64, error) { n.failed.Add(1) }}},
		hooks)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// kill ends a node's process as if by SIGKILL: its lease stays until it expires.
func (w *world) kill(n *testNode) {
	n.store.dead.Store(true)
	n.gone.Store(true)
	n.member.Close()
}

// mortalStore is the store of a process; once that is dead, it cannot revoke its lease.
type mortalStore struct {
	Store
	dead atomic.Bool
}

func (s *mortalStore) Revoke(ctx context.Context, l Lease) error {
	if s.dead.Load() {
		return errDown
	}
	return s.Store.Revoke(ctx, l)
}

func (w *world) close() {
	w.planner.Close()
	w.mu.Lock()
	nodes := w.nodes
	w.mu.Unlock()
	for _, n := range nodes {
		n.member.Close()
	}
	w.watcher.Close()
	if len(w.bare) > 0 {
		w.t.Errorf("committed without a ready replica: %v", w.bare)
	}
}

// await waits until ok, and says what for if that takes too long.
func (w *world) await(limit time.Duration, what string, ok func(*placement.View) bool) {
	w.t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		changes := w.watcher.Changes()
		if ok(w.watcher.View()) {
			return
		}
		select {
		case <-changes:
		case <-time.After(50 * time.Millisecond):
		case <-deadline.C:
			w.t.Fatalf("after %v still not: %s; View %+v, nodes %+v", limit, what,
				w.watcher.View(), w.watcher.Nodes())
		}
	}
}

// uses tells whether the committed plan uses exactly these nodes, all registered.
func uses(ids ...string) func(*placement.View) bool {
	return func(v *placement.View) bool {
		return slices.Equal(v.Plan.NodeIDs, ids) && len(v.Uncovered()) == 0
	}
}

// virtual runs a test under a virtual clock.
func virtual(t *testing.T, test func(*testing.T)) { synctest.Test(t, test) }

// TestChange runs one change after another on both stores: join, join, leave, die.
func TestChange(t *testing.T) {
	run := func(t *testing.T, store Store) {
		w := newWorld(t, store, PlannerOptions{})
		defer w.close()
		a := w.join("a")
		w.await(10*time.Second, "a holds all", uses("a"))
		b := w.join("b")
		w.await(10*time.Second, "b takes part", uses("a", "b"))
		w.await(10*time.Second, "a drops what moved", func(*placement.View) bool {
			return a.count() == testExperts && b.count() == testExperts
		})
		b.member.Close()
		w.await(10*time.Second, "b has left", uses("a"))
		c := w.join("c")
		w.await(10*time.Second, "c takes part", uses("a", "c"))
		w.kill(a)
		w.await(10*time.Second, "a is lost", uses("c"))
		if got, want := c.count(), testExperts*len(testLayers); got != want {
			t.Errorf("c holds %d replicas, want %d", got, want)
		}
	}
	t.Run("memory", func(t *testing.T) {
		virtual(t, func(t *testing.T) { run(t, &Memory{}) })
	})
	t.Run("etcd", func(t *testing.T) { run(t, startEtcd(t)) })
}

func TestGrowsWhileServing(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{Replicas: 2})
		defer w.close()
		var ids []string
		for i := range 4 {
			ids = append(ids, fmt.Sprintf("n%d", i))
			w.join(ids[i])
			w.await(time.Second, "the node takes part", uses(ids...))
		}
		// One dies: what it held is in place again within its lease, the settle time and a bit.
		start := time.Now()
		w.kill(w.nodes["n2"])
		w.await(w.ttl+time.Second, "the loss is repaired", uses("n0", "n1", "n3"))
		if d := time.Since(start); d > w.ttl+300*time.Millisecond {
			t.Errorf("the repair took %v", d)
		}
		v := w.watcher.View()
		if got := len(v.Plan.On(1, 0)); got != 2 {
			t.Errorf("%d replicas, want 2", got)
		}
	})
}

// TestManyJoinOnce checks that nodes that join together make one plan.
func TestManyJoinOnce(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{MinNodes: 3})
		defer w.close()
		w.join("n0")
		w.join("n1")
		time.Sleep(time.Minute)
		if r := w.watcher.View().Revision(); r != 0 {
			t.Errorf("revision %d with 2 of 3 nodes", r)
		}
		w.join("n2")
		w.await(time.Second, "the first plan", uses("n0", "n1", "n2"))
		if r := w.watcher.View().Revision(); r != 1 {
			t.Errorf("revision %d, want 1", r)
		}
	})
}

// TestIntentOutlivesItsNode kills a node while it loads an intent.
func TestIntentOutlivesItsNode(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{})
		defer w.close()
		w.join("a")
		w.await(time.Second, "the first plan", uses("a"))
		b := w.joinAs(w.node("b"), w.store)
		b.set(nil, time.Hour)
		time.Sleep(10 * time.Second)
		if w.watcher.state.Load().pending() == nil {
			t.Fatal("no intent waits for b")
		}
		w.kill(b)
		time.Sleep(10 * time.Second)
		if p := w.watcher.state.Load().pending(); p != nil {
			t.Errorf("the intent %d still waits", p.Revision)
		}
		w.join("c")
		w.await(5*time.Second, "c takes part", uses("a", "c"))
		if r := w.watcher.View().Revision(); r != 4 {
			t.Errorf("revision %d, want 4: 2 was given up, 3 took its place", r)
		}
	})
}

func TestSlowNodeIsLeftOut(t *testing.T) {
	virtual(t, func(t *testing.T) {
		var left []string
		w := newWorld(t, &Memory{}, PlannerOptions{LoadTimeout: time.Minute,
			Events: PlannerEvents{LeftOut: func(id string) { left = append(left, id) }}})
		defer w.close()
		w.join("a")
		w.await(time.Second, "the first plan", uses("a"))
		b := w.join("b")
		b.set(nil, 10*time.Minute)
		w.join("c")
		w.await(2*time.Minute, "c takes part without b", uses("a", "c"))
		b.set(nil, 0)
		w.await(3*time.Minute, "b takes part at last", uses("a", "b", "c"))
		synctest.Wait()
		if !slices.Equal(left, []string{"b"}) {
			t.Errorf("left out: %v", left)
		}
	})
}

// TestStoreAway takes the store away for longer than all leases last.
func TestStoreAway(t *testing.T) {
	virtual(t, func(t *testing.T) {
		store := &Memory{}
		w := newWorld(t, store, PlannerOptions{})
		defer w.close()
		w.join("a")
		w.join("b")
		w.await(time.Second, "the first plan", uses("a", "b"))
		before := w.watcher.View()
		store.SetDown(true)
		time.Sleep(time.Hour)
		if v := w.watcher.View(); v != before {
			t.Errorf("the View changed while the store was away: %+v", v)
		}
		store.SetDown(false)
		time.Sleep(time.Minute)
		if v := w.watcher.View(); v.Revision() != 1 || len(v.Nodes) != 2 {
			t.Errorf("after the return: revision %d, nodes %v", v.Revision(), v.Nodes)
		}
		w.join("c")
		w.await(5*time.Second, "changes go on", uses("a", "b", "c"))
	})
}

// TestStoreWiped replaces the store by an empty one.
func TestStoreWiped(t *testing.T) {
	virtual(t, func(t *testing.T) {
		old, store := &Memory{}, &swapStore{}
		store.use(old)
		w := newWorld(t, store, PlannerOptions{})
		defer w.close()
		w.join("a")
		w.join("b")
		w.await(time.Second, "the first plan", uses("a", "b"))
		store.use(&Memory{})
		old.freeze()
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			if v := w.watcher.View(); v.Revision() != 1 || len(v.Nodes) != 2 {
				t.Fatalf("revision %d, nodes %v", v.Revision(), v.Nodes)
			}
		}
		w.join("c")
		w.await(5*time.Second, "changes go on", uses("a", "b", "c"))
		if r := w.watcher.View().Revision(); r != 2 {
			t.Errorf("revision %d, want 2", r)
		}
	})
}

// freeze stops the leases, as if the server were gone but its clients did not know.
func (m *Memory) freeze() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.leases {
		l.timer.Stop()
	}
}

// swapStore passes calls to a store that can be replaced. Watches of the old one go on,
// as those of a client that reconnects to a server that lost its state do.
type swapStore struct {
	mu sync.Mutex
	Store
}

func (s *swapStore) use(store Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Store = store
}

func (s *swapStore) now() Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Store
}

func (s *swapStore) List(ctx context.Context, prefix string) ([]Entry, int64, error) {
	return s.now().List(ctx, prefix)
}
func (s *swapStore) Commit(ctx context.Context, w Write) (int64, error) {
	return s.now().Commit(ctx, w)
}
func (s *swapStore) Grant(ctx context.Context, ttl time.Duration) (Lease, error) {
	return s.now().Grant(ctx, ttl)
}
func (s *swapStore) KeepAlive(ctx context.Context, l Lease) error { return s.now().KeepAlive(ctx, l) }
func (s *swapStore) Revoke(ctx context.Context, l Lease) error    { return s.now().Revoke(ctx, l) }
func (s *swapStore) Watch(ctx context.Context, prefix string, after int64, each func([]Entry)) error {
	return s.now().Watch(ctx, prefix, after, each)
}
