package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drover/placement"
)

var errDisk = errors.New("disk is full")

// limits notes what the planner says of nodes that cannot load more.
type limits struct {
	mu   sync.Mutex // guards the field below
	told []string
}

func (l *limits) add(id string, pause time.Duration, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, fmt.Sprintf("%s %v %s", id, pause, reason))
}

// said is all that was told when everybody has come to rest.
func (l *limits) said() []string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.told)
}

func (l *limits) world(t *testing.T, opts PlannerOptions) *world {
	opts.Events.Limited = func(id, reason string, pause time.Duration) {
		l.add(id, pause, reason)
	}
	return newWorld(t, &Memory{}, opts)
}

// known returns what is known of a node.
func (w *world) known(id string) NodeState { return w.watcher.state.Load().nodes[id] }

// TestJoiningNodeCannotLoad has a node join whose disk is full: the plan stays as it is, with
// few attempts, and when the disk is well the node takes part.
func TestJoiningNodeCannotLoad(t *testing.T) {
	virtual(t, func(t *testing.T) {
		l := new(limits)
		w := l.world(t, PlannerOptions{})
		defer w.close()
		w.join("a")
		w.join("b")
		w.await(time.Second, "the first plan", uses("a", "b"))
		before := w.watcher.View().Plan
		w.fail = errDisk
		c := w.join("c")
		time.Sleep(2 * time.Second)
		if told, want := l.said(), []string{"c 14.0625s disk is full"}; !slices.Equal(told, want) {
			t.Errorf("after 2 s it was told %q, want %q", told, want)
		}
		if u := w.known("c").Unable; u.Failures != 1 || u.Reason != errDisk.Error() {
			t.Errorf("c says %+v", u)
		}
		time.Sleep(3 * time.Hour)
		told, v := l.said(), w.watcher.View()
		for i, layer := range before.Replicas {
			for e := range layer {
				if !slices.Equal(layer[e], v.Plan.Replicas[i][e]) {
					t.Errorf("layer %d expert %d moved", before.Layers[i], e)
				}
			}
		}
		// 6 pauses that double in a quarter of an hour, then 15 min each.
		if n := len(told); n < 12 || n > 19 {
			t.Errorf("c was tried %d times in 3 h: %q", n, told)
		}
		if last := told[len(told)-1]; !strings.HasPrefix(last, "c 15m0s ") {
			t.Errorf("the last pause is %q, want 15 min", last)
		}
		c.set(nil, 0)
		w.await(16*time.Minute, "c takes part", uses("a", "b", "c"))
		time.Sleep(time.Second)
		if u := w.known("c").Unable; u != (Unable{}) {
			t.Errorf("c, which has loaded its part, says %+v", u)
		}
	})
}

// TestNodeKeepsWhatItHas has the disk of one of three nodes be full when another one is lost: it
// serves what it has, and the third gets all of the lost one's.
func TestNodeKeepsWhatItHas(t *testing.T) {
	virtual(t, func(t *testing.T) {
		l := new(limits)
		w := l.world(t, PlannerOptions{})
		defer w.close()
		a, b := w.join("a"), w.join("b")
		w.join("c")
		w.await(time.Second, "the first plan", uses("a", "b", "c"))
		time.Sleep(time.Minute)
		kept := w.watcher.View().Plan.Holds("a")
		a.set(errDisk, 0)
		w.kill(b)
		w.await(10*time.Second, "c takes over", uses("a", "c"))
		if got := w.watcher.View().Plan.Holds("a"); !slices.Equal(got, kept) {
			t.Errorf("a serves %v, want what it had: %v", got, kept)
		}
		if told := l.said(); len(told) != 1 || !strings.HasPrefix(told[0], "a ") {
			t.Errorf("told %q, want that a is limited, once", told)
		}
		a.set(nil, 0)
		w.await(time.Minute, "a gets its part", func(v *placement.View) bool {
			return v.Plan.Count("a") > len(kept)
		})
	})
}

// TestOnlyNodeCannotLoad has nobody else who could load what a node cannot: its own attempts
// go on, and it is used as soon as one ends well.
func TestOnlyNodeCannotLoad(t *testing.T) {
	virtual(t, func(t *testing.T) {
		l := new(limits)
		w := l.world(t, PlannerOptions{})
		defer w.close()
		w.fail = errDisk
		a := w.join("a")
		time.Sleep(20 * time.Second) // attempts after 0, 1, 3, 7, 15, 31 s
		if told := l.said(); len(told) != 1 {
			t.Errorf("told %q, want one word of one plan", told)
		}
		if n := a.failed.Load(); n != 5 {
			t.Errorf("%d failures were reported, want one for each attempt, 5", n)
		}
		a.set(nil, 0)
		w.await(12*time.Second, "a is used", uses("a"))
		time.Sleep(time.Hour)
		if r := w.watcher.View().Revision(); r > 2 {
			t.Errorf("revision %d, want one plan or two", r)
		}
	})
}

