package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A coordinator that finds a node returning wrong numbers says so under
// placement/<model>/quarantine, one record that is only written on the condition that it is
// still the one that was read (C2 for words). A quarantine is of one life of a node: it ends
// when the node is started again. Rule of words:
//
//	C5  A coordinator's word alone puts less than half of the nodes in quarantine, or at most
//	    half where another computation agreed with it. Beyond that the word is kept, and
//	    counts when a second coordinator gives its own.

// Finding is what a coordinator found out about a node.
type Finding struct {
	NodeID string
	Epoch  uint64
	// Layer and Expert are what the node computed wrongly.
	Layer, Expert int
	// Agreed says that two others computed the same and differed from the node; else it
	// was the coordinator's own computation alone.
	Agreed bool
}

// Quarantine is what the store says of one life of a node.
type Quarantine struct {
	NodeID string `json:"node"`
	Epoch  uint64 `json:"epoch"`
	// InForce says that nobody is to use the node.
	InForce bool   `json:"in_force"`
	Words   []Word `json:"words"`
}

// Word is one coordinator's.
type Word struct {
	Coordinator string    `json:"coordinator"`
	Layer       int       `json:"layer"`
	Expert      int       `json:"expert"`
	Agreed      bool      `json:"agreed,omitempty"`
	At          time.Time `json:"at"`
}

const (
	// maxQuarantines bounds the record's nodes, maxWords the words on one, maxQuarantineBytes
	// what is read.
	maxQuarantines     = 128
	maxWords           = 4
	maxQuarantineBytes = 256 << 10
)

func (s Scope) quarantine() string { return s.placement() + "quarantine" }

// reason is why the node is not used, for people.
func (q Quarantine) reason() string {
	w := q.Words[0]
	return fmt.Sprintf("it returned wrong numbers for layer %d expert %d, found by %s at %s; start it"+
		" again when its memory and processor are tested", w.Layer, w.Expert, w.Coordinator,
		w.At.UTC().Format(time.RFC3339))
}

// decodeQuarantines reads the record.
func decodeQuarantines(value []byte) (all []Quarantine, err error) {
	if len(value) > maxQuarantineBytes {
		return nil, fmt.Errorf("a record of %d bytes, at most %d", len(value), maxQuarantineBytes)
	}
	if err := json.Unmarshal(value, &all); err != nil {
		return nil, err
	}
	for _, q := range all {
		if len(q.Words) == 0 || len(q.Words) > maxWords {
			return nil, fmt.Errorf("node %q is accused in %d words, want 1 to %d", q.NodeID,
				len(q.Words), maxWords)
		}
	}
	return all, nil
}

// sound reads the record as far as it can be read: else nobody is accused.
func sound(value []byte) []Quarantine {
	all, err := decodeQuarantines(value)
	if err != nil {
		return nil
	}
	return all
}

// accuse adds a coordinator's word, of so many nodes, by rule C5. It returns nil if nothing
// changes, or there is no room.
func accuse(all []Quarantine, by string, f Finding, nodes int, now time.Time) []Quarantine {
	alone := 1 // nodes that are in quarantine on this word alone, with this one
	at := -1
	for i, q := range all {
		switch {
		case q.NodeID == f.NodeID && q.Epoch > f.Epoch:
			return nil // it was of an earlier life
		case q.NodeID == f.NodeID && q.Epoch == f.Epoch:
			at = i
		case q.InForce && len(q.Words) == 1 && q.Words[0].Coordinator == by:
			alone++
		}
	}
	all = slices.Clone(all)
	word := Word{by, f.Layer, f.Expert, f.Agreed, now}
	if at < 0 {
		all = slices.DeleteFunc(all, func(q Quarantine) bool { return q.NodeID == f.NodeID })
		if len(all) >= maxQuarantines {
			return nil
		}
		all, at = append(all, Quarantine{NodeID: f.NodeID, Epoch: f.Epoch, Words: []Word{word}}), len(all)
	} else {
		q := &all[at]
		if len(q.Words) >= maxWords || slices.ContainsFunc(q.Words, func(w Word) bool {
			return w.Coordinator == by
		}) {
			return nil
		}
		q.Words = append(slices.Clone(q.Words), word)
	}
	q := &all[at]
	q.InForce = q.InForce || len(q.Words) > 1 || 2*alone < nodes || f.Agreed && 2*alone <= nodes
	return all
}

// outlived drops what was said of lives of nodes that have ended: a later one registered.
// Where there is no room left it drops what was said of nodes that are not registered.
func outlived(all []Quarantine, epochs map[string]uint64) []Quarantine {
	full := len(all) >= maxQuarantines
	return slices.DeleteFunc(slices.Clone(all), func(q Quarantine) bool {
		epoch, here := epochs[q.NodeID]
		return epoch > q.Epoch || full && !here
	})
}

// Accuser writes what one coordinator finds out about nodes, and again if the store loses it.
type Accuser struct {
	id      string
	store   Store
	watcher *Watcher
	stop    context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	found map[string]Finding
	more  chan struct{} // has room for one
}

// StartAccuser starts an Accuser beside a Watcher of the same store.
func StartAccuser(ctx context.Context, store Store, w *Watcher, id string) (*Accuser, error) {
	if err := checkName("coordinator id", id); err != nil {
		return nil, err
	}
	a := &Accuser{id: id, store: store, watcher: w, found: map[string]Finding{},
		more: make(chan struct{}, 1)}
	ctx, a.stop = context.WithCancel(ctx)
	a.running.Go(func() { a.run(ctx) })
	return a, nil
}

// Close returns when nothing is written any more.
func (a *Accuser) Close() {
	a.stop()
	a.running.Wait()
}

// Report takes a finding. It does not block.
func (a *Accuser) Report(f Finding) {
	a.mu.Lock()
	if was, ok := a.found[f.NodeID]; len(a.found) < maxQuarantines && (!ok || was.Epoch < f.Epoch) {
		a.found[f.NodeID] = f
	}
	a.mu.Unlock()
	select {
	case a.more <- struct{}{}:
	default:
	}
}

func (a *Accuser) run(ctx context.Context) {
	for ctx.Err() == nil {
		changes, wait := a.watcher.Changes(), forever
		if !a.step(ctx) {
			wait = retryDelay
		}
		timer := time.NewTimer(wait)
		select {
		case <-changes:
		case <-a.more:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// step writes what is found and not yet in the store. It is false if it is to try again.
func (a *Accuser) step(ctx context.Context) bool {
	s := a.watcher.state.Load()
	nodes, epochs := 0, map[string]uint64{}
	for id, n := range s.nodes {
		epochs[id] = n.Epoch
		if n.Reason == "" || n.Quarantined {
			nodes++
		}
	}
	next, changed := outlived(s.quarantines, epochs), false
	changed = len(next) < len(s.quarantines)
	a.mu.Lock()
	for id, f := range a.found {
		if epochs[id] > f.Epoch {
			delete(a.found, id)
		} else if more := accuse(next, a.id, f, nodes, time.Now()); more != nil && epochs[id] == f.Epoch {
			next, changed = more, true
		}
	}
	a.mu.Unlock()
	if !changed {
		return true
	}
	key := a.watcher.opts.Scope.quarantine()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := a.store.Commit(ctx, Write{If: []Cond{{key, s.quarantineMod}},
		Put: []Put{{Key: key, Value: encodeJSON(next)}}})
	return err == nil || errors.Is(err, ErrConflict) // the Watcher will see it
}
