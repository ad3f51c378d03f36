package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/placement"
)

// planOf makes a plan of one layer: for each expert the nodes that hold it, as in "a b".
func planOf(revision uint64, experts ...string) *placement.Plan {
	p := &placement.Plan{Revision: revision, Layers: []int{0}, Experts: len(experts)}
	for _, on := range experts {
		p.NodeIDs = append(p.NodeIDs, strings.Fields(on)...)
	}
	slices.Sort(p.NodeIDs)
	p.NodeIDs = slices.Compact(p.NodeIDs)
	layer := make([][]uint16, len(experts))
	for e, on := range experts {
		for _, id := range strings.Fields(on) {
			n, _ := p.Index(id)
			layer[e] = append(layer[e], n)
		}
	}
	p.Replicas = [][][]uint16{layer}
	return p
}

// TestGrounds changes one ready record while a commit of revision 2 is on its way, on both
// stores, and wants a conflict just where the commit counted on it (C6).
func TestGrounds(t *testing.T) {
	etcd := startEtcd(t)
	for name, tc := range map[string]struct {
		old, next *placement.Plan
		ready     string // nodes that have revision 2 ready
		conflicts string // nodes whose change makes the commit void
		not       string // those whose change does not
	}{
		"first plan": {nil, planOf(2, "a", "b"), "a b", "a b", "c"},
		"a second replica is not needed": {planOf(1, "a", "a"), planOf(2, "a b", "a c"), "a b c",
			"a", "b c"},
		"two cover three": {planOf(1, "a", "a"), planOf(2, "a b", "b c", "c"), "a b c", "b c", "a"},
		"who is not ready does not count": {planOf(1, "a b", "a b"), planOf(2, "a b", "a b"), "b",
			"b", "a"},
		"who is given up may return": {planOf(1, "a c", "b c"), planOf(2, "b", "c"), "c", "a c", "b"},
		"nobody holds anything":      {planOf(1, "a", "a"), planOf(2, "a", "a"), "", "", "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, base := range map[string]Store{"memory": &Memory{}, "etcd": etcd} {
				for i, id := range strings.Fields(tc.conflicts + " " + tc.not) {
					scope := Scope{Cluster: fmt.Sprint(kind, strings.ReplaceAll(name, " ", "-"), i),
						Model: testModel}
					p := &Planner{watcher: &Watcher{opts: WatcherOptions{Scope: scope}}, store: base}
					p.opts.HistoryPlans = 1
					s := &state{plan: tc.old, nodes: map[string]NodeState{}, readyMod: map[string]int64{}}
					for _, id := range strings.Fields(tc.ready) {
						s.nodes[id] = NodeState{Revision: 2}
						s.readyMod[id] = commit(t, base, Write{Put: []Put{{Key: scope.ready() + id}}})
					}
					change := Write{Put: []Put{{Key: scope.ready() + id}}}
					if s.readyMod[id] != 0 {
						change = Write{Delete: []string{scope.ready() + id}}
					}
					commit(t, base, change)
					_, err := base.Commit(t.Context(), *p.commit(s, tc.next).write)
					if want := slices.Contains(strings.Fields(tc.conflicts), id); want !=
						errors.Is(err, ErrConflict) || !want && err != nil {
						t.Errorf("%s: %s changes, the commit = %v, want a conflict %v", kind, id, err, want)
					}
				}
			}
		})
	}
}

