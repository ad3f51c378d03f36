package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drover/cluster/etcdserver"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
)

// TestEtcdRestart stops a real etcd and starts it again on its state: the View stays,
// and changes go on.
func TestEtcdRestart(t *testing.T) {
	opts := etcdserver.Options{Dir: filepath.Join(t.TempDir(), "etcd")}
	srv, err := etcdserver.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	opts.ClientURL = srv.Endpoint() // where it will return
	store := openEtcd(t, srv.Endpoint())
	w := newWorld(t, store, PlannerOptions{})
	defer w.close()
	w.join("a")
	w.join("b")
	w.await(10*time.Second, "the first plan", uses("a", "b"))
	srv.Close()
	if v := w.watcher.View(); !uses("a", "b")(v) {
		t.Errorf("while etcd is away: %+v", v)
	}
	if srv, err = etcdserver.Start(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	w.join("c")
	w.await(20*time.Second, "changes go on", uses("a", "b", "c"))
	if n := w.lost.Load(); n > 0 {
		t.Errorf("%d nodes were taken for lost", n)
	}
	compact(t, store)
	w.join("d")
	w.await(10*time.Second, "changes go on after a compaction", uses("a", "b", "c", "d"))
}

// brokenWatch is a Store whose watches end as those of a compacted history do.
type brokenWatch struct {
	*Memory
	mu     sync.Mutex
	cancel context.CancelCauseFunc
}

func (b *brokenWatch) Watch(ctx context.Context, prefix string, after int64,
	each func([]Entry)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b.mu.Lock()
	b.cancel = cancel
	b.mu.Unlock()
	return b.Memory.Watch(ctx, prefix, after, each)
}

// TestWatchIsCompacted breaks the watch while changes happen: the copy is read anew.
func TestWatchIsCompacted(t *testing.T) {
	virtual(t, func(t *testing.T) {
		store := &brokenWatch{Memory: &Memory{}}
		watcher, err := Watch(t.Context(), store, WatcherOptions{Scope: Scope{Model: testModel}})
		if err != nil {
			t.Fatal(err)
		}
		defer watcher.Close()
		for i := range 5 {
			time.Sleep(time.Second)
			store.mu.Lock()
			store.cancel(ErrCompacted)
			store.mu.Unlock()
			key := fmt.Sprintf("%sn%d", watcher.opts.Scope.nodes(), i)
			n := placement.Node{Address: "x:1", ModelDigest: testModel}
			commit(t, store, Write{Put: []Put{{Key: key, Value: encodeJSON(recordOf(n, ""))}}})
			store.Compact()
			time.Sleep(time.Second)
			if got := len(watcher.View().Nodes); got != i+1 {
				t.Fatalf("%d nodes, want %d", got, i+1)
			}
		}
	})
}

// TestOtherNodesAreListed joins nodes that compute something else.
func TestOtherNodesAreListed(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{})
		defer w.close()
		var mu sync.Mutex
		joined := map[string]string{}
		other := w.watch("avx2", WatcherEvents{NodeJoined: func(n placement.Node, reason string) {
			mu.Lock()
			defer mu.Unlock()
			joined[n.ID] = reason
		}})
		defer other.Close()
		w.join("good")
		otherClass, otherModel := w.node("class"), w.node("model")
		otherClass.KernelClass, otherModel.ModelDigest = "avx512", "sha256:other"
		w.joinAs(otherClass, w.store)
		w.joinAs(otherModel, w.store)
		w.await(5*time.Second, "the good one is used", uses("good"))
		time.Sleep(time.Minute)
		if n := len(w.watcher.View().Nodes); n != 1 {
			t.Errorf("%d nodes are used, want 1", n)
		}
		reasons := map[string]string{"good": "", "class": "kernel class", "model": "model"}
		mu.Lock()
		for id, want := range reasons {
			if got, ok := joined[id]; !ok || (got == "") != (want == "") || !strings.HasPrefix(got, want) {
				t.Errorf("%s joined with reason %q, want %q", id, got, want)
			}
		}
		mu.Unlock()
		for _, n := range w.watcher.Nodes() {
			if want := reasons[n.ID]; (want == "") != (n.Reason == "") ||
				!strings.HasPrefix(n.Reason, want) {
				t.Errorf("%s: reason %q, want %q", n.ID, n.Reason, want)
			}
			delete(reasons, n.ID)
		}
		if len(reasons) > 0 {
			t.Errorf("not listed: %v", reasons)
		}
	})
}

