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

// record is a history of the operations that reach a store, whatever becomes of their answers.
// Its clock counts their beginnings and ends.
type record struct {
	scope Scope

	mu      sync.Mutex // guards the fields below
	clock   int64
	ops     []porcupine.Operation
	values  map[int64]map[string]string // by ModRevision and key, what anybody has read
	elected map[string]int64            // when the first write began that elects a planner
	changed map[change]int64            // when it was last seen
	open    map[int]change              // by index in ops, what writes of unknown outcome change
}

// change is one that a write makes first.
type change struct {
	key, value string
	deleted    bool
}

func newRecord(scope Scope) *record {
	return &record{scope: scope, values: map[int64]map[string]string{}, elected: map[string]int64{},
		changed: map[change]int64{}, open: map[int]change{}}
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
	r.append(client, call, op, out)
}

// append is add for who holds mu.
func (r *record) append(client int, call int64, op, out any) {
	r.clock++
	r.ops = append(r.ops, porcupine.Operation{ClientId: client, Input: op, Call: call,
		Output: out, Return: r.clock})
}

// addOpen adds a write of unknown outcome, which may be done later, or never.
func (r *record) addOpen(client int, call int64, op planWrite, w Write) {
	var c change
	if len(w.Put) > 0 {
		c.key, c.value = w.Put[0].Key, string(w.Put[0].Value)
	} else {
		c.key, c.deleted = w.Delete[0], true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[len(r.ops)] = c
	r.append(client, call, op, unknown)
}

func (r *record) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops)
}

func (r *record) see(entries []Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		if r.values[e.ModRevision] == nil {
			r.values[e.ModRevision] = map[string]string{}
		}
		r.values[e.ModRevision][e.Key] = string(e.Value)
	}
}

// guard marks the writes that depend on words of quarantines that were written again later: to
// the store that is another record, to the model the same.
func (r *record) guard() {
	r.mu.Lock()
	defer r.mu.Unlock()
	times := map[uint32]int{}
	for _, values := range r.values {
		if value, ok := values[r.scope.quarantine()]; ok {
			times[sumOf(value)]++
		}
	}
	for i, op := range r.ops {
		if w, ok := op.Input.(planWrite); ok && w.ifQuarantine != nil && times[*w.ifQuarantine] > 1 {
			w.guarded = true
			r.ops[i].Input = w
		}
	}
}

// settle bounds the writes of unknown outcome. One that was done was so before its change was
// last seen; one whose change nobody saw is left out, as if it had not been done.
func (r *record) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ops []porcupine.Operation
	for i, op := range r.ops {
		if c, open := r.open[i]; open {
			op.Return = r.changed[c]
			if op.Return < op.Call {
				continue
			}
		}
		ops = append(ops, op)
	}
	r.ops = ops
}

// end is a key that is written last.
func (r *record) end() string { return r.scope.prefix() + "end" }

func (r *record) finish(t *testing.T, store Store) {
	for tries := 0; ; tries++ {
		_, err := store.Commit(t.Context(), Write{Put: []Put{{Key: r.end()}}})
		if err == nil {
			return
		}
		if tries == 20 {
			t.Fatal(err)
		}
		time.Sleep(retryDelay)
	}
}

// watch notes all changes up to the end, and records the ends of planners' leases: with one
// left out that others saw, the history would be an impossible one.
func (r *record) watch(ctx context.Context, store Store) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	planner, seen := "", int64(0)
	each := func(changes []Entry) {
		r.see(changes)
		for _, e := range changes {
			seen = e.ModRevision
			r.mu.Lock()
			r.clock++
			r.changed[change{e.Key, string(e.Value), e.Deleted}] = r.clock
			call := r.elected[planner]
			r.mu.Unlock()
			switch {
			case e.Key == r.end():
				cancel()
			case e.Key == r.scope.planner() && e.Deleted:
				r.add(0, call, planExpiry{planner}, nil)
			case e.Key == r.scope.planner():
				planner = string(e.Value)
			}
		}
	}
	for {
		err := store.Watch(ctx, r.scope.prefix(), seen, each)
		if errors.Is(err, ErrCompacted) {
			return err
		}
		if !pause(ctx, retryDelay) {
			return nil
		}
	}
}

