package cluster

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"drover/placement"
)

// The model of the placement's keys: who plans, the committed plan, the intent. Unlike
// the store, it knows the rules of the plans (C1 to C3).

// planID names the content of a plan's record; the zero planID is no record.
type planID struct {
	revision uint64
	sum      uint32
}

type planState struct {
	planner      string // who is elected; empty: nobody
	plan, intent planID
}

// planWrite is a write: what must be so, and what is then so. Nil is anything, or nothing.
type planWrite struct {
	ifPlanner, planner             *string
	ifPlan, ifIntent, plan, intent *planID
	// guarded says that there are conditions beside, on what nodes write of themselves: the
	// model does not know whether they hold.
	guarded bool
}

type planRead struct{}

// planExpiry is the end of an elected planner's lease.
type planExpiry struct{ planner string }

// Outcomes of a planWrite. That of a planRead is a planState.
type outcome string

const (
	done     outcome = "done"
	conflict outcome = "conflict"
	unknown  outcome = "unknown" // done or not
)

// holds tells whether the conditions of a write do.
func (w planWrite) holds(s planState) bool {
	return (w.ifPlanner == nil || *w.ifPlanner == s.planner) &&
		(w.ifPlan == nil || *w.ifPlan == s.plan) && (w.ifIntent == nil || *w.ifIntent == s.intent)
}

// apply does a write. It is false if the write breaks a rule.
func (w planWrite) apply(s planState) (next planState, ok bool) {
	if w.planner != nil {
		if s.planner != "" {
			return s, false // one planner (C2)
		}
		s.planner = *w.planner
	}
	if (w.plan != nil || w.intent != nil) && (w.ifPlanner == nil || *w.ifPlanner == "") {
		return s, false // only the planner writes plans (C2)
	}
	if w.intent != nil {
		if w.intent.revision <= max(s.plan.revision, s.intent.revision) {
			return s, false // a revision is used once (C3)
		}
		s.intent = *w.intent
	}
	if w.plan != nil {
		if *w.plan != s.intent || w.plan.revision <= s.plan.revision {
			return s, false // what is committed was intended (C1)
		}
		s.plan = *w.plan
	}
	return s, true
}

// step returns the states after an operation with an outcome.
func (s planState) step(op, out any) (next []planState) {
	switch op := op.(type) {
	case planRead:
		if out == s {
			return []planState{s}
		}
	case planExpiry:
		if op.planner == s.planner {
			s.planner = ""
			return []planState{s}
		}
	case planWrite:
		if out == unknown || out == conflict && (op.guarded || !op.holds(s)) {
			next = append(next, s)
		}
		if out != conflict && op.holds(s) {
			if after, ok := op.apply(s); ok {
				next = append(next, after)
			}
		}
	}
	return next
}

func planModel() porcupine.Model {
	return (&porcupine.NondeterministicModel{
		Init: func() []any { return []any{planState{}} },
		Step: func(state, op, out any) (next []any) {
			for _, s := range state.(planState).step(op, out) {
				next = append(next, s)
			}
			return next
		},
	}).ToModel()
}

// record is a history of operations. Its clock counts their beginnings and ends.
type record struct {
	scope Scope

	mu      sync.Mutex // guards the fields below
	clock   int64
	ops     []porcupine.Operation
	elected map[string]int64 // when the write that elects a planner began
	late    sync.WaitGroup   // writes that are on their way
}

func (r *record) now() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	return r.clock
}

func (r *record) add(client int, call int64, op, out any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	r.ops = append(r.ops, porcupine.Operation{ClientId: client, Input: op, Call: call,
		Output: out, Return: r.clock})
}

func (r *record) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops)
}

// expiries records the ends of planners' leases until ctx ends.
func (r *record) expiries(ctx context.Context, store Store) {
	planner := ""
	_ = store.Watch(ctx, r.scope.planner(), 0, func(changes []Entry) {
		for _, e := range changes {
			if !e.Deleted {
				planner = string(e.Value)
				continue
			}
			r.mu.Lock()
			call := r.elected[planner]
			r.mu.Unlock()
			r.add(0, call, planExpiry{planner}, nil)
		}
	})
}

// recorded is the store of one client. It records what the client does and sees of the
// placement, and brings some writes late.
type recorded struct {
	Store
	record *record
	client int

	mu     sync.Mutex // guards the fields below
	rng    *rand.Rand
	values map[int64]map[string]string // by ModRevision and key, what the client has seen
}