// TestBadRecords writes records that no process of ours writes.
func TestBadRecords(t *testing.T) {
	virtual(t, func(t *testing.T) {
		store, reported := &Memory{}, map[string]int{}
		watcher, err := Watch(t.Context(), store, WatcherOptions{Scope: Scope{Model: testModel},
			Events: WatcherEvents{BadRecord: func(key string, _ error) { reported[key]++ }}})
		if err != nil {
			t.Fatal(err)
		}
		defer watcher.Close()
		scope := watcher.opts.Scope
		good := placement.Node{Address: "x:1", ModelDigest: testModel}
		absurd, negative := good, good
		absurd.CapacityBytes, negative.CapacityBytes = 1<<60, -1
		commit(t, store, Write{Put: []Put{
			{Key: scope.nodes() + "json", Value: []byte("{")},
			{Key: scope.nodes() + "long", Value: make([]byte, maxRecordBytes+1)},
			{Key: scope.nodes() + "bad/name", Value: encodeJSON(recordOf(good, ""))},
			{Key: scope.nodes() + "empty", Value: []byte("{}")},
			{Key: scope.nodes() + "absurd", Value: encodeJSON(recordOf(absurd, ""))},
			{Key: scope.nodes() + "negative", Value: encodeJSON(recordOf(negative, ""))},
			{Key: scope.nodes() + "good", Value: encodeJSON(recordOf(good, ""))},
			{Key: scope.ready() + "good", Value: []byte("7")},
			{Key: scope.plan(), Value: []byte("plan")},
		}})
		time.Sleep(time.Second)
		commit(t, store, Write{Put: []Put{{Key: scope.prefix() + "else"}}})
		time.Sleep(time.Second)
		synctest.Wait()
		if v := watcher.View(); len(v.Nodes) != 1 || v.Revision() != 0 {
			t.Errorf("View %+v", v)
		}
		if len(reported) != 8 {
			t.Errorf("reported: %v, want 8 keys", reported)
		}
		for key, n := range reported {
			if n != 1 {
				t.Errorf("%s was reported %d times", key, n)
			}
		}
	})
}

// TestServer reads the states of nodes as a tool does.
func TestServer(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{Replicas: 2})
		defer w.close()
		here := w.node("a")
		here.Host, here.PID, here.Domain = "here", 42, "rack1"
		w.joinAs(here, w.store)
		there := w.node("b")
		there.Host, there.PID = "there", 43
		b := w.joinAs(there, w.store)
		w.await(5*time.Second, "the first plan", uses("a", "b"))
		slow := w.join("slow")
		slow.set(nil, time.Hour)
		strange := w.node("strange")
		strange.KernelClass = "sse"
		w.joinAs(strange, w.store)
		time.Sleep(time.Second)
		wrong, cut := map[string]bool{}, map[string]string{}
		s := NewServer(ServerOptions{Watcher: w.watcher, ReplicaBytes: testReplicas, Host: "here",
			RowsByNode:  func() map[string]uint64 { return map[string]uint64{"a": 9} },
			Quarantined: func(id string) bool { return wrong[id] },
			Unreachable: func() map[string]string { return cut }})
		states := func() string {
			reply, err := s.ListNodes(t.Context(), &droverv1.ListNodesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, n := range reply.Nodes {
				if n.Reason != "" {
					n.State += ": " + n.Reason
				}
				out = append(out, fmt.Sprintf("%s %s %d %d %d %d", n.Id, n.State, n.Pid,
					n.ReplicaCount, n.Bytes, n.RowsDispatched))
			}
			return strings.Join(out, ", ")
		}
		want := "a ready 42 16 1600 9, b ready 0 16 1600 0, slow loading 0 0 0 0, " +
			`strange unusable: kernel class is "sse", the coordinator's is "avx2" 0 0 0 0`
		if got := states(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		wrong["b"] = true
		if got := states(); !strings.Contains(got, "b quarantined") {
			t.Errorf("got %s, want b quarantined", got)
		}
		delete(wrong, "b")
		// A link is more than a registration, and less than what a node says of itself.
		cut["a"], cut["strange"] = "no link", "no link"
		if got := states(); !strings.Contains(got, "a unreachable: no link 42") ||
			!strings.Contains(got, "strange unusable: kernel class") {
			t.Errorf("got %s, want a unreachable", got)
		}
		if n := s.States(); n[stateUnreachable] != 1 || n[stateReady] != 1 {
			t.Errorf("counted %v, want one unreachable", n)
		}
		clear(cut)
		w.watcher.SetSuspect("a", w.watcher.View().Nodes["a"].Epoch, true)
		if got := states(); !strings.Contains(got, "a suspect") {
			t.Errorf("got %s, want a suspect", got)
		}
		w.watcher.SetSuspect("a", w.watcher.View().Nodes["a"].Epoch, false)
		b.member.Close()
		time.Sleep(100 * time.Millisecond)
		if got := states(); !strings.Contains(got, "b gone") || strings.Contains(got, "suspect") {
			t.Errorf("got %s, want b gone", got)
		}
		placed, err := s.GetPlacement(t.Context(), &droverv1.GetPlacementRequest{})
		if err != nil || len(placed.Layers) != 2 || len(placed.Layers[1].Experts) != testExperts {
			t.Fatalf("GetPlacement = %v, %v", placed, err)
		}
		if got := placed.Layers[0].Experts[0].NodeIds; len(got) != 2 || got[0] != "a" {
			t.Errorf("replicas on %v", got)
		}
	})
}