// TestGroundsAreBounded commits a plan that needs more nodes than one write can look at: it
// looks at those that hold most.
func TestGroundsAreBounded(t *testing.T) {
	s := &state{nodes: map[string]NodeState{}, readyMod: map[string]int64{}}
	var experts []string
	for i := range 2 * maxWrite {
		id := fmt.Sprintf("n%03d", i)
		s.nodes[id], s.readyMod[id] = NodeState{Revision: 1}, int64(i+1)
		experts = append(experts, id)
	}
	experts = append(experts, "n200", "n250")
	scope := Scope{Cluster: "c", Model: testModel}
	p := &Planner{watcher: &Watcher{opts: WatcherOptions{Scope: scope}}}
	p.opts.HistoryPlans = 1
	w := p.fenced(s, *p.commit(s, planOf(1, experts...)).write)
	if len(w.If) != maxWrite {
		t.Errorf("%d conditions, want %d", len(w.If), maxWrite)
	}
	if err := w.validate(); err != nil {
		t.Error(err)
	}
	for _, i := range []int{200, 250} {
		want := Cond{fmt.Sprintf("%sn%03d", scope.ready(), i), int64(i + 1)}
		if !slices.Contains(w.If, want) {
			t.Errorf("no condition %v", want)
		}
	}
}

// meanwhile is a store in which something happens while a write of a plan is on its way.
type meanwhile struct {
	*Memory

	mu       sync.Mutex // guards the fields below
	happens  func()
	outcomes []error // of the writes of plans since it happened
}

func (s *meanwhile) Commit(ctx context.Context, w Write) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.happens == nil || !slices.ContainsFunc(w.Put, func(p Put) bool {
		return p.Key == Scope{Cluster: "default", Model: testModel}.plan()
	}) {
		return s.Memory.Commit(ctx, w)
	}
	if len(s.outcomes) == 0 {
		s.happens()
	}
	revision, err := s.Memory.Commit(ctx, w)
	s.outcomes = append(s.outcomes, err)
	return revision, err
}

// TestNodeGoesDuringCommit lets the registration of a node end while the commit that counts
// on it is on its way. The node registers again, and the plan comes into force then.
func TestNodeGoesDuringCommit(t *testing.T) {
	virtual(t, func(t *testing.T) {
		store := &meanwhile{Memory: &Memory{}}
		w := newWorld(t, store, PlannerOptions{})
		defer w.close()
		w.join("a")
		w.await(20*time.Second, "the first plan", uses("a"))
		store.mu.Lock()
		store.happens = func() {
			store.Memory.mu.Lock()
			lease := store.entries[Scope{Cluster: "default"}.ready()+"b"].lease
			store.Memory.mu.Unlock()
			if err := store.Revoke(t.Context(), lease); err != nil || lease == 0 {
				t.Errorf("b has the lease %d, its end: %v", lease, err)
			}
		}
		store.mu.Unlock()
		w.join("b")
		w.await(20*time.Second, "a plan of both", uses("a", "b"))
		store.mu.Lock()
		defer store.mu.Unlock()
		if n := len(store.outcomes); n < 2 || !errors.Is(store.outcomes[0], ErrConflict) ||
			store.outcomes[n-1] != nil {
			t.Errorf("the commits gave %v, want a conflict first and success last", store.outcomes)
		}
	})
}

// TestLaterLifeIsNotReady starts a node anew while its earlier life's lease lasts: nothing
// says any more that it has loaded anything.
func TestLaterLifeIsNotReady(t *testing.T) {
	virtual(t, func(t *testing.T) {
		store := &Memory{}
		w := newWorld(t, store, PlannerOptions{})
		defer w.close()
		a := w.join("a")
		w.await(20*time.Second, "the first plan", uses("a"))
		ready := Scope{Cluster: "default"}.ready()
		if got := keys(t, store, ready); !strings.HasPrefix(got, "a=") {
			t.Fatalf("ready is %q, want a's record", got)
		}
		w.kill(a)
		w.fail = errors.New("the weights are gone")
		time.Sleep(time.Millisecond) // epochs are times
		w.join("a")
		time.Sleep(100 * time.Millisecond)
		if got := keys(t, store, ready); got != "" {
			t.Errorf("ready is %q, want nothing", got)
		}
		if nodes := w.watcher.Nodes(); len(nodes) != 1 || !nodes[0].Registered {
			t.Errorf("nodes are %+v, want a registered", nodes)
		}
	})
}