func (c *recorded) see(entries []Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range entries {
		if c.values[e.ModRevision] == nil {
			c.values[e.ModRevision] = map[string]string{}
		}
		c.values[e.ModRevision][e.Key] = string(e.Value)
	}
}

func idOf(value string) planID {
	if value == "" {
		return planID{}
	}
	p, err := placement.Decode([]byte(value))
	if err != nil {
		return planID{sum: 1} // no rule allows it
	}
	return planID{p.Revision, crc32.ChecksumIEEE([]byte(value))}
}

func (c *recorded) List(ctx context.Context, prefix string) ([]Entry, int64, error) {
	call, scope := c.record.now(), c.record.scope
	entries, revision, err := c.Store.List(ctx, prefix)
	if err != nil {
		return nil, 0, err
	}
	c.see(entries)
	if strings.HasPrefix(scope.placement(), prefix) {
		var s planState
		for _, e := range entries {
			switch e.Key {
			case scope.planner():
				s.planner = string(e.Value)
			case scope.plan():
				s.plan = idOf(string(e.Value))
			case scope.intent():
				s.intent = idOf(string(e.Value))
			}
		}
		c.record.add(c.client, call, planRead{}, s)
	}
	return entries, revision, nil
}

func (c *recorded) Watch(ctx context.Context, prefix string, after int64,
	each func([]Entry)) error {
	return c.Store.Watch(ctx, prefix, after, func(changes []Entry) {
		c.see(changes)
		each(changes)
	})
}

// operation translates a write; ok is false if it is none of the placement's.
func (c *recorded) operation(w Write) (op planWrite, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	scope := c.record.scope
	for _, cond := range w.If {
		value := c.values[cond.ModRevision][cond.Key]
		id := idOf(value)
		switch cond.Key {
		case scope.planner():
			op.ifPlanner = &value
		case scope.plan():
			op.ifPlan = &id
		case scope.intent():
			op.ifIntent = &id
		default:
			op.guarded = true
		}
	}
	for _, p := range w.Put {
		value := string(p.Value)
		id := idOf(value)
		switch p.Key {
		case scope.planner():
			op.planner, ok = &value, true
		case scope.plan():
			op.plan, ok = &id, true
		case scope.intent():
			op.intent, ok = &id, true
		}
	}
	return op, ok
}

func (c *recorded) Commit(ctx context.Context, w Write) (int64, error) {
	op, ok := c.operation(w)
	if !ok {
		return c.Store.Commit(ctx, w)
	}
	call := c.record.now()
	if op.planner != nil {
		c.record.mu.Lock()
		c.record.elected[*op.planner] = call
		c.record.mu.Unlock()
	}
	c.mu.Lock()
	late, delay := c.rng.IntN(10) == 0, time.Duration(c.rng.IntN(3000))*time.Millisecond
	c.mu.Unlock()
	if late { // it arrives after the client gave it up, perhaps when another was elected
		c.record.late.Go(func() {
			time.Sleep(delay)
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
			defer cancel()
			_, _ = c.Store.Commit(limited, w) // that it is unknown is the point
			c.record.add(c.client, call, op, unknown)
		})
		return 0, errLost
	}
	revision, err := c.Store.Commit(ctx, w)
	out := unknown
	switch {
	case err == nil:
		out = done
	case errors.Is(err, ErrConflict):
		out = conflict
	case errors.Is(err, ErrLeaseGone):
		return 0, err // nothing was written, whatever the state
	}
	c.record.add(c.client, call, op, out)
	return revision, err
}

