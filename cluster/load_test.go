package cluster

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drover/placement"
	droverv1 "drover/proto/drover/v1"
)

// measured is a load of the test's model in which the first expert of each layer has so
// many times the work of the others.
func measured(times float64) Measured {
	m := Measured{Nodes: map[string]NodeWork{"a": {1000, 1}, "b": {1000, 1}}}
	for range testLayers {
		layer := slices.Repeat([]float64{10}, testExperts)
		layer[0] *= times
		m.Load = append(m.Load, layer)
	}
	return m
}

// hotSpread is on how many nodes the first expert of the first layer is.
func hotSpread(v *placement.View) int { return len(v.Plan.On(testLayers[0], 0)) }

// TestLoadMakesReplicas lets two coordinators measure a hot expert; neither alone makes it
// hot enough. The elected one gives it a replica more, by itself.
func TestLoadMakesReplicas(t *testing.T) {
	virtual(t, func(t *testing.T) {
		var times atomic.Int64
		times.Store(1)
		measure := func() Measured { return measured(float64(times.Load())) }
		opts := PlannerOptions{ID: "c1", Spare: 0.25, Measure: measure}
		w := newWorld(t, &Memory{}, opts)
		defer w.close()
		other := w.plan(w.watcher, w.store, PlannerOptions{ID: "c2", Spare: 0.25, Measure: measure})
		defer other.Close()
		for _, id := range []string{"a", "b", "c", "d"} {
			w.join(id)
		}
		w.await(time.Second, "the first plan", uses("a", "b", "c", "d"))
		time.Sleep(2 * time.Minute)
		if v := w.watcher.View(); v.Revision() != 1 || hotSpread(v) != 1 {
			t.Errorf("an even load makes revision %d", v.Revision())
		}
		times.Store(10)
		w.await(time.Minute, "the hot expert has more replicas", func(v *placement.View) bool {
			return hotSpread(v) > 1
		})
		time.Sleep(10 * time.Minute)
		r := w.watcher.View().Revision()
		time.Sleep(time.Hour)
		if got := w.watcher.View().Revision(); got != r {
			t.Errorf("under the same load, revision %d follows %d", got, r)
		}
		sum, err := readMeasured(t.Context(), w.store, w.watcher.opts.Scope, len(testLayers), testExperts)
		if err != nil || sum.Load[0][0] < 190 || sum.Load[0][0] > 210 || sum.Nodes["a"].Work != 2000 {
			t.Errorf("both measured %v, %v", sum, err)
		}
	})
}

