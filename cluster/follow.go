package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"time"
)

const (
	retryDelay = 500 * time.Millisecond
	// callTimeout bounds one call of the store.
	callTimeout = 5 * time.Second
	// slowProbe is how often a follower checks that the store is still the same one, if
	// nobody needs to know sooner.
	slowProbe = 5 * time.Second
)

var errReplaced = errors.New("cluster: the store was replaced by another")

// follower keeps a copy of the entries under a prefix. One goroutine runs it.
type follower struct {
	store  Store
	scope  Scope
	prefix string
	// apply gets the copy after each change; it must not keep or change the map. Fresh
	// says that the copy was read anew, after a break of unknown length.
	apply func(entries map[string]Entry, revision int64, fresh bool)
	// away is called when the store does not answer, with nil when it does again.
	away   func(error)
	isAway bool // touched by run, or by the probe that run waits for
	// probeEvery is how often to ask whether the store is there and the same one;
	// answered is called when it was.
	probeEvery time.Duration
	answered   func()
}

// contact tells the outages of a store by the gaps between its answers. A watch alone
// does not: it is silent while nothing happens, and goes on where it was when a store
// returns that stood still for longer than leases last.
type contact struct {
	patience time.Duration // a longer gap is an outage
	last     time.Time     // when the store answered last; zero: never
	returned time.Time     // when the last outage ended; zero: there was none
}

func (c *contact) answered(now time.Time) {
	if c.away(now) {
		c.returned = now
	}
	c.last = now
}

// away tells whether an outage goes on.
func (c *contact) away(now time.Time) bool {
	return !c.last.IsZero() && now.Sub(c.last) > c.patience
}

// doubt is until when the absence of a key that was under a lease proves nothing: who
// held it has a lease's time after the return of the store to come back.
func (c *contact) doubt(now time.Time, ttl time.Duration) time.Time {
	switch {
	case c.away(now):
		return now.Add(ttl)
	case c.returned.IsZero():
		return time.Time{}
	}
	return c.returned.Add(ttl)
}

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) {
	for ctx.Err() == nil {
		identity, entries, revision, err := f.load(ctx)
		if err == nil {
			f.report(nil)
			f.answered()
			err = f.watch(ctx, identity, entries, revision)
		}
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, ErrCompacted) && !errors.Is(err, errReplaced) {
			f.report(err)
			pause(ctx, retryDelay)
		}
	}
}

// report calls away when the store's state changes.
func (f *follower) report(err error) {
	if f.isAway != (err != nil) {
		f.isAway = err != nil
		f.away(err)
	}
}

func (f *follower) load(ctx context.Context) (string, map[string]Entry, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	identity, err := readIdentity(ctx, f.store, f.scope)
	if err == nil && identity == "" {
		// It must be there before the copy is made, so that the copy is of that store.
		if err = ensureIdentity(ctx, f.store, f.scope); err == nil {
			identity, err = readIdentity(ctx, f.store, f.scope)
		}
	}
	if err != nil {
		return "", nil, 0, err
	}
	list, revision, err := f.store.List(ctx, f.prefix)
	entries := make(map[string]Entry, len(list))
	for _, e := range list {
		entries[e.Key] = e
	}
	return identity, entries, revision, err
}

// watch applies changes until the watch breaks. Meanwhile it checks now and then that
// the store is the one that the copy came from: a store that lost its state and starts
// again at revision 1 would leave the watch waiting for ever.
func (f *follower) watch(ctx context.Context, identity string, entries map[string]Entry,
	revision int64) error {
	f.apply(maps.Clone(entries), revision, true)
	ctx, cancel := context.WithCancelCause(ctx)
	probed := make(chan struct{})
	go func() {
		defer close(probed)
		f.probe(ctx, identity, cancel)
	}()
	err := f.store.Watch(ctx, f.prefix, revision, func(changes []Entry) {
		entries = maps.Clone(entries)
		for _, c := range changes {
			if c.Deleted {
				delete(entries, c.Key)
			} else {
				entries[c.Key] = c
			}
			revision = max(revision, c.ModRevision)
		}
		f.apply(entries, revision, false)
	})
	if errors.Is(context.Cause(ctx), errReplaced) {
		err = errReplaced
	}
	cancel(nil)
	<-probed
	return err
}

func (f *follower) probe(ctx context.Context, identity string, cancel context.CancelCauseFunc) {
	for pause(ctx, f.probeEvery) {
		call, done := context.WithTimeout(ctx, callTimeout)
		now, err := readIdentity(call, f.store, f.scope)
		done()
		if err == nil && now != identity {
			cancel(errReplaced)
			return
		}
		if ctx.Err() != nil {
			return
		}
		f.report(err) // a watch of etcd waits in silence
		if err == nil {
			f.answered()
		}
	}
}

// The identity of a store is a random text under a key of its own, written once.

func (s Scope) identity() string { return s.prefix() + "identity" }

func readIdentity(ctx context.Context, store Store, scope Scope) (string, error) {
	entries, _, err := store.List(ctx, scope.identity())
	if err != nil || len(entries) == 0 {
		return "", err
	}
	return string(entries[0].Value), nil
}

// ensureIdentity lets the store have one. An expert node may not write it (NodeKeys): it finds
// one, or waits until one was made by Found or by a coordinator.
func ensureIdentity(ctx context.Context, store Store, scope Scope) error {
	if now, err := readIdentity(ctx, store, scope); err != nil || now != "" {
		return err
	}
	_, err := store.Commit(ctx, Write{
		If:  []Cond{{Key: scope.identity()}},
		Put: []Put{{Key: scope.identity(), Value: []byte(rand.Text())}},
	})
	if errors.Is(err, ErrConflict) {
		return nil
	}
	return err
}

// Found writes what a cluster needs in a store that is new. It may be done again.
func Found(ctx context.Context, store Store, cluster string) error {
	s := Scope{Cluster: cluster}
	s.setDefaults()
	return ensureIdentity(ctx, store, s)
}

// pause waits, and returns false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