// history runs three planners, readers and nodes that come and go, over a network that
// delays and loses calls and answers, until so many operations are recorded.
func history(t *testing.T, base Store, rng *rand.Rand, count int) []porcupine.Operation {
	w := &world{t: t, store: base, ttl: minTTL, nodes: map[string]*testNode{}}
	scope := Scope{Model: testModel}
	scope.setDefaults()
	r := &record{scope: scope, elected: map[string]int64{}}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.expiries(ctx, base) })
	networks := map[int]*faulty{}
	client := func(id int) *recorded {
		var mu sync.Mutex
		own := rand.New(rand.NewPCG(rng.Uint64(), 2))
		chance := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return own.IntN(n)
		}
		networks[id] = &faulty{Store: base,
			before: func() (time.Duration, error) {
				if chance(20) == 0 {
					return 0, errLost
				}
				return time.Duration(chance(20)) * time.Millisecond, nil
			},
			lost: func() bool { return chance(20) == 0 },
		}
		return &recorded{Store: networks[id], record: r, client: id,
			rng:    rand.New(rand.NewPCG(rng.Uint64(), 3)),
			values: map[int64]map[string]string{}}
	}
	var stops []func()
	for id := range 3 {
		store, last := client(1+id), uint64(0)
		watcher, err := Watch(ctx, store, WatcherOptions{Scope: scope, TTL: w.ttl,
			NumericMode: "bf16", KernelClass: "avx2", Events: WatcherEvents{
				Committed: func(p *placement.Plan) {
					if p.Revision <= last {
						t.Errorf("watcher %d sees revision %d after %d", id, p.Revision, last)
					}
					last = p.Revision
				}}})
		if err != nil {
			t.Fatal(err)
		}
		p := w.plan(watcher, store, PlannerOptions{ID: fmt.Sprintf("c%d", id),
			Settle: 10 * time.Millisecond})
		stops = append(stops, p.Close, watcher.Close)
	}
	for id := range 3 {
		reader, pace := client(4+id), rand.New(rand.NewPCG(rng.Uint64(), 4))
		running.Go(func() {
			for pause(ctx, time.Duration(pace.IntN(200))*time.Millisecond) {
				_, _, _ = reader.List(ctx, scope.placement()) // what fails says nothing
			}
		})
	}
	w.churn(rng, r, networks, count)
	for _, stop := range stops {
		stop()
	}
	cancel()
	running.Wait()
	for _, n := range w.nodes {
		n.member.Close()
	}
	r.late.Wait()
	return r.ops
}

// churn lets nodes come and go, and planners hang for longer than their leases last.
func (w *world) churn(rng *rand.Rand, r *record, networks map[int]*faulty, count int) {
	var hangs *faulty
	for r.count() < count && !w.t.Failed() {
		time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
		switch id := fmt.Sprintf("n%d", rng.IntN(6)); {
		case rng.IntN(10) == 0 && hangs == nil:
			hangs = networks[1+rng.IntN(3)]
			hangs.stop()
		case rng.IntN(40) == 0 && hangs != nil:
			hangs.resume()
			hangs = nil
		case w.nodes[id] == nil:
			w.join(id)
		default:
			w.nodes[id].member.Close()
			delete(w.nodes, id)
		}
	}
	if hangs != nil {
		hangs.resume()
	}
}

// TestLinearizable records what planners and readers do and see of the placement while
// calls and answers are late or lost and planners hang, and checks that it could have
// happened one after another by the rules of the plans.
func TestLinearizable(t *testing.T) {
	check := func(t *testing.T, ops []porcupine.Operation) {
		var plans uint64
		writes, ends := map[any]int{}, 0
		for _, op := range ops {
			switch s := op.Output.(type) {
			case planState:
				plans = max(plans, s.plan.revision)
			case outcome:
				writes[s]++
			case nil:
				ends++
			}
		}
		t.Logf("%d operations, %d revisions, %v writes, %d ends of planners' leases", len(ops),
			plans, writes, ends)
		began := time.Now()
		if got := porcupine.CheckOperationsTimeout(planModel(), ops, time.Minute); got != porcupine.Ok {
			t.Errorf("the history of %d operations is %v, want %v", len(ops), got, porcupine.Ok)
		}
		t.Logf("checked in %v", time.Since(began))
	}
	t.Run("memory", func(t *testing.T) {
		var ops []porcupine.Operation
		virtual(t, func(t *testing.T) {
			ops = history(t, &Memory{}, rand.New(rand.NewPCG(1, 1)), 10_000)
		})
		check(t, ops)
		// A checker that finds nothing proves nothing: one read of the past is found.
		ops = slices.Clone(ops[:1000])
		for i := len(ops) - 1; i >= 0; i-- {
			if s, ok := ops[i].Output.(planState); ok && s.plan.revision > 3 {
				s.plan.revision--
				ops[i].Output = s
				break
			}
		}
		if got := porcupine.CheckOperationsTimeout(planModel(), ops, time.Minute); got != porcupine.Illegal {
			t.Errorf("a history with a read of the past is %v, want %v", got, porcupine.Illegal)
		}
	})
	t.Run("etcd", func(t *testing.T) {
		check(t, history(t, startEtcd(t), rand.New(rand.NewPCG(2, 1)), 400))
	})
}
