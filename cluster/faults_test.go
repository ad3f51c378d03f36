package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drover/placement"
)

// faulty passes calls to a Store, late, not at all, or without their answers.
type faulty struct {
	Store

	mu      sync.Mutex // guards the fields below
	stopped chan struct{}
	// before is called before a call is passed on and says how long it takes on the way;
	// an error says that it does not arrive.
	before func() (time.Duration, error)
	// lost says that the answer to a call that was passed on does not arrive.
	lost func() bool
}

var errLost = errors.New("cluster: test: the answer was lost")

// stop holds back all calls and all changes that are watched, as SIGSTOP of a server
// does: its clock, and so its leases, run on.
func (f *faulty) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = make(chan struct{})
}

// resume ends a stop.
func (f *faulty) resume() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.stopped)
	f.stopped = nil
}

// wait returns when the server is not stopped, or with ctx's end.
func (f *faulty) wait(ctx context.Context) error {
	for {
		f.mu.Lock()
		stopped := f.stopped
		f.mu.Unlock()
		if stopped == nil {
			return nil
		}
		select {
		case <-stopped:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pass brings a call to the server.
func (f *faulty) pass(ctx context.Context) error {
	if err := f.wait(ctx); err != nil {
		return err
	}
	if f.before == nil {
		return nil
	}
	delay, err := f.before()
	if delay > 0 && !pause(ctx, delay) {
		return context.Cause(ctx)
	}
	return err
}

// answer brings the answer back.
func (f *faulty) answer(ctx context.Context, err error) error {
	if f.lost != nil && f.lost() {
		return errLost
	}
	if stopped := f.wait(ctx); stopped != nil {
		return stopped
	}
	return err
}

func (f *faulty) List(ctx context.Context, prefix string) ([]Entry, int64, error) {
	if err := f.pass(ctx); err != nil {
		return nil, 0, err
	}
	entries, revision, err := f.Store.List(ctx, prefix)
	return entries, revision, f.answer(ctx, err)
}

func (f *faulty) Commit(ctx context.Context, w Write) (int64, error) {
	if err := f.pass(ctx); err != nil {
		return 0, err
	}
	revision, err := f.Store.Commit(ctx, w)
	return revision, f.answer(ctx, err)
}

func (f *faulty) Grant(ctx context.Context, ttl time.Duration) (Lease, error) {
	if err := f.pass(ctx); err != nil {
		return 0, err
	}
	lease, err := f.Store.Grant(ctx, ttl)
	return lease, f.answer(ctx, err)
}

func (f *faulty) KeepAlive(ctx context.Context, l Lease) error {
	if err := f.pass(ctx); err != nil {
		return err
	}
	return f.answer(ctx, f.Store.KeepAlive(ctx, l))
}

func (f *faulty) Watch(ctx context.Context, prefix string, after int64,
	each func([]Entry)) error {
	return f.Store.Watch(ctx, prefix, after, func(changes []Entry) {
		if f.wait(ctx) == nil {
			each(changes)
		}
	})
}

// quiet wants the placement and the View's nodes to stay as they are until its result is
// called.
func (w *world) quiet() (check func()) {
	w.t.Helper()
	before, lost := w.watcher.View(), w.lost.Load()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			changes := w.watcher.Changes()
			v := w.watcher.View()
			if v.Revision() != before.Revision() || len(v.Nodes) != len(before.Nodes) {
				w.t.Errorf("revision %d with %d nodes, before %d with %d", v.Revision(), len(v.Nodes),
					before.Revision(), len(before.Nodes))
				return
			}
			if p := w.watcher.state.Load().pending(); p != nil {
				w.t.Errorf("revision %d is intended", p.Revision)
				return
			}
			select {
			case <-changes:
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
		if n := w.lost.Load(); n != lost {
			w.t.Errorf("%d nodes were taken for lost", n-lost)
		}
	}
}

// TestStoreStops stops the store for shorter and longer than leases last. All leases end
// when it goes on, its watches go on too, and yet no node is taken for lost.
func TestStoreStops(t *testing.T) {
	for _, stop := range []time.Duration{LocalTTL / 3, LocalTTL, LocalTTL * 5 / 4, 2 * LocalTTL,
		10 * time.Second, 10 * time.Minute} {
		for phase := range 8 {
			t.Run(fmt.Sprint(stop, phase), func(t *testing.T) {
				virtual(t, func(t *testing.T) {
					store := &faulty{Store: &Memory{}}
					w := newWorld(t, store, PlannerOptions{})
					defer w.close()
					for _, id := range []string{"a", "b", "c"} {
						w.join(id)
						time.Sleep(170 * time.Millisecond) // not all renew at once
					}
					w.await(5*time.Second, "the plan", uses("a", "b", "c"))
					time.Sleep(5*time.Second + time.Duration(phase)*100*time.Millisecond)
					check := w.quiet()
					store.stop()
					time.Sleep(stop)
					store.resume()
					time.Sleep(10 * time.Second)
					check()
					w.kill(w.nodes["b"])
					w.await(2*w.ttl+time.Second, "a loss is noticed again", uses("a", "c"))
				})
			})
		}
	}
}

// TestLossWhileStoreIsAway kills a node while the store is away: it is kept until the
// others have had time to come back, then replaced.
func TestLossWhileStoreIsAway(t *testing.T) {
	virtual(t, func(t *testing.T) {
		store := &faulty{Store: &Memory{}}
		w := newWorld(t, store, PlannerOptions{Replicas: 2})
		defer w.close()
		for _, id := range []string{"a", "b", "c"} {
			w.join(id)
		}
		w.await(5*time.Second, "the plan", uses("a", "b", "c"))
		time.Sleep(5 * time.Second)
		store.stop()
		time.Sleep(time.Second)
		w.kill(w.nodes["b"])
		time.Sleep(time.Minute)
		if v := w.watcher.View(); !uses("a", "b", "c")(v) {
			t.Errorf("while the store is away: %+v", v)
		}
		store.resume()
		w.await(3*w.ttl, "b is replaced", uses("a", "c"))
		time.Sleep(time.Minute)
		if r := w.watcher.View().Revision(); r != 2 {
			t.Errorf("revision %d, want 2: one change for one loss", r)
		}
	})
}

// TestRevokedLeases ends the leases of living processes from outside, one after another
// and then all at once, as a store whose clock jumps does. They register again, and the
// nodes of the plan are in the View all the time.
func TestRevokedLeases(t *testing.T) {
	run := func(t *testing.T, store Store) {
		w := newWorld(t, store, PlannerOptions{Replicas: 2})
		defer w.close()
		ids := []string{"a", "b", "c"}
		all := []*session{w.planner.session}
		for _, id := range ids {
			all = append(all, w.join(id).member.session)
		}
		w.await(10*time.Second, "the plan", uses(ids...))
		revoke := func(these ...*session) {
			t.Helper()
			var were []Lease
			for _, s := range these {
				were = append(were, s.current().lease)
				if err := store.Revoke(t.Context(), were[len(were)-1]); err != nil {
					t.Fatal(err)
				}
			}
			w.await(10*time.Second, "there are new leases", func(v *placement.View) bool {
				for _, n := range v.Plan.NodeIDs {
					if _, ok := v.Nodes[n]; !ok {
						t.Errorf("%s is in the plan and not in the View", n)
					}
				}
				for i, s := range these {
					if now := s.current().lease; now == 0 || now == were[i] {
						return false
					}
				}
				return !slices.ContainsFunc(w.watcher.Nodes(), func(n NodeState) bool {
					return !n.Registered
				})
			})
		}
		for _, s := range all {
			revoke(s)
		}
		revoke(all...)
		w.await(10*time.Second, "all take part", uses(ids...))
	}
	t.Run("memory", func(t *testing.T) {
		virtual(t, func(t *testing.T) { run(t, &Memory{}) })
	})
	t.Run("etcd", func(t *testing.T) { run(t, startEtcd(t)) })
}

// TestClockJumpsBack starts a node again on a machine whose clock now shows a time before
// its earlier life: it takes part when the lease of that has ended.
func TestClockJumpsBack(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{})
		defer w.close()
		w.join("a")
		b := w.join("b")
		w.await(5*time.Second, "the plan", uses("a", "b"))
		w.kill(b)
		again := w.node("b")
		again.Epoch = 1
		w.joinAs(again, w.store)
		w.await(2*w.ttl+time.Second, "the new life is used", func(v *placement.View) bool {
			return v.Nodes["b"].Epoch == 1 && uses("a", "b")(v)
		})
	})
}

// TestSlowStore delays each call of the store by up to most of a lease's time, as a slow
// disk does: changes are slow, and nothing is lost.
func TestSlowStore(t *testing.T) {
	virtual(t, func(t *testing.T) {
		var slow atomic.Int64 // nanoseconds
		store := &faulty{Store: &Memory{}}
		store.before = func() (time.Duration, error) { return time.Duration(slow.Load()), nil }
		w := newWorld(t, store, PlannerOptions{})
		defer w.close()
		w.join("a")
		w.join("b")
		w.await(5*time.Second, "the plan", uses("a", "b"))
		time.Sleep(5 * time.Second)
		for _, d := range []time.Duration{w.ttl / 4, w.ttl / 2, 4 * time.Second} {
			slow.Store(int64(d))
			check := w.quiet()
			time.Sleep(time.Minute)
			check()
		}
		slow.Store(int64(w.ttl / 4))
		w.join("c")
		w.await(time.Minute, "changes go on, slowly", uses("a", "b", "c"))
	})
}
