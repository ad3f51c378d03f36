package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drover/placement"
)

// gate is a Store whose process can be stopped like by SIGSTOP: while it is closed, no
// call begins, and those that were under way are done.
type gate struct {
	Store
	turn chan struct{} // holds one; who takes it may call
}

func newGate(s Store) *gate {
	g := &gate{s, make(chan struct{}, 1)}
	g.open()
	return g
}

func (g *gate) open()  { g.turn <- struct{}{} }
func (g *gate) close() { <-g.turn }

func (g *gate) Commit(ctx context.Context, w Write) (int64, error) {
	g.close()
	defer g.open()
	return g.Store.Commit(ctx, w)
}

func (g *gate) KeepAlive(ctx context.Context, l Lease) error {
	g.close()
	defer g.open()
	return g.Store.KeepAlive(ctx, l)
}

// TestPausedPlanner pauses the elected planner in the middle of a write. Another takes
// over; what the first one writes when it wakes must not count.
func TestPausedPlanner(t *testing.T) {
	for name, start := range map[string]func(*testing.T) Store{
		"memory": func(*testing.T) Store { return &Memory{} },
		"etcd":   func(t *testing.T) Store { return startEtcd(t) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			scope := Scope{Cluster: "c", Model: testModel}
			l1, err := s.Grant(t.Context(), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			key := scope.planner()
			elected := commit(t, s, Write{If: []Cond{{Key: key}}, Put: []Put{{key, []byte("1"), l1}}})
			late := &Planner{watcher: &Watcher{opts: WatcherOptions{Scope: scope}}, store: s}
			seen := &state{planner: Entry{Key: key, ModRevision: elected}}
			write := late.fenced(seen, Write{Put: []Put{{Key: scope.plan(), Value: []byte("late")}}})
			if err := s.Revoke(t.Context(), l1); err != nil {
				t.Fatal(err)
			}
			l2, err := s.Grant(t.Context(), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			commit(t, s, Write{If: []Cond{{Key: key}}, Put: []Put{{key, []byte("2"), l2}}})
			if _, err := s.Commit(t.Context(), write); !errors.Is(err, ErrConflict) {
				t.Errorf("the deposed planner's write = %v, want %v", err, ErrConflict)
			}
			if err := s.Revoke(t.Context(), l2); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestPlannersFight runs two planners of which one is paused again and again.
func TestPlannersFight(t *testing.T) {
	virtual(t, func(t *testing.T) {
		store := &Memory{}
		paused := newGate(store)
		var elected [2]atomic.Int32
		var count atomic.Int32
		opts := func(i int, id string) PlannerOptions {
			return PlannerOptions{ID: id, Events: PlannerEvents{Elected: func(yes bool) {
				if yes {
					elected[i].Add(1)
				}
			}, Committed: func(uint64) { count.Add(1) }}}
		}
		w := newWorld(t, store, opts(0, "steady"))
		second := w.watch("avx2", WatcherEvents{})
		rival := w.plan(second, paused, opts(1, "paused"))
		w.join("a")
		w.join("b")
		w.await(5*time.Second, "the first plan", uses("a", "b"))
		for i := range 6 {
			if i%2 == 0 {
				w.planner.Close()
				time.Sleep(100 * time.Millisecond) // the rival takes over
				w.planner = w.plan(w.watcher, store, opts(0, fmt.Sprintf("steady%d", i)))
			}
			paused.close()
			time.Sleep(3 * w.ttl)
			paused.open()
			id := fmt.Sprintf("n%d", i)
			w.join(id)
			w.await(10*time.Second, id+" takes part", func(v *placement.View) bool {
				return slices.Contains(v.Plan.NodeIDs, id)
			})
		}
		rival.Close()
		second.Close()
		w.close()
		if elected[0].Load() == 0 || elected[1].Load() == 0 {
			t.Errorf("elected %d and %d times: no fight", elected[0].Load(), elected[1].Load())
		}
		if r := uint64(count.Load()); r > w.watcher.View().Revision() {
			t.Errorf("%d commits and revision %d", r, w.watcher.View().Revision())
		}
	})
}

// TestPlannerHandsOver checks that a planner that leaves is followed at once.
func TestPlannerHandsOver(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{})
		defer w.close()
		w.join("a")
		w.await(time.Second, "the first plan", uses("a"))
		second := w.watch("avx2", WatcherEvents{})
		defer second.Close()
		other := w.plan(second, w.store, PlannerOptions{ID: "c2"})
		defer other.Close()
		w.planner.Close()
		w.join("b")
		w.await(time.Second, "the second planner plans", uses("a", "b"))
	})
}

// TestRandomFaults lets nodes come, hang and die, and the store fail, at random, and
// checks at each commit that all experts are held, and that all comes to rest.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 1))
				randomFaults(t, rng, 1<<20, PlannerOptions{Replicas: 1 + rng.IntN(2),
					LoadTimeout: 20 * time.Second})
			})
		})
	}
}

// TestRandomFaultsInLittleRoom does so with nodes that hold a third of the experts at most,
// and refuse more, while a load that changes makes replicas of one expert or another.
func TestRandomFaultsInLittleRoom(t *testing.T) {
	for seed := range uint64(15) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				began := time.Now()
				measure := func() Measured {
					m := measured(1)
					hot := (uint64(time.Since(began)/(40*time.Second)) + seed) % testExperts
					if time.Since(began) > 10*time.Minute {
						hot = 0
					}
					m.Load[0][hot] *= 20
					return m
				}
				randomFaults(t, rand.New(rand.NewPCG(seed, 2)), 6*testReplicas, PlannerOptions{
					Replicas: 2, Spare: 0.25, LoadTimeout: 20 * time.Second, Measure: measure,
					MaxMoveBytes: 2 * testReplicas, RebalanceEvery: 5 * time.Second})
			})
		})
	}
}