// TestRebalanceOnRequest asks for a look at the load that is not due for long, at a
// coordinator that does not plan.
func TestRebalanceOnRequest(t *testing.T) {
	virtual(t, func(t *testing.T) {
		var times atomic.Int64
		times.Store(1)
		w := newWorld(t, &Memory{}, PlannerOptions{Spare: 0.25, RebalanceEvery: 12 * time.Hour,
			Measure: func() Measured { return measured(float64(times.Load())) }})
		defer w.close()
		for _, id := range []string{"a", "b", "c", "d"} {
			w.join(id)
		}
		w.await(time.Second, "the first plan", uses("a", "b", "c", "d"))
		time.Sleep(time.Minute)
		times.Store(10)
		time.Sleep(time.Minute)
		if n := hotSpread(w.watcher.View()); n != 1 {
			t.Fatalf("%d replicas before anybody asks", n)
		}
		s := NewServer(ServerOptions{Watcher: w.watcher, Store: w.store})
		r, err := s.Rebalance(t.Context(), &droverv1.RebalanceRequest{})
		if err != nil || r.Revision != 1 || r.Planner != "c1" {
			t.Fatalf("%v, %v", r, err)
		}
		w.await(time.Second, "the hot expert has more replicas", func(v *placement.View) bool {
			return hotSpread(v) > 1
		})
		p, err := s.GetPlacement(t.Context(), &droverv1.GetPlacementRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if l := p.Layers[0]; l.Imbalance < 1 || l.Imbalance > 1.5 || l.Experts[0].Load < 4 ||
			l.Experts[1].Load > 1 || len(l.Experts[0].NodeIds) < 2 {
			t.Errorf("the placement shows %v", l)
		}
		_, err = NewServer(ServerOptions{Watcher: w.watcher}).Rebalance(t.Context(),
			&droverv1.RebalanceRequest{})
		if err == nil {
			t.Error("a server without a store accepts a wish")
		}
	})
}

// TestKeptIsSaidOnce leaves a layer uneven where nothing helps enough.
func TestKeptIsSaidOnce(t *testing.T) {
	virtual(t, func(t *testing.T) {
		var mu sync.Mutex
		kept := 0
		w := newWorld(t, &Memory{}, PlannerOptions{MinGain: 0.9,
			Measure: func() Measured { return measured(4) },
			Events: PlannerEvents{Kept: func(why placement.Explanation) {
				mu.Lock()
				defer mu.Unlock()
				kept++
				if why.Missed < 1.1 || !strings.Contains(why.String(), "stays as it is") {
					t.Errorf("kept: %v", why)
				}
			}}})
		defer w.close()
		w.join("a")
		w.join("b")
		w.await(time.Second, "the first plan", uses("a", "b"))
		time.Sleep(time.Hour)
		mu.Lock()
		defer mu.Unlock()
		if r := w.watcher.View().Revision(); kept != 1 || r != 1 {
			t.Errorf("reported %d times, revision %d", kept, r)
		}
	})
}

// TestFullNodesAreRepaired loses two of four nodes that have room for two replicas of each
// expert and no more: the others must drop before they load, since they refuse what
// exceeds their room.
func TestFullNodesAreRepaired(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{Replicas: 2, MinNodes: 4})
		defer w.close()
		for i := range 4 {
			node := w.node(fmt.Sprint("n", i))
			node.CapacityBytes = testExperts * int64(len(testLayers)) / 2 * testReplicas
			w.joinAs(node, w.store)
		}
		w.await(5*time.Second, "the first plan", uses("n0", "n1", "n2", "n3"))
		time.Sleep(10 * time.Second)
		w.kill(w.nodes["n1"])
		w.kill(w.nodes["n2"])
		w.await(30*time.Second, "all experts are held again", uses("n0", "n3"))
		time.Sleep(time.Minute)
		back := w.joinAs(w.node("n1"), w.store)
		w.await(10*time.Second, "n1 takes part", uses("n0", "n1", "n3"))
		if back.count() == 0 {
			t.Error("n1 holds nothing")
		}
	})
}

// TestShrunkNode lets a node come back with less room than the plan takes there.
func TestShrunkNode(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{})
		defer w.close()
		w.join("a")
		w.join("b")
		w.await(time.Second, "the first plan", uses("a", "b"))
		w.nodes["b"].member.Close()
		node := w.node("b")
		node.CapacityBytes = 3 * testReplicas
		w.joinAs(node, w.store)
		w.await(20*time.Second, "b holds what it has room for", func(v *placement.View) bool {
			n := v.Plan.Count("b")
			return n > 0 && n <= 3 && len(v.Uncovered()) == 0
		})
	})
}

// TestBadLoadRecords writes what no coordinator would.
func TestBadLoadRecords(t *testing.T) {
	store := &Memory{}
	scope := Scope{Cluster: "c", Model: testModel}
	good, err := placement.EncodeLoad(measured(2).Load)
	if err != nil {
		t.Fatal(err)
	}
	other, err := placement.EncodeLoad([][]float64{{1, 2, 3}})
	if err != nil {
		t.Fatal(err)
	}
	for id, value := range map[string][]byte{"good": good, "other": other, "empty": nil,
		"text": []byte("load"), "long": make([]byte, 1<<20)} {
		commit(t, store, Write{Put: []Put{{Key: scope.loadExperts() + id, Value: value}}})
	}
	for id, value := range map[string]string{"good": `{"a":{"work":10,"seconds":2}}`, "text": "x",
		"absurd":   `{"a":{"work":-1,"seconds":2},"b":{"work":1e300,"seconds":1},"c":{"work":1}}`,
		"overflow": `{"a":{"work":1e999,"seconds":1}}`} {
		commit(t, store, Write{Put: []Put{{Key: scope.loadNodes() + id, Value: []byte(value)}}})
	}
	m, err := readMeasured(t.Context(), store, scope, len(testLayers), testExperts)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Load[0][1]; got < 9.5 || got > 10.5 || len(m.Nodes) != 1 || m.Nodes["a"].Work != 10 {
		t.Errorf("measured %v", m)
	}
}