// recorded records what one client does and sees of the placement. It stands at the store,
// behind the network, and knows what the client may never learn: whether a write was done, and
// when. A history that is possible with that is possible without, and much sooner found so.
type recorded struct {
	Store
	record *record
	client int
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

func sumOf(value string) uint32 {
	if value == "" {
		return 0
	}
	return crc32.ChecksumIEEE([]byte(value))
}

func (c *recorded) List(ctx context.Context, prefix string) ([]Entry, int64, error) {
	call, scope := c.record.now(), c.record.scope
	entries, revision, err := c.Store.List(ctx, prefix)
	if err != nil {
		return nil, 0, err
	}
	c.record.see(entries)
	if prefix == scope.prefix() {
		var s planState
		var drained []string
		for _, e := range entries {
			if id, ok := strings.CutPrefix(e.Key, scope.drain()); ok {
				drained = append(drained, id)
			}
			switch e.Key {
			case scope.planner():
				s.planner = string(e.Value)
			case scope.plan():
				s.plan = idOf(string(e.Value))
			case scope.intent():
				s.intent = idOf(string(e.Value))
			case scope.quarantine():
				s.quarantine = sumOf(string(e.Value))
			}
		}
		s.drained = drainedOf(drained)
		c.record.add(c.client, call, planRead{}, s)
	}
	return entries, revision, nil
}

func (c *recorded) Watch(ctx context.Context, prefix string, after int64,
	each func([]Entry)) error {
	return c.Store.Watch(ctx, prefix, after, func(changes []Entry) {
		c.record.see(changes)
		each(changes)
	})
}

// operation translates a write; ok is false if it is none of the placement's.
func (c *recorded) operation(w Write) (op planWrite, ok bool) {
	c.record.mu.Lock()
	defer c.record.mu.Unlock()
	scope := c.record.scope
	for _, cond := range w.If {
		value := c.record.values[cond.ModRevision][cond.Key]
		id, sum := idOf(value), sumOf(value)
		switch cond.Key {
		case scope.planner():
			op.ifPlanner = &value
		case scope.plan():
			op.ifPlan = &id
		case scope.intent():
			op.ifIntent = &id
		case scope.quarantine():
			op.ifQuarantine = &sum
		default:
			op.guarded = true
		}
	}
	for _, p := range w.Put {
		value := string(p.Value)
		id, sum := idOf(value), sumOf(value)
		if node, drains := strings.CutPrefix(p.Key, scope.drain()); drains {
			op.drain, ok = node, true
		}
		switch p.Key {
		case scope.planner():
			op.planner, ok = &value, true
		case scope.plan():
			op.plan, ok = &id, true
		case scope.intent():
			op.intent, ok = &id, true
		case scope.quarantine():
			op.quarantine, ok = &sum, true
		}
	}
	for _, key := range w.Delete {
		if node, drains := strings.CutPrefix(key, scope.drain()); drains {
			op.undrain, ok = node, true
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
		// Who got no answer tries again with the same words, perhaps after its lease has ended.
		if _, again := c.record.elected[*op.planner]; !again {
			c.record.elected[*op.planner] = call
		}
		c.record.mu.Unlock()
	}
	revision, err := c.Store.Commit(ctx, w)
	switch {
	case err == nil:
		c.record.add(c.client, call, op, done)
	case errors.Is(err, ErrConflict):
		c.record.add(c.client, call, op, conflict)
	case !errors.Is(err, ErrLeaseGone): // then nothing was written, whatever the state
		c.record.addOpen(c.client, call, op, w)
	}
	return revision, err
}

// tardy brings some writes to a store after the client gave them up, perhaps when another
// planner was elected.
type tardy struct {
	Store
	chance func(n int) int
	late   *sync.WaitGroup // the writes that are on their way
}

func (s *tardy) Commit(ctx context.Context, w Write) (int64, error) {
	if s.chance(10) != 0 {
		return s.Store.Commit(ctx, w)
	}
	delay := time.Duration(s.chance(3000)) * time.Millisecond
	s.late.Go(func() {
		time.Sleep(delay)
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_, _ = s.Store.Commit(limited, w) // nobody waits for the answer
	})
	return 0, errLost
}

// client is the store of one client, recorded and over a network of its own.
func (r *record) client(id int, base Store, rng *rand.Rand, late *sync.WaitGroup) (*faulty, Store) {
	var mu sync.Mutex
	own := rand.New(rand.NewPCG(rng.Uint64(), 2))
	chance := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return own.IntN(n)
	}
	network := &faulty{Store: &recorded{Store: base, record: r, client: id},
		before: func() (time.Duration, error) {
			if chance(20) == 0 {
				return 0, errLost
			}
			return time.Duration(chance(20)) * time.Millisecond, nil
		},
		lost: func() bool { return chance(20) == 0 },
	}
	return network, &tardy{Store: network, chance: chance, late: late}
}

// history runs three planners that accuse nodes now and then, readers, an operator who drains
// nodes, and nodes that come and go, over a network that delays and loses calls and answers,
// until so many operations are recorded.
func history(t *testing.T, base Store, rng *rand.Rand, count int) []porcupine.Operation {
	w := &world{t: t, store: base, ttl: minTTL, nodes: map[string]*testNode{}}
	scope := Scope{Model: testModel}
	scope.setDefaults()
	r := newRecord(scope)
	var running, late, watching sync.WaitGroup
	watching.Go(func() {
		if err := r.watch(t.Context(), base); err != nil {
			t.Errorf("the watch of all changes: %v", err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	networks := map[int]*faulty{}
	client := func(id int) (store Store) {
		networks[id], store = r.client(id, base, rng, &late)
		return store
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
		a, err := StartAccuser(ctx, store, watcher, fmt.Sprintf("c%d", id))
		if err != nil {
			t.Fatal(err)
		}
		pace := rand.New(rand.NewPCG(rng.Uint64(), 5))
		running.Go(func() { accuseSome(ctx, pace, watcher, a) })
		stops = append(stops, p.Close, a.Close, watcher.Close)
	}
	operator, pace := client(7), rand.New(rand.NewPCG(rng.Uint64(), 6))
	running.Go(func() { drainSome(ctx, pace, operator, scope) })
	for id := range 3 {
		reader, pace := client(4+id), rand.New(rand.NewPCG(rng.Uint64(), 4))
		running.Go(func() {
			for pause(ctx, time.Duration(pace.IntN(200))*time.Millisecond) {
				_, _, _ = reader.List(ctx, scope.prefix()) // what fails says nothing
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
	late.Wait()
	r.finish(t, base)
	watching.Wait()
	r.guard()
	r.settle()
	return r.ops
}

// accuseSome reports a registered node now and then, until ctx ends.
func accuseSome(ctx context.Context, rng *rand.Rand, w *Watcher, a *Accuser) {
	for pause(ctx, time.Duration(rng.IntN(20_000))*time.Millisecond) {
		if nodes := w.Nodes(); len(nodes) > 0 {
			n := nodes[rng.IntN(len(nodes))]
			a.Report(Finding{NodeID: n.ID, Epoch: n.Epoch, Layer: 1, Agreed: rng.IntN(2) == 0})
		}
	}
}

// drainSome drains nodes and takes that back, until ctx ends. Some stay drained where the
// answer to the second is lost.
func drainSome(ctx context.Context, rng *rand.Rand, store Store, scope Scope) {
	for pause(ctx, time.Duration(rng.IntN(5000))*time.Millisecond) {
		key := fmt.Sprintf("%sn%d", scope.drain(), rng.IntN(6))
		_, _ = store.Commit(ctx, Write{Put: []Put{{Key: key, Value: []byte("{}")}}}) // it is recorded
		pause(ctx, time.Duration(rng.IntN(1000))*time.Millisecond)
		_, _ = store.Commit(ctx, Write{Delete: []string{key}})
	}
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

// spoilt is a history of which one read, of those in the middle, is changed.
func spoilt(ops []porcupine.Operation, spoil func(*planState)) []porcupine.Operation {
	ops = slices.Clone(ops)
	for i := len(ops) / 2; i < len(ops); i++ {
		if s, ok := ops[i].Output.(planState); ok {
			spoil(&s)
			ops[i].Output = s
			break
		}
	}
	return ops
}

// TestLinearizable records what planners and readers do and see of the placement while
// calls and answers are late or lost and planners hang, and checks that it could have
// happened one after another by the rules of the plans.
func TestLinearizable(t *testing.T) {
	check := func(t *testing.T, ops []porcupine.Operation) (words, drains int) {
		var plans uint64
		writes, ends := map[any]int{}, 0
		for _, op := range ops {
			if w, ok := op.Input.(planWrite); ok && op.Output == done {
				if w.quarantine != nil {
					words++
				} else if w.drain+w.undrain != "" {
					drains++
				}
			}
			switch s := op.Output.(type) {
			case planState:
				plans = max(plans, s.plan.revision)
			case outcome:
				writes[s]++
			case nil:
				ends++
			}
		}
		t.Logf("%d operations, %d revisions, %v writes, of them %d of quarantines and %d of drains;"+
			" %d ends of planners' leases", len(ops), plans, writes, words, drains, ends)
		began := time.Now()
		if got := checkPlans(ops); got != porcupine.Ok {
			t.Errorf("the history of %d operations is %v, want %v", len(ops), got, porcupine.Ok)
		}
		t.Logf("checked in %v", time.Since(began))
		return words, drains
	}
	t.Run("memory", func(t *testing.T) {
		var ops []porcupine.Operation
		virtual(t, func(t *testing.T) {
			ops = history(t, &Memory{}, rand.New(rand.NewPCG(1, 1)), 10_000)
		})
		if words, drains := check(t, ops); words == 0 || drains == 0 {
			t.Errorf("%d quarantines and %d drains were written, want some of both", words, drains)
		}
		// A checker that finds nothing proves nothing: one read of what was not is found.
		for what, spoil := range map[string]func(*planState){
			"plan":       func(s *planState) { s.plan.revision-- },
			"quarantine": func(s *planState) { s.quarantine++ },
			"drained":    func(s *planState) { s.drained += " n9" },
		} {
			began := time.Now()
			if got := checkPlans(spoilt(ops, spoil)); got != porcupine.Illegal {
				t.Errorf("a history with a read of a wrong %s is %v, want %v", what, got, porcupine.Illegal)
			}
			t.Logf("a read of a wrong %s: checked in %v", what, time.Since(began))
		}
	})
	t.Run("etcd", func(t *testing.T) {
		check(t, history(t, startEtcd(t), rand.New(rand.NewPCG(2, 1)), 400))
	})
}