// TestSetbackOutlivesPlanner has another planner take over: pauses go on as long as they were.
func TestSetbackOutlivesPlanner(t *testing.T) {
	virtual(t, func(t *testing.T) {
		l := new(limits)
		w := l.world(t, PlannerOptions{})
		defer w.close()
		w.join("a")
		w.await(time.Second, "the first plan", uses("a"))
		w.fail = errDisk
		w.join("b")
		time.Sleep(10 * time.Minute)
		w.planner.Close()
		was := len(l.said())
		w.planner = w.plan(w.watcher, w.store, PlannerOptions{ID: "c2", Events: PlannerEvents{
			Limited: func(id, _ string, pause time.Duration) { l.add(id, pause, "again") }}})
		time.Sleep(time.Minute)
		if told := l.said(); len(told) != was+1 || told[was] != "b 7m30s again" {
			t.Errorf("told %q, want one more, of 7.5 min", told)
		}
	})
}

// TestFailsOnTheWayOut restarts a node that cannot load what it had while an intent without it
// is on its way: its word names that plan, which is soon in force, and it comes back nonetheless.
func TestFailsOnTheWayOut(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := new(limits).world(t, PlannerOptions{})
		defer w.close()
		w.join("a")
		b := w.join("b")
		c := w.join("c")
		w.await(time.Second, "the first plan", uses("a", "b", "c"))
		c.set(nil, 10*time.Second)
		w.kill(b)
		time.Sleep(5 * time.Second) // the intent waits for c
		w.fail = errDisk
		again := w.join("b")
		time.Sleep(time.Second)
		if u := w.known("b").Unable; u.Revision < 2 {
			t.Errorf("b says %+v, want a plan without it", u)
		}
		w.await(10*time.Second, "the others take over", uses("a", "c"))
		again.set(nil, 0)
		w.await(time.Minute, "b takes part", uses("a", "b", "c"))
	})
}

// TestRoomComesBack gives a node without spare room another part while it waits to drop what it
// had to give away: that it has no room until then is neither told nor reported.
func TestRoomComesBack(t *testing.T) {
	virtual(t, func(t *testing.T) {
		l := new(limits)
		w := l.world(t, PlannerOptions{})
		defer w.close()
		small := w.node("a")
		small.CapacityBytes = testExperts * int64(len(testLayers)) / 2 * testReplicas
		a := w.joinAs(small, w.store)
		b := w.join("b")
		w.await(time.Second, "the first plan", uses("a", "b"))
		time.Sleep(10 * time.Second)
		w.join("c")
		w.await(time.Second, "c takes part", uses("a", "b", "c"))
		b.gone.Store(true)
		b.member.Close()
		w.await(10*time.Second, "b's part is held", uses("a", "c"))
		told, refused, failed := l.said(), a.refused.Load(), a.failed.Load()
		if len(told) != 0 || failed != 0 || refused == 0 {
			t.Errorf("told %q, refused %d times, reported %d; want nothing, more than 0, 0",
				told, refused, failed)
		}
	})
}

// TestUnableRecords reads records of other versions, and what a node may not say.
func TestUnableRecords(t *testing.T) {
	old := `{"address":"a:1","epoch":1,"capacity_bytes":5,"kernel_class":"avx2",` +
		`"numeric_mode":"bf16","model_digest":"m"}`
	r, err := decodeNode([]byte(old))
	if err != nil || r.Unable != (Unable{}) {
		t.Errorf("a record of an older node: %+v, %v", r, err)
	}
	if strings.Contains(string(encodeJSON(r)), "unable") {
		t.Errorf("an able node says %s", encodeJSON(r))
	}
	r.Unable = r.Unable.unableTo(7, errors.New(strings.Repeat("ä", 1000)))
	again, err := decodeNode(encodeJSON(r))
	if err != nil || again != r || len(r.Unable.Reason) != maxFieldBytes {
		t.Errorf("read %+v, %v, want %+v", again, err, r)
	}
	if next := r.Unable.unableTo(7, errDisk); next != r.Unable {
		t.Errorf("a second word of one plan: %+v", next)
	}
	if next := r.Unable.unableTo(8, errDisk); next != (Unable{8, 2, "disk is full"}) {
		t.Errorf("the word of the next plan: %+v", next)
	}
	newer := strings.Replace(old, `{`, `{"unable":{"revision":3,"failures":1,"reason":"r","more":1},`, 1)
	if r, err := decodeNode([]byte(newer)); err != nil || r.Unable != (Unable{3, 1, "r"}) {
		t.Errorf("a record of a newer node: %+v, %v", r, err)
	}
	r.Unable.Failures = -1
	if _, err := decodeNode(encodeJSON(r)); err == nil {
		t.Error("a negative count is accepted")
	}
}
