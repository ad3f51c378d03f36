package sim

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"drover/cluster"
)

// authority is the store that all processes share, with its faults.
type authority struct {
	world  *world
	memory atomic.Pointer[cluster.Memory]

	mu       sync.Mutex // guards the fields below
	slow     time.Duration
	away     int
	unfenced bool                     // tests break the rule: writes have no conditions
	leases   map[cluster.Lease]string // by their owners
	watches  map[context.Context]context.CancelCauseFunc
}

var (
	errStoreFault = errors.New("sim: the store failed")
	errBroken     = errors.New("sim: the watch broke")
)

func newAuthority(w *world) *authority {
	a := &authority{world: w, leases: map[cluster.Lease]string{},
		watches: map[context.Context]context.CancelCauseFunc{}}
	a.memory.Store(&cluster.Memory{})
	return a
}

// breakWatches ends all watches with an error, and tells how many there were.
func (a *authority) breakWatches() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(a.watches)
	for _, cancel := range a.watches {
		cancel(errBroken)
	}
	return n
}

// setAway adds to the number of faults that make the store answer nobody.
func (a *authority) setAway(by int) {
	a.mu.Lock()
	a.away += by
	down := a.away > 0
	a.mu.Unlock()
	a.memory.Load().SetDown(down)
}

func (a *authority) setSlow(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.slow = d
}

// replace puts an empty store in the place of the present one.
func (a *authority) replace() {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, next := a.memory.Load(), &cluster.Memory{}
	next.SetDown(a.away > 0)
	a.memory.Store(next)
	old.SetDown(true)
}

// endLease revokes the leases of an owner, as if they had expired.
func (a *authority) endLease(owner string) (ended int) {
	a.mu.Lock()
	var gone []cluster.Lease
	for l, o := range a.leases {
		if o == owner {
			gone = append(gone, l)
			delete(a.leases, l)
		}
	}
	a.mu.Unlock()
	a.world.watch.mu.Lock() // or a lease might end between a commit and the look at it
	defer a.world.watch.mu.Unlock()
	for _, l := range gone {
		if a.memory.Load().Revoke(context.Background(), l) == nil {
			ended++
		}
	}
	return ended
}

// storeClient is one process's way to the store.
type storeClient struct {
	*authority
	owner string
	gate  *gate         // of the process
	far   time.Duration // how long a call takes

	fault  sync.Mutex // guards the fields below
	cut    int
	refuse int           // writes that are not done and return an error
	lost   int           // writes that are done and return an error
	mended chan struct{} // closed and replaced when cut changes
}

var _ cluster.Store = (*storeClient)(nil)

func (a *authority) client(owner string, g *gate) *storeClient {
	far := uint64(0)
	for _, c := range []byte(owner) {
		far = mix(far, uint64(c))
	}
	return &storeClient{authority: a, owner: owner, gate: g, mended: make(chan struct{}),
		far: 200*time.Microsecond + time.Duration(far%100_000)}
}

// reach waits until a call gets to the store: for the process, the network and the
// store's own time.
func (c *storeClient) reach(ctx context.Context) error {
	for {
		if !c.gate.pass() {
			return errKilled
		}
		c.fault.Lock()
		cut, mended := c.cut > 0, c.mended
		c.fault.Unlock()
		if !cut {
			break
		}
		c.world.fired.fire(StoreCut)
		select {
		case <-mended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	c.mu.Lock()
	d := c.far
	if c.slow > 0 {
		c.world.fired.fire(StoreSlow)
		d = c.slow
	}
	c.mu.Unlock()
	if !c.gate.sleep(ctx, d) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errKilled
	}
	if !c.gate.pass() {
		return errKilled
	}
	return nil
}

// List implements cluster.Store.
func (c *storeClient) List(ctx context.Context, prefix string) ([]cluster.Entry, int64, error) {
	if err := c.reach(ctx); err != nil {
		return nil, 0, err
	}
	return c.memory.Load().List(ctx, prefix)
}

// Commit implements cluster.Store.
func (c *storeClient) Commit(ctx context.Context, w cluster.Write) (int64, error) {
	if err := c.reach(ctx); err != nil {
		return 0, err
	}
	c.fault.Lock()
	refuse, lost := c.refuse > 0, false
	if refuse {
		c.refuse--
	} else if lost = c.lost > 0; lost {
		c.lost--
	}
	c.fault.Unlock()
	if refuse {
		c.world.fired.fire(StoreRefuses)
		return 0, errStoreFault
	}
	// What is written and whether it may be is looked at as one step.
	if c.unfenced {
		w.If = nil
	}
	c.world.watch.mu.Lock()
	revision, err := c.memory.Load().Commit(ctx, w)
	if err == nil {
		c.world.watch.committed(c, w, revision)
	}
	c.world.watch.mu.Unlock()
	if lost && err == nil {
		c.world.fired.fire(StoreLoses)
		return 0, errStoreFault
	}
	return revision, err
}

// Grant implements cluster.Store.
func (c *storeClient) Grant(ctx context.Context, ttl time.Duration) (cluster.Lease, error) {
	if err := c.reach(ctx); err != nil {
		return 0, err
	}
	l, err := c.memory.Load().Grant(ctx, ttl)
	if err == nil {
		c.mu.Lock()
		c.leases[l] = c.owner
		c.mu.Unlock()
	}
	return l, err
}

// KeepAlive implements cluster.Store.
func (c *storeClient) KeepAlive(ctx context.Context, l cluster.Lease) error {
	if err := c.reach(ctx); err != nil {
		return err
	}
	return c.memory.Load().KeepAlive(ctx, l)
}

// Revoke implements cluster.Store.
func (c *storeClient) Revoke(ctx context.Context, l cluster.Lease) error {
	if err := c.reach(ctx); err != nil {
		return err
	}
	c.world.watch.mu.Lock()
	defer c.world.watch.mu.Unlock()
	return c.memory.Load().Revoke(ctx, l)
}

// Watch implements cluster.Store.
func (c *storeClient) Watch(ctx context.Context, prefix string, after int64,
	each func([]cluster.Entry)) error {
	if err := c.reach(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.mu.Lock()
	c.watches[ctx] = cancel
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.watches, ctx)
		c.mu.Unlock()
	}()
	err := c.memory.Load().Watch(ctx, prefix, after, func(changes []cluster.Entry) {
		if c.reach(ctx) == nil {
			each(changes)
		}
	})
	if !c.gate.alive() {
		return errKilled
	}
	return err
}

// has tells whether a write puts a key that ends so.
func has(w cluster.Write, suffix string) ([]byte, bool) {
	for _, p := range w.Put {
		if strings.HasSuffix(p.Key, suffix) {
			return p.Value, true
		}
	}
	return nil, false
}
