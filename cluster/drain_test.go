package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/placement"
	droverv1 "drover/proto/drover/v1"
)

// state is the word for a node's state.
func (w *world) state(s *Server, id string) string {
	w.t.Helper()
	reply, err := s.ListNodes(w.t.Context(), &droverv1.ListNodesRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, n := range reply.Nodes {
		if n.Id == id {
			return n.State
		}
	}
	return "none"
}

// TestMemberDrains lets a node leave: it ends only when the others hold what it held, are
// in the plan with it, and its own replicas are given up.
func TestMemberDrains(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{})
		defer w.close()
		w.join("a")
		b := w.join("b")
		w.await(10*time.Second, "the first plan", uses("a", "b"))
		time.Sleep(5 * time.Second) // the grace of what moved to b is over
		w.nodes["a"].set(nil, 3*time.Second)
		s := NewServer(ServerOptions{Watcher: w.watcher, ReplicaBytes: testReplicas})
		done := make(chan error, 1)
		began := time.Now()
		go func() { done <- b.member.Drain(t.Context()) }()
		time.Sleep(time.Second)
		if got := w.state(s, "b"); got != stateDraining {
			t.Errorf("while the others load: %s", got)
		}
		if n := b.member.Serving(); n != testExperts {
			t.Errorf("while the others load it serves %d replicas, want %d", n, testExperts)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		// The settle time, 3 s of loading, 2 s of grace.
		if d := time.Since(began); d < 5*time.Second || d > 6*time.Second {
			t.Errorf("the drain took %v", d)
		}
		if !uses("a")(w.watcher.View()) || b.count() != 0 || b.member.Serving() != 0 {
			t.Errorf("b is told to leave, the plan is %v, it holds %d", w.watcher.View().Plan.NodeIDs,
				b.count())
		}
		if got := w.state(s, "b"); got != stateDrained {
			t.Errorf("at the end: %s", got)
		}
		if n := w.lost.Load(); n > 0 {
			t.Errorf("%d nodes were lost", n)
		}
		b.member.Close()
		// The same node, started again, gets its share.
		w.join("b")
		w.await(10*time.Second, "b is back", uses("a", "b"))
	})
}

// TestDrainEndsEarly drains a node that nobody can replace, and nodes that nobody knows.
func TestDrainEndsEarly(t *testing.T) {
	virtual(t, func(t *testing.T) {
		refused := make(chan error, 8)
		w := newWorld(t, &Memory{}, PlannerOptions{Events: PlannerEvents{
			Refused: func(err error) { refused <- err }}})
		defer w.close()
		a := w.join("a")
		w.await(10*time.Second, "the first plan", uses("a"))
		ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Second, errDown)
		defer cancel()
		if err := a.member.Drain(ctx); !errors.Is(err, ErrNotDrained) || !errors.Is(err, errDown) {
			t.Errorf("%v, want ErrNotDrained and the cause", err)
		}
		if !uses("a")(w.watcher.View()) || a.count() == 0 {
			t.Error("a gave up what only it has")
		}
		if err := <-refused; !errors.Is(err, placement.ErrNoRoom) {
			t.Errorf("the planner says %v", err)
		}
		unused := w.joinAs(placement.Node{ID: "u", Address: "u:1", KernelClass: "sse",
			ModelDigest: testModel}, w.store)
		if err := unused.member.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		down := &Memory{}
		down.SetDown(true)
		away, err := Join(t.Context(), down, NodeConfig{Node: w.node("z"), TTL: w.ttl},
			Hooks{Assign: a.assign, Commit: a.commit, Drop: a.drop})
		if err != nil {
			t.Fatal(err)
		}
		defer away.Close()
		if err := away.Drain(t.Context()); err != nil {
			t.Errorf("a node that etcd never knew: %v", err)
		}
	})
}

