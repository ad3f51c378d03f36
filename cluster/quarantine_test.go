package cluster

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/placement"
)

// A coordinator's word alone reaches a minority of the nodes; two words reach any.
func TestAccuse(t *testing.T) {
	inForce := func(all []Quarantine) string {
		var ids []string
		for _, q := range all {
			if q.InForce {
				ids = append(ids, q.NodeID)
			}
		}
		return strings.Join(ids, " ")
	}
	for name, tc := range map[string]struct {
		nodes int
		words string // coordinator, node; + where others agree
		want  string
	}{
		"one of three":             {3, "a n1", "n1"},
		"two of three":             {3, "a n1, a n2", "n1"},
		"one of two":               {2, "a n1", ""},
		"one of two, agreed":       {2, "a n1 +", "n1"},
		"both of two, agreed":      {2, "a n1 +, a n2 +", "n1"},
		"the only one, agreed":     {1, "a n1 +", ""},
		"all of four, alone":       {4, "a n1, a n2, a n3, a n4", "n1"},
		"all of four, agreed":      {4, "a n1 +, a n2 +, a n3 +, a n4 +", "n1 n2"},
		"a second word":            {2, "a n1, b n1", "n1"},
		"the same word twice":      {2, "a n1, a n1", ""},
		"two coordinators of four": {4, "a n1, b n2", "n1 n2"},
	} {
		t.Run(name, func(t *testing.T) {
			var all []Quarantine
			for _, word := range strings.Split(tc.words, ", ") {
				f := strings.Fields(word)
				if next := accuse(all, f[0], Finding{NodeID: f[1], Epoch: 1, Agreed: len(f) > 2},
					tc.nodes, time.Time{}); next != nil {
					all = next
				}
			}
			if got := inForce(all); got != tc.want {
				t.Errorf("in force: %q, want %q", got, tc.want)
			}
		})
	}
	old := accuse(nil, "a", Finding{NodeID: "n", Epoch: 2}, 3, time.Time{})
	if accuse(old, "b", Finding{NodeID: "n", Epoch: 1}, 3, time.Time{}) != nil {
		t.Error("a word on an earlier life counts")
	}
	if now := accuse(old, "a", Finding{NodeID: "n", Epoch: 3}, 3, time.Time{}); len(now) != 1 ||
		now[0].Epoch != 3 || len(outlived(old, map[string]uint64{"n": 3})) != 0 {
		t.Errorf("after a restart: %v", now)
	}
	for i := range maxQuarantines + 1 {
		if more := accuse(old, "a", Finding{NodeID: fmt.Sprint(i)}, 3, time.Time{}); more != nil {
			old = more
		}
	}
	if len(old) != maxQuarantines || len(encodeJSON(old)) > maxQuarantineBytes {
		t.Errorf("%d quarantines in %d bytes", len(old), len(encodeJSON(old)))
	}
}

// What one coordinator finds out, the others and the planner follow: the replicas move, and a
// restart of the node heals it. A record that the store loses is written again.
func TestQuarantine(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{MinNodes: 3, Replicas: 2})
		defer w.close()
		for _, id := range []string{"a", "b", "c"} {
			w.join(id)
		}
		w.await(time.Minute, "three nodes", uses("a", "b", "c"))
		finder := w.watch("avx2", WatcherEvents{})
		defer finder.Close()
		accuser, err := StartAccuser(t.Context(), w.store, finder, "c2")
		if err != nil {
			t.Fatal(err)
		}
		defer accuser.Close()
		epoch := w.watcher.View().Nodes["b"].Epoch
		accuser.Report(Finding{NodeID: "b", Epoch: epoch, Layer: 1, Expert: 5})
		w.await(time.Minute, "b is empty", uses("a", "c"))
		if _, ok := w.watcher.View().Nodes["b"]; ok {
			t.Error("the other coordinator still uses b")
		}
		state := func() string {
			for _, n := range w.watcher.Nodes() {
				if n.ID == "b" {
					return n.status(w.watcher.View()) + " " + n.Reason
				}
			}
			return "gone"
		}
		if got := state(); !strings.HasPrefix(got, "quarantined it returned wrong numbers for layer 1 expert 5, found by c2") {
			t.Errorf("b is %q", got)
		}
		key := finder.opts.Scope.quarantine()
		before := w.watcher.entry(key).ModRevision
		if _, err := w.store.Commit(t.Context(), Write{Delete: []string{key}}); err != nil {
			t.Fatal(err)
		}
		w.await(time.Minute, "the record is written again", func(v *placement.View) bool {
			return w.watcher.entry(key).ModRevision > before && v.Nodes["b"].ID == ""
		})
		w.nodes["b"].member.Close()
		w.join("b")
		w.await(time.Minute, "b is healed", uses("a", "b", "c"))
		if got := state(); !strings.HasPrefix(got, "ready") && !strings.HasPrefix(got, "loading") {
			t.Errorf("b is %q", got)
		}
		w.await(time.Minute, "the record is empty", func(*placement.View) bool {
			return string(w.watcher.entry(key).Value) == "[]"
		})
	})
}

// Coordinators that speak at the same time do not lose each other's words.
func TestAccusersAtOnce(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{MinNodes: 2})
		defer w.close()
		w.join("a")
		w.join("b")
		w.await(time.Minute, "two nodes", uses("a", "b"))
		epoch := w.watcher.View().Nodes["b"].Epoch
		var all sync.WaitGroup
		for i := range maxWords {
			watcher := w.watch("avx2", WatcherEvents{})
			defer watcher.Close()
			accuser, err := StartAccuser(t.Context(), w.store, watcher, fmt.Sprint("coordinator", i))
			if err != nil {
				t.Fatal(err)
			}
			defer accuser.Close()
			all.Go(func() { accuser.Report(Finding{NodeID: "b", Epoch: epoch}) })
		}
		all.Wait()
		w.await(time.Minute, "all words are there", func(*placement.View) bool {
			q := sound(w.watcher.entry(w.watcher.opts.Scope.quarantine()).Value)
			return len(q) == 1 && len(q[0].Words) == maxWords && q[0].InForce
		})
	})
}