// randomFaults runs a cluster of one node that stays and has room for all, and others with
// that capacity.
func randomFaults(t *testing.T, rng *rand.Rand, capacity int64, opts PlannerOptions) {
	store := &Memory{}
	w := newWorld(t, store, opts)
	defer w.close()
	live := map[string]*testNode{"keeper": w.join("keeper")}
	for i := range 40 {
		time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
		id := fmt.Sprintf("n%d", rng.IntN(5))
		n := live[id]
		switch rng.IntN(7) {
		case 0, 1, 2:
			if n == nil {
				node := w.node(id)
				node.CapacityBytes = capacity
				live[id] = w.joinAs(node, w.store)
				live[id].set(nil, time.Duration(rng.IntN(2000))*time.Millisecond)
			}
		case 3:
			if n != nil {
				w.kill(n)
				delete(live, id)
			}
		case 4:
			if n != nil {
				n.gone.Store(true)
				n.member.Close()
				delete(live, id)
			}
		case 5:
			store.SetDown(i%2 == 0)
		case 6:
			store.Compact()
		}
	}
	store.SetDown(false)
	var ids []string
	for id := range live {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	w.await(5*time.Minute, fmt.Sprintf("the plan uses %v", ids), uses(ids...))
	time.Sleep(time.Hour)
	total := 0
	for _, n := range live {
		total += n.count()
	}
	want := 0
	for _, id := range ids {
		want += w.watcher.View().Plan.Count(id)
	}
	if total != want {
		t.Errorf("the nodes hold %d replicas, want %d", total, want)
	}
	last := w.watcher.View()
	time.Sleep(time.Hour)
	if v := w.watcher.View(); v.Revision() != last.Revision() {
		t.Errorf("it does not come to rest: revision %d, then %d", last.Revision(), v.Revision())
	}
}

// TestRestartedNodeCannotLoad restarts a node of the committed plan on a broken disk:
// others take over what it cannot load again.
func TestRestartedNodeCannotLoad(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{LoadTimeout: time.Hour})
		defer w.close()
		a := w.join("a")
		w.join("b")
		w.await(time.Second, "the first plan", uses("a", "b"))
		synctest.Wait() // its commit is checked against the first a
		w.kill(a)
		w.fail = errors.New("disk is broken")
		w.join("a")
		w.await(5*time.Second, "b takes over", uses("b"))
	})
}

// TestHistoryIsBounded counts the plans in the store.
func TestHistoryIsBounded(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{HistoryPlans: 3})
		defer w.close()
		for i := range 6 {
			w.join(fmt.Sprintf("n%d", i))
			w.await(time.Second, "the node takes part", func(v *placement.View) bool {
				return len(v.Plan.NodeIDs) == i+1
			})
		}
		synctest.Wait()
		entries, _, err := w.store.List(t.Context(), w.watcher.opts.Scope.history())
		if err != nil || len(entries) != 3 {
			t.Fatalf("%d plans in the history, %v, want 3", len(entries), err)
		}
		p, err := placement.Decode(entries[2].Value)
		if err != nil || p.Revision != w.watcher.View().Revision() {
			t.Errorf("the last is %+v, %v", p, err)
		}
	})
}

// TestNoRoomIsReported checks that a plan that cannot be is reported once.
func TestNoRoomIsReported(t *testing.T) {
	virtual(t, func(t *testing.T) {
		var refused []error
		w := newWorld(t, &Memory{}, PlannerOptions{Events: PlannerEvents{
			Refused: func(err error) { refused = append(refused, err) }}})
		defer w.close()
		small := w.node("small")
		small.CapacityBytes = testReplicas
		w.joinAs(small, w.store)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(refused) != 1 || !errors.Is(refused[0], placement.ErrNoRoom) {
			t.Errorf("refused: %v", refused)
		}
		w.join("big")
		w.await(time.Second, "a node with room", func(v *placement.View) bool {
			return v.Revision() == 1 && len(v.Uncovered()) == 0
		})
	})
}

func TestPlannerRefuses(t *testing.T) {
	w := &Watcher{opts: WatcherOptions{TTL: DefaultTTL}}
	good := PlannerOptions{ID: "c", Layers: testLayers, Experts: 1, ReplicaBytes: 1}
	for name, spoil := range map[string]func(*PlannerOptions){
		"no id":       func(o *PlannerOptions) { o.ID = "" },
		"no layers":   func(o *PlannerOptions) { o.Layers = nil },
		"no bytes":    func(o *PlannerOptions) { o.ReplicaBytes = 0 },
		"short lease": func(o *PlannerOptions) { o.TTL = time.Millisecond },
		"settle":      func(o *PlannerOptions) { o.Settle = -1 },
		"history":     func(o *PlannerOptions) { o.HistoryPlans = 1000 },
		"rebalance":   func(o *PlannerOptions) { o.RebalanceEvery = time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			spoil(&o)
			if err := o.normalize(w); err == nil {
				t.Error("it is accepted")
			}
		})
	}
}