// TestDrainNode drains by command: the node is emptied and stays so, over a restart, until
// that is taken back.
func TestDrainNode(t *testing.T) {
	virtual(t, func(t *testing.T) {
		var mu sync.Mutex
		var events []string
		w := newWorld(t, &Memory{}, PlannerOptions{})
		defer w.close()
		other := w.watch("avx2", WatcherEvents{NodeDraining: func(n placement.Node, draining bool) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, fmt.Sprint(n.ID, " ", draining))
		}})
		defer other.Close()
		for _, id := range []string{"a", "b", "c"} {
			w.join(id)
		}
		w.await(10*time.Second, "the first plan", uses("a", "b", "c"))
		s := NewServer(ServerOptions{Watcher: w.watcher, Store: w.store, ReplicaBytes: testReplicas})
		drain := func(id string, undo bool) (*droverv1.DrainNodeResponse, error) {
			return s.DrainNode(t.Context(), &droverv1.DrainNodeRequest{NodeId: id, Undo: undo})
		}
		r, err := drain("b", false)
		if err != nil || r.ReplicaCount == 0 {
			t.Fatalf("%v, %v", r, err)
		}
		w.await(10*time.Second, "b is empty", uses("a", "c"))
		time.Sleep(5 * time.Second)
		if n := w.nodes["b"].count(); n != 0 {
			t.Errorf("b still holds %d", n)
		}
		w.nodes["b"].member.Close()
		w.join("b")
		time.Sleep(10 * time.Second)
		if got := w.state(s, "b"); got != stateDrained || !uses("a", "c")(w.watcher.View()) {
			t.Errorf("after a restart b is %s", got)
		}
		if _, err := drain("b", true); err != nil {
			t.Fatal(err)
		}
		w.await(10*time.Second, "b has its share again", uses("a", "b", "c"))
		mu.Lock()
		if got := strings.Join(events, ", "); got != "b true, b true, b false" {
			t.Errorf("events %s", got)
		}
		mu.Unlock()

		for _, undo := range []bool{false, true} {
			if _, err := drain("nobody", undo); status.Code(err) != codes.NotFound {
				t.Errorf("an unknown node, undo %v: %v", undo, err)
			}
		}
		if _, err := drain("c", false); err != nil {
			t.Fatal(err)
		}
		w.await(10*time.Second, "c is empty", uses("a", "b"))
		w.nodes["c"].member.Close()
		time.Sleep(10 * time.Second)
		if _, err := drain("c", true); err != nil || w.state(s, "c") != "none" {
			t.Errorf("a node that is drained and away, %s: %v", w.state(s, "c"), err)
		}
		if _, err := drain("a/b", false); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a bad name: %v", err)
		}
		if _, err := NewServer(ServerOptions{Watcher: w.watcher}).DrainNode(t.Context(),
			&droverv1.DrainNodeRequest{NodeId: "a"}); status.Code(err) != codes.Unimplemented {
			t.Errorf("without a store: %v", err)
		}
	})
}

// TestDrainNeedsRoom drains a node whose replicas have no other place: nothing changes, and
// the error says how much is missing.
func TestDrainNeedsRoom(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{MinNodes: 2})
		defer w.close()
		for _, id := range []string{"a", "b"} {
			n := w.node(id)
			n.CapacityBytes = 10*testReplicas + 50
			w.joinAs(n, w.store)
		}
		w.await(10*time.Second, "the first plan", uses("a", "b"))
		s := NewServer(ServerOptions{Watcher: w.watcher, Store: w.store, ReplicaBytes: testReplicas})
		_, err := s.DrainNode(t.Context(), &droverv1.DrainNodeRequest{NodeId: "a"})
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(),
			"1 nodes have 1000, 600 are missing") {
			t.Errorf("%v", err)
		}
		time.Sleep(10 * time.Second)
		if got := w.state(s, "a"); got != stateReady {
			t.Errorf("a is %s", got)
		}
	})
}

// TestLocate tells a node that joins who holds what it is to load.
func TestLocate(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{Replicas: 2, MinNodes: 2})
		defer w.close()
		w.join("a")
		w.join("b")
		strange := w.node("strange")
		strange.KernelClass = "sse"
		w.joinAs(strange, w.store)
		w.await(10*time.Second, "the first plan", uses("a", "b"))
		located := make(chan map[placement.Replica][]placement.Node, 8)
		w.locate = func(_ string, h map[placement.Replica][]placement.Node) { located <- h }
		w.join("c")
		holders := <-located
		if len(holders) == 0 {
			t.Error("nobody is known to hold anything")
		}
		for r, on := range holders {
			if len(on) != 2 || on[0].Address != "a:1" || on[1].Address != "b:1" {
				t.Errorf("%v is said to be on %+v", r, on)
			}
		}
		w.await(10*time.Second, "c takes part", uses("a", "b", "c"))
		if got := w.nodes["c"].count(); got != len(holders) {
			t.Errorf("holders of %d replicas, %d are loaded", len(holders), got)
		}
	})
}

