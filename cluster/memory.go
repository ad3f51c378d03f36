package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// memoryHistory is how many changes a Memory keeps for watches.
const memoryHistory = 1024

var errDown = errors.New("cluster: the store is down")

// Memory is a Store within one process: for tests, and for a cluster that needs no
// other process. The zero Memory is ready.
type Memory struct {
	mu       sync.Mutex // guards the fields below
	revision int64
	entries  map[string]memoryEntry
	leases   map[Lease]*memoryLease
	history  []Entry       // ascending by ModRevision
	compact  int64         // changes up to this revision are forgotten
	changed  chan struct{} // closed at the next change; nil while nobody waits
	down     bool
}

type memoryEntry struct {
	Entry
	lease Lease
}

type memoryLease struct {
	ttl   time.Duration
	timer *time.Timer
}

// SetDown makes all calls fail and breaks the watches, as if the store were away, or
// brings it back. Like etcd, it gives each lease its full time when it comes back.
func (m *Memory) SetDown(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
	for _, l := range m.leases {
		if down {
			l.timer.Stop()
		} else {
			l.timer.Reset(l.ttl)
		}
	}
	m.wakeWatches()
}

// Compact forgets the history so far, so that a watch from before returns ErrCompacted.
func (m *Memory) Compact() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.history, m.compact = nil, m.revision
}

// enter locks the store unless it is down or ctx has ended.
func (m *Memory) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	m.mu.Lock()
	if m.down {
		m.mu.Unlock()
		return errDown
	}
	return nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, prefix string) ([]Entry, int64, error) {
	if err := m.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer m.mu.Unlock()
	var found []Entry
	for k, e := range m.entries {
		if strings.HasPrefix(k, prefix) {
			found = append(found, e.Entry)
		}
	}
	slices.SortFunc(found, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	return found, m.revision, nil
}

// Commit implements Store.
func (m *Memory) Commit(ctx context.Context, w Write) (int64, error) {
	if err := w.validate(); err != nil {
		return 0, err
	}
	if err := m.enter(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	for _, c := range w.If {
		if m.entries[c.Key].ModRevision != c.ModRevision {
			return 0, ErrConflict
		}
	}
	for _, p := range w.Put {
		if p.Lease != 0 && m.leases[p.Lease] == nil {
			return 0, ErrLeaseGone
		}
	}
	if len(w.Put)+len(w.Delete) == 0 {
		return m.revision, nil
	}
	next := m.revision + 1
	var changes []Entry
	for _, p := range w.Put {
		e := Entry{Key: p.Key, Value: slices.Clone(p.Value), ModRevision: next}
		if m.entries == nil {
			m.entries = map[string]memoryEntry{}
		}
		m.entries[p.Key] = memoryEntry{e, p.Lease}
		changes = append(changes, e)
	}
	m.record(append(changes, m.remove(w.Delete, next)...))
	return m.revision, nil
}

// remove deletes those of the keys that exist.
func (m *Memory) remove(keys []string, revision int64) (changes []Entry) {
	for _, k := range keys {
		if _, ok := m.entries[k]; ok {
			delete(m.entries, k)
			changes = append(changes, Entry{Key: k, ModRevision: revision, Deleted: true})
		}
	}
	return changes
}

// record makes changes visible under the next revision.
func (m *Memory) record(changes []Entry) {
	if len(changes) == 0 {
		return
	}
	m.revision++
	m.history = append(m.history, changes...)
	for len(m.history) > memoryHistory {
		m.compact = m.history[0].ModRevision
		for len(m.history) > 0 && m.history[0].ModRevision == m.compact {
			m.history = m.history[1:]
		}
	}
	m.wakeWatches()
}

func (m *Memory) wakeWatches() {
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// Grant implements Store.
func (m *Memory) Grant(ctx context.Context, ttl time.Duration) (Lease, error) {
	if err := m.enter(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	id := Lease(rand.Int64()) // never one of another store's
	if m.leases == nil {
		m.leases = map[Lease]*memoryLease{}
	}
	m.leases[id] = &memoryLease{ttl, time.AfterFunc(ttl, func() { m.expire(id) })}
	return id, nil
}

// KeepAlive implements Store.
func (m *Memory) KeepAlive(ctx context.Context, id Lease) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	l := m.leases[id]
	if l == nil {
		return ErrLeaseGone
	}
	l.timer.Reset(l.ttl)
	return nil
}

// Revoke implements Store.
func (m *Memory) Revoke(ctx context.Context, id Lease) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	m.end(id)
	return nil
}

func (m *Memory) expire(id Lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.down {
		m.end(id)
	}
}

// end deletes a lease with its keys.
func (m *Memory) end(id Lease) {
	l := m.leases[id]
	if l == nil {
		return
	}
	l.timer.Stop()
	delete(m.leases, id)
	var keys []string
	for k, e := range m.entries {
		if e.lease == id {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	m.record(m.remove(keys, m.revision+1))
}

// Watch implements Store.
func (m *Memory) Watch(ctx context.Context, prefix string, after int64,
	each func([]Entry)) error {
	for {
		if err := m.enter(ctx); err != nil {
			return err
		}
		batch, err := m.since(after)
		if m.changed == nil {
			m.changed = make(chan struct{})
		}
		changed := m.changed
		m.mu.Unlock()
		if err != nil {
			return err
		}
		for len(batch) > 0 {
			after = batch[0].ModRevision
			n := 0
			var mine []Entry
			for n < len(batch) && batch[n].ModRevision == after {
				if strings.HasPrefix(batch[n].Key, prefix) {
					mine = append(mine, batch[n])
				}
				n++
			}
			batch = batch[n:]
			if len(mine) > 0 {
				each(mine)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// since returns a copy of the changes after a revision.
func (m *Memory) since(after int64) ([]Entry, error) {
	if after < m.compact {
		return nil, ErrCompacted
	}
	i, _ := slices.BinarySearchFunc(m.history, after+1, func(e Entry, rev int64) int {
		return int(e.ModRevision - rev)
	})
	return slices.Clone(m.history[i:]), nil
}
