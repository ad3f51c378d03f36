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

// meddler is the store of a planner, in which something happens just before a plan is put
// in force.
type meddler struct {
	Store
	key string // of the plan

	mu     sync.Mutex // guards the fields below
	meddle func()     // done once
	got    error      // what came of that commit
}

func (s *meddler) Commit(ctx context.Context, w Write) (int64, error) {
	s.mu.Lock()
	meddle := s.meddle
	if !slices.ContainsFunc(w.Put, func(p Put) bool { return p.Key == s.key }) {
		meddle = nil
	}
	if meddle != nil {
		s.meddle = nil
		meddle()
	}
	s.mu.Unlock()
	revision, err := s.Store.Commit(ctx, w)
	if meddle != nil {
		s.mu.Lock()
		s.got = err
		s.mu.Unlock()
	}
	return revision, err
}

// next sets what happens before the next commit of a plan.
func (s *meddler) next(meddle func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meddle, s.got = meddle, nil
}

// refused tells whether that commit was refused.
func (s *meddler) refused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Is(s.got, ErrConflict)
}

// TestCommitIsJudgedAnew changes the nodes between a planner's decision to put a plan in
// force and the write: the store must refuse it.
func TestCommitIsJudgedAnew(t *testing.T) {
	run := func(t *testing.T, store Store) {
		scope := Scope{Cluster: "default", Model: testModel}
		s := &meddler{Store: store, key: scope.plan()}
		w := newWorld(t, store, PlannerOptions{})
		defer w.close()
		w.planner.Close()
		w.planner = w.plan(w.watcher, s, PlannerOptions{ID: "c2", Replicas: 2})
		ids := []string{"a", "b", "c"}
		for _, id := range ids {
			w.join(id)
		}
		w.await(20*time.Second, "the first plan", uses(ids...))

		s.next(func() { // a node of both plans loses its registration
			if err := store.Revoke(t.Context(), w.nodes["a"].member.session.current().lease); err != nil {
				t.Error(err)
			}
		})
		w.join("d")
		w.await(20*time.Second, "a commit without the node is refused",
			func(*placement.View) bool { return s.refused() })
		w.await(20*time.Second, "all take part", uses("a", "b", "c", "d"))

		key := scope.ready() + "b"
		s.next(func() { // one that the new plan does without is there again
			_, err := store.Commit(t.Context(), Write{Put: []Put{{Key: key, Value: []byte(`{}`)}}})
			if err != nil {
				t.Error(err)
			}
		})
		w.nodes["b"].member.Close()
		w.await(20*time.Second, "a commit beside the node is refused",
			func(*placement.View) bool { return s.refused() })
		if _, err := store.Commit(t.Context(), Write{Delete: []string{key}}); err != nil {
			t.Error(err)
		}
		w.await(20*time.Second, "the others take part", uses("a", "c", "d"))
	}
	t.Run("memory", func(t *testing.T) {
		virtual(t, func(t *testing.T) { run(t, &Memory{}) })
	})
	t.Run("etcd", func(t *testing.T) { run(t, startEtcd(t)) })
}

// TestJudgedOfMany lists the nodes of a plan of more nodes than a commit has conditions:
// those that are listed must hold every expert, as long as so many nodes can.
func TestJudgedOfMany(t *testing.T) {
	const nodes, experts = 300, 150
	plan := &placement.Plan{Revision: 2, Layers: []int{1}, Experts: experts}
	var here []placement.Node
	for i := range nodes {
		plan.NodeIDs = append(plan.NodeIDs, fmt.Sprintf("n%03d", i))
		here = append(here, placement.Node{ID: plan.NodeIDs[i]})
	}
	plan.Replicas = make([][][]uint16, 1)
	for e := range experts { // the later nodes hold two experts
		plan.Replicas[0] = append(plan.Replicas[0], []uint16{uint16(e), uint16(nodes - 1 - e/2)})
	}
	ids := judged(nil, plan, here)
	if len(ids) != maxJudged {
		t.Fatalf("%d nodes, want %d", len(ids), maxJudged)
	}
	covered := map[placement.Replica]bool{}
	for _, id := range ids {
		for _, r := range plan.Holds(id) {
			covered[r] = true
		}
	}
	if len(covered) != experts {
		t.Errorf("the nodes listed hold %d experts, want all %d", len(covered), experts)
	}
	old := &placement.Plan{Revision: 1, NodeIDs: []string{"gone", "n000", "old"}}
	few := &placement.Plan{Revision: 2, NodeIDs: []string{"gone", "n000"}}
	if got := strings.Join(judged(old, few, here), " "); got != "n000 gone old" {
		t.Errorf("the nodes of two small plans: %s", got)
	}
}