// TestLoadInTurn drains a node: the others begin to load what it had one after the other. When one
// is killed they begin at once.
func TestLoadInTurn(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{Replicas: 2, MinNodes: 4})
		defer w.close()
		var mu sync.Mutex
		began := map[string]time.Time{}
		w.locate = func(id string, _ map[placement.Replica][]placement.Node) {
			mu.Lock()
			defer mu.Unlock()
			began[id] = time.Now()
		}
		for _, id := range []string{"a", "b", "c", "d"} {
			w.join(id)
		}
		w.await(10*time.Second, "the first plan", uses("a", "b", "c", "d"))
		// within returns how many nodes began to load since the last call, and within what time.
		within := func() (nodes int, span time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			var first, last time.Time
			for _, at := range began {
				if first.IsZero() || at.Before(first) {
					first = at
				}
				if at.After(last) {
					last = at
				}
			}
			nodes = len(began)
			clear(began)
			return nodes, last.Sub(first)
		}
		within()
		if err := w.nodes["d"].member.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if nodes, span := within(); nodes != 3 || span < turnsWithin/2 || span > turnsWithin {
			t.Errorf("%d nodes began within %v, want 3 within about %v", nodes, span, turnsWithin)
		}
		w.kill(w.nodes["c"])
		w.await(20*time.Second, "the loss is made good", uses("a", "b"))
		if nodes, span := within(); nodes != 2 || span > turnsWithin/10 {
			t.Errorf("%d nodes began within %v, want 2 at once", nodes, span)
		}
	})
}

// TestPlansInHaste gives a node with little room one plan after the other, before it has
// given up what the one before took from it: it does so before it loads more.
func TestPlansInHaste(t *testing.T) {
	virtual(t, func(t *testing.T) {
		store := &Memory{}
		w := newWorld(t, store, PlannerOptions{})
		w.planner.Close() // the test plans
		defer w.watcher.Close()
		a := w.join("a")
		defer a.member.Close()
		a.capacity = 4 * testReplicas
		scope := w.watcher.opts.Scope
		plan := func(revision uint64, key string, on ...int) {
			t.Helper()
			p := &placement.Plan{Revision: revision, Layers: []int{1}, Experts: testExperts,
				NodeIDs: []string{"a", "b"}, Replicas: make([][][]uint16, 1)}
			for e := range testExperts {
				node := uint16(1)
				for _, o := range on {
					if o == e {
						node = 0
					}
				}
				p.Replicas[0] = append(p.Replicas[0], []uint16{node})
			}
			if err := p.Validate(); err != nil {
				t.Fatal(err)
			}
			commit(t, store, Write{Put: []Put{{Key: key, Value: p.Encode()}}})
			time.Sleep(100 * time.Millisecond)
		}
		ready := func() uint64 {
			for _, n := range w.watcher.Nodes() {
				if n.ID == "a" {
					return n.Revision
				}
			}
			return 0
		}
		plan(1, scope.intent(), 0, 1, 2, 3)
		plan(1, scope.plan(), 0, 1, 2, 3)
		plan(2, scope.plan(), 0, 1) // 2 and 3 stay for the grace
		plan(3, scope.intent(), 0, 1, 4, 5)
		if r := ready(); r != 2 {
			t.Errorf("ready for %d with no room, want 2", r)
		}
		time.Sleep(2 * time.Second) // the grace
		if r := ready(); r != 3 || a.count() != 4 {
			t.Errorf("after the grace ready for %d with %d replicas, want 3 and 4", r, a.count())
		}
		if a.holds(placement.Replica{Layer: 1, Expert: 2}) || !a.holds(placement.Replica{Layer: 1, Expert: 5}) {
			t.Error("it holds what it should have given up, or not what it should hold")
		}
	})
}