// TestNodeRestarts replaces a node's process before its lease has expired.
func TestNodeRestarts(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{})
		defer w.close()
		first := w.join("a")
		w.await(time.Second, "the first plan", uses("a"))
		if v := w.watcher.View(); v.Unready["a"] {
			t.Error("a node of the first plan is said to be unready")
		}
		was := w.watcher.View().Nodes["a"].Epoch
		w.kill(first)
		w.fail = errors.New("disk is slow")
		second := w.join("a")
		w.await(time.Second, "the second life is registered", func(v *placement.View) bool {
			return v.Nodes["a"].Epoch > was
		})
		if v := w.watcher.View(); !v.Unready["a"] {
			t.Error("the second life has loaded nothing and is not said to be unready")
		}
		second.set(nil, 0)
		time.Sleep(time.Minute)
		if v := w.watcher.View(); v.Unready["a"] {
			t.Error("the second life has loaded its experts and is said to be unready")
		}
		if got := second.count(); got != testExperts*len(testLayers) {
			t.Errorf("the second life holds %d replicas", got)
		}
		if n := w.watcher.Nodes()[0]; n.Revision != 1 || !n.Registered {
			t.Errorf("after a minute: %+v", n)
		}
	})
}

// TestOlderLifeYields starts a process of an earlier epoch beside a later one.
func TestOlderLifeYields(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{})
		defer w.close()
		later := w.join("a")
		w.await(time.Second, "the first plan", uses("a"))
		old := w.node("a")
		old.Epoch = 1
		replaced := 0
		m, err := Join(t.Context(), w.store, NodeConfig{Node: old, NumericMode: "bf16", TTL: w.ttl,
			Events: MemberEvents{Replaced: func(uint64) { replaced++ }}},
			Hooks{Assign: later.assign, Commit: later.commit, Drop: later.drop})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		m.Close()
		if e := w.watcher.View().Nodes["a"].Epoch; e == 1 || replaced != 1 {
			t.Errorf("epoch %d, replaced %d times", e, replaced)
		}
	})
}

func TestJoinRefuses(t *testing.T) {
	w := &world{}
	for name, spoil := range map[string]func(*NodeConfig){
		"id":          func(c *NodeConfig) { c.Node.ID = "a/b" },
		"no id":       func(c *NodeConfig) { c.Node.ID = "" },
		"cluster":     func(c *NodeConfig) { c.Cluster = "ü" },
		"no address":  func(c *NodeConfig) { c.Node.Address = "" },
		"capacity":    func(c *NodeConfig) { c.Node.CapacityBytes = -1 },
		"absurd":      func(c *NodeConfig) { c.Node.CapacityBytes = 1<<50 + 1 },
		"speed":       func(c *NodeConfig) { c.Node.Speed = -1 },
		"digest":      func(c *NodeConfig) { c.Node.ModelDigest = "" },
		"short lease": func(c *NodeConfig) { c.TTL = time.Millisecond },
		"grace":       func(c *NodeConfig) { c.Grace = -1 },
		"long host":   func(c *NodeConfig) { c.Node.Host = strings.Repeat("h", 1000) },
	} {
		t.Run(name, func(t *testing.T) {
			c := NodeConfig{Node: w.node("a")}
			spoil(&c)
			n := &testNode{}
			m, err := Join(t.Context(), &Memory{}, c,
				Hooks{Assign: n.assign, Commit: n.commit, Drop: n.drop})
			if err == nil {
				m.Close()
				t.Error("Join accepts it")
			}
		})
	}
	if _, err := Join(t.Context(), &Memory{}, NodeConfig{Node: w.node("a")}, Hooks{}); err == nil {
		t.Error("Join accepts missing hooks")
	}
}

func FuzzRecords(f *testing.F) {
	f.Add(encodeJSON(recordOf(placement.Node{Address: "x:1", ModelDigest: "d", Speed: 2}, "bf16")))
	f.Add([]byte(`{"address":"x","capacity_bytes":-1}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := decodeNode(value)
		if err != nil {
			return
		}
		again, err := decodeNode(encodeJSON(r))
		if err != nil || again != r {
			t.Fatalf("a record changes: %+v, then %+v, %v", r, again, err)
		}
	})
}

// A hint about a node's earlier life says nothing of its present one.
func TestSuspectIsOfOneLife(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWorld(t, &Memory{}, PlannerOptions{})
		defer w.close()
		old := w.join("a")
		w.await(5*time.Second, "the first plan", uses("a"))
		before := w.watcher.View().Nodes["a"].Epoch
		w.watcher.SetSuspect("a", before, true)
		if !w.watcher.View().Suspect["a"] {
			t.Error("a node that gossip believes dead is not suspect")
		}
		w.kill(old)
		w.join("a")
		time.Sleep(time.Second)
		if now := w.watcher.View().Nodes["a"].Epoch; now == before || w.watcher.View().Suspect["a"] {
			t.Errorf("epoch %d after %d: suspect %v", now, before, w.watcher.View().Suspect)
		}
	})
}
