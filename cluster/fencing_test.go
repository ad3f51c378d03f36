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

// lateStore is the store of a process that hangs in the middle of a write: the write is on
// its way, nothing else is sent, and nobody knows when it arrives.
type lateStore struct {
	Store

	mu    sync.Mutex // guards the fields below
	armed bool
	late  *Write
	awake chan struct{} // closed when the process goes on; nil while it does not hang
}

// hang lets the process hang in its next write of a plan or an intent.
func (s *lateStore) hang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed, s.late, s.awake = true, nil, make(chan struct{})
}

// caught tells whether the process hangs in a write.
func (s *lateStore) caught() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.late != nil
}

// deliver lets the write arrive, and then the process go on.
func (s *lateStore) deliver(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.Store.Commit(ctx, *s.late)
	s.armed = false
	close(s.awake)
	return err
}

// hangs waits while the process hangs.
func (s *lateStore) hangs(ctx context.Context) error {
	s.mu.Lock()
	caught, awake := s.late != nil, s.awake
	s.mu.Unlock()
	if !caught {
		return nil
	}
	select {
	case <-awake:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *lateStore) Commit(ctx context.Context, w Write) (int64, error) {
	s.mu.Lock()
	if s.armed && s.late == nil && slices.ContainsFunc(w.Put, func(p Put) bool {
		scope := Scope{Cluster: "default", Model: testModel}
		return p.Key == scope.plan() || p.Key == scope.intent()
	}) {
		s.late = &w
		s.mu.Unlock()
		if err := s.hangs(ctx); err != nil {
			return 0, err
		}
		return 0, errLost
	}
	s.mu.Unlock()
	if err := s.hangs(ctx); err != nil {
		return 0, err
	}
	return s.Store.Commit(ctx, w)
}

func (s *lateStore) KeepAlive(ctx context.Context, l Lease) error {
	if err := s.hangs(ctx); err != nil {
		return err
	}
	return s.Store.KeepAlive(ctx, l)
}

func (s *lateStore) Grant(ctx context.Context, ttl time.Duration) (Lease, error) {
	if err := s.hangs(ctx); err != nil {
		return 0, err
	}
	return s.Store.Grant(ctx, ttl)
}

// TestLateWrites lets the planner hang in the middle of a write, again and again. Another
// is elected, and every other time plans at once; the write, when it arrives at last, must
// change nothing.
func TestLateWrites(t *testing.T) {
	run := func(t *testing.T, base Store, rounds int) {
		first := &lateStore{Store: base}
		w := newWorld(t, base, PlannerOptions{ID: "first"})
		defer w.close()
		w.planner.Close()
		w.planner = w.plan(w.watcher, first, PlannerOptions{ID: "first"})
		w.join("a")
		ids := []string{"a"}
		w.await(20*time.Second, "the first plan", uses(ids...))
		for i := range rounds {
			first.hang()
			id := fmt.Sprintf("n%03d", i)
			w.join(id)
			ids = append(ids, id)
			w.await(20*time.Second, "the planner hangs", func(*placement.View) bool {
				return first.caught()
			})
			second := w.watch("avx2", WatcherEvents{})
			opts := PlannerOptions{ID: "second"}
			if i%2 == 1 {
				opts.Settle = time.Hour
			}
			rival := w.plan(second, base, opts)
			w.await(20*time.Second, "another is elected", func(*placement.View) bool {
				planner := w.watcher.state.Load().planner.Value
				return strings.HasPrefix(string(planner), "second/")
			})
			if i%2 == 0 {
				w.await(20*time.Second, "it plans", uses(ids...))
			}
			before := w.watcher.View()
			if err := first.deliver(t.Context()); !errors.Is(err, ErrConflict) {
				t.Fatalf("round %d: the late write = %v, want %v", i, err, ErrConflict)
			}
			time.Sleep(100 * time.Millisecond)
			if v := w.watcher.View(); v.Revision() != before.Revision() {
				t.Fatalf("round %d: revision %d, before %d", i, v.Revision(), before.Revision())
			}
			rival.Close()
			second.Close()
			w.await(20*time.Second, "the plan uses all", uses(ids...))
			if len(ids) > 3 { // and a node leaves, or there would be more of them than experts
				w.nodes[ids[1]].member.Close()
				ids = slices.Delete(ids, 1, 2)
				w.await(20*time.Second, "the first plans again", uses(ids...))
			}
		}
	}
	t.Run("memory", func(t *testing.T) {
		virtual(t, func(t *testing.T) { run(t, &Memory{}, 50) })
	})
	t.Run("etcd", func(t *testing.T) { run(t, startEtcd(t), 2) })
}
