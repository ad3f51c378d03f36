package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/cluster/etcdserver"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(etcdDir); dir != "" {
		serveEtcd(dir)
	}
	goleak.VerifyTestMain(m,
		// The server's log rotation and its table of recent requests live as long as
		// the process.
		goleak.IgnoreTopFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"))
}

// startEtcd runs a real etcd for one test and returns a Store in it.
func startEtcd(t *testing.T) *Etcd {
	t.Helper()
	srv, err := etcdserver.Start(t.Context(), etcdserver.Options{Dir: filepath.Join(t.TempDir(), "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	return openEtcd(t, srv.Endpoint())
}

func openEtcd(t *testing.T, endpoint string) *Etcd {
	t.Helper()
	s, err := OpenEtcd(EtcdConfig{Endpoints: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// compact forgets the history of a store.
func compact(t *testing.T, s Store) {
	t.Helper()
	if m, ok := s.(*Memory); ok {
		m.Compact()
		return
	}
	_, rev, err := s.List(t.Context(), "nothing")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.(*Etcd).client.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
}

// TestStores holds every Store to the same contract.
func TestStores(t *testing.T) {
	etcd := startEtcd(t)
	for name, test := range map[string]func(*testing.T, Store, string){
		"list": testList, "conditions": testConditions, "lease": testLease,
		"lease gone": testLeaseGone, "watch": testWatch, "compacted": testCompacted,
		"contexts end": testContexts, "bounds": testBounds,
	} {
		t.Run("memory/"+name, func(t *testing.T) { test(t, &Memory{}, "/memory/") })
		t.Run("etcd/"+name, func(t *testing.T) { test(t, etcd, "/"+name+"/") })
	}
}

func commit(t *testing.T, s Store, w Write) int64 {
	t.Helper()
	rev, err := s.Commit(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// keys lists the keys under a prefix, without it, and their values.
func keys(t *testing.T, s Store, prefix string) string {
	t.Helper()
	entries, _, err := s.List(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimPrefix(e.Key, prefix)+"="+string(e.Value))
	}
	return strings.Join(out, " ")
}

func testList(t *testing.T, s Store, p string) {
	first := commit(t, s, Write{Put: []Put{{Key: p + "b", Value: []byte("2")},
		{Key: p + "a", Value: []byte("1")}, {Key: p + "c/d"}}})
	if got, want := keys(t, s, p), "a=1 b=2 c/d="; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	entries, rev, err := s.List(t.Context(), p+"b")
	if err != nil || len(entries) != 1 || entries[0].ModRevision != first || rev < first {
		t.Errorf("List = %+v, %d, %v, want one entry of revision %d", entries, rev, err, first)
	}
	second := commit(t, s, Write{Delete: []string{p + "b", p + "absent"}})
	if second <= first {
		t.Errorf("revision %d follows %d", second, first)
	}
	if got, want := keys(t, s, p), "a=1 c/d="; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func testConditions(t *testing.T, s Store, p string) {
	create := Write{If: []Cond{{Key: p + "k"}}, Put: []Put{{Key: p + "k", Value: []byte("1")}}}
	rev := commit(t, s, create)
	if _, err := s.Commit(t.Context(), create); !errors.Is(err, ErrConflict) {
		t.Errorf("a second create = %v, want %v", err, ErrConflict)
	}
	swap := Write{If: []Cond{{Key: p + "k", ModRevision: rev}, {Key: p + "other"}},
		Put: []Put{{Key: p + "k", Value: []byte("2")}}, Delete: []string{p + "gone"}}
	commit(t, s, swap)
	if _, err := s.Commit(t.Context(), swap); !errors.Is(err, ErrConflict) {
		t.Errorf("a stale swap = %v, want %v", err, ErrConflict)
	}
	if got, want := keys(t, s, p), "k=2"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// testBounds writes as much as a write may hold, and more.
func testBounds(t *testing.T, s Store, p string) {
	var w Write
	for i := range maxWrite {
		key := fmt.Sprintf("%s%03d", p, i)
		w.If, w.Put = append(w.If, Cond{Key: key}), append(w.Put, Put{Key: key})
	}
	rev := commit(t, s, w)
	for i := range w.If {
		w.If[i].ModRevision = rev
	}
	// Each condition counts, the last one too.
	gone := w.If[maxWrite-1].Key
	commit(t, s, Write{Delete: []string{gone}})
	if _, err := s.Commit(t.Context(), w); !errors.Is(err, ErrConflict) {
		t.Errorf("a write on a key that is gone = %v, want %v", err, ErrConflict)
	}
	for _, much := range []Write{
		{If: append(slices.Clone(w.If), Cond{Key: p + "more"}), Put: w.Put[:1]},
		{Put: w.Put, Delete: []string{p + "more"}},
	} {
		if _, err := s.Commit(t.Context(), much); err == nil || errors.Is(err, ErrConflict) {
			t.Errorf("a write of %d keys on %d conditions = %v, want an error that says so",
				len(much.Put)+len(much.Delete), len(much.If), err)
		}
	}
}

func testLease(t *testing.T, s Store, p string) {
	l, err := s.Grant(t.Context(), 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, Write{Put: []Put{{Key: p + "leased", Lease: l}, {Key: p + "freed", Lease: l},
		{Key: p + "stays"}}})
	commit(t, s, Write{Put: []Put{{Key: p + "freed"}}})
	if err := s.KeepAlive(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Revoke(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := keys(t, s, p), "freed= stays="; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func testLeaseGone(t *testing.T, s Store, p string) {
	const never = Lease(12345)
	if err := s.KeepAlive(t.Context(), never); !errors.Is(err, ErrLeaseGone) {
		t.Errorf("KeepAlive = %v, want %v", err, ErrLeaseGone)
	}
	_, err := s.Commit(t.Context(), Write{Put: []Put{{Key: p + "k", Lease: never}}})
	if !errors.Is(err, ErrLeaseGone) {
		t.Errorf("Commit = %v, want %v", err, ErrLeaseGone)
	}
	// A lease that nobody keeps alive expires, and a watch sees its key go.
	l, err := s.Grant(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	rev := commit(t, s, Write{Put: []Put{{Key: p + "k", Lease: l}}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = s.Watch(ctx, p, rev, func(changes []Entry) {
		if len(changes) == 1 && changes[0].Deleted && changes[0].Key == p+"k" {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Watch = %v, want the key to go", err)
	}
	if err := s.KeepAlive(t.Context(), l); !errors.Is(err, ErrLeaseGone) {
		t.Errorf("KeepAlive = %v, want %v", err, ErrLeaseGone)
	}
}

func testWatch(t *testing.T, s Store, p string) {
	rev := commit(t, s, Write{Put: []Put{{Key: p + "early", Value: []byte("0")}}})
	commit(t, s, Write{Put: []Put{{Key: p + "a"}, {Key: p + "b"}}})
	commit(t, s, Write{Put: []Put{{Key: "/elsewhere"}}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	batches := make(chan string, 8)
	done := make(chan error, 1)
	go func() {
		done <- s.Watch(ctx, p, rev, func(changes []Entry) {
			slices.SortFunc(changes, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
			out := ""
			for _, c := range changes {
				out += fmt.Sprintf("%s %v;", strings.TrimPrefix(c.Key, p), c.Deleted)
			}
			batches <- out
		})
	}()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-batches:
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		case err := <-done:
			t.Fatalf("the watch ended: %v", err)
		}
	}
	expect("a false;b false;")
	commit(t, s, Write{Put: []Put{{Key: p + "c"}}, Delete: []string{p + "a"}})
	expect("a true;c false;")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch = %v, want %v", err, context.Canceled)
	}
}

func testCompacted(t *testing.T, s Store, p string) {
	rev := commit(t, s, Write{Put: []Put{{Key: p + "k"}}})
	commit(t, s, Write{Put: []Put{{Key: p + "k"}}})
	commit(t, s, Write{Put: []Put{{Key: p + "k"}}})
	compact(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := s.Watch(ctx, p, rev-1, func([]Entry) { t.Error("a change was forgotten, and yet seen") })
	if !errors.Is(err, ErrCompacted) {
		t.Errorf("Watch = %v, want %v", err, ErrCompacted)
	}
}

func testContexts(t *testing.T, s Store, p string) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, list := s.List(ctx, p)
	_, write := s.Commit(ctx, Write{Put: []Put{{Key: p + "k"}}})
	_, grant := s.Grant(ctx, time.Second)
	for what, err := range map[string]error{"List": list, "Commit": write, "Grant": grant,
		"KeepAlive": s.KeepAlive(ctx, 1), "Revoke": s.Revoke(ctx, 1),
		"Watch": s.Watch(ctx, p, 0, func([]Entry) {})} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v, want %v", what, err, context.Canceled)
		}
	}
}

func TestMemoryForgetsOldHistory(t *testing.T) {
	m := &Memory{}
	for range memoryHistory + 10 {
		commit(t, m, Write{Put: []Put{{Key: "k"}}})
	}
	if n := len(m.history); n > memoryHistory {
		t.Errorf("%d changes are kept, at most %d", n, memoryHistory)
	}
	err := m.Watch(t.Context(), "k", 5, func([]Entry) {})
	if !errors.Is(err, ErrCompacted) {
		t.Errorf("Watch = %v, want %v", err, ErrCompacted)
	}
}
