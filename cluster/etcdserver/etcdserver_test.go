package etcdserver

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// read returns the value of the key "k", after putting a value if that is not empty.
func read(t *testing.T, endpoint, put string) string {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if put != "" {
		if _, err := c.Put(ctx, "k", put); err != nil {
			t.Fatal(err)
		}
	}
	r, err := c.Get(ctx, "k")
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("get = %v, %v", r, err)
	}
	return string(r.Kvs[0].Value)
}

// revision returns etcd's own newest revision.
func revision(t *testing.T, endpoint string) int64 {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

// TestFolderInUse starts a second member on the folder of one that runs: it is told so, where
// etcd would wait for ever, and the first one goes on.
func TestFolderInUse(t *testing.T) {
	opts := Options{Dir: filepath.Join(t.TempDir(), "state")}
	first, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := Start(t.Context(), opts)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), opts.Dir) {
		t.Errorf("a second member: %v, %v; want ErrInUse and the folder", second, err)
	}
	if got := read(t, first.Endpoint(), "kept"); got != "kept" {
		t.Errorf("the first member returns %q", got)
	}
}

// TestStartPanics has etcd panic while it starts, as it does without room on the disk: that is
// an error.
func TestStartPanics(t *testing.T) {
	if etcd, err := start(nil); etcd != nil || !errors.Is(err, errGaveUp) {
		t.Errorf("start of nothing: %v, %v; want %v", etcd, err, errGaveUp)
	}
}

// TestRestart starts a member twice on the same folder and finds what was written.
func TestRestart(t *testing.T) {
	opts := Options{Dir: filepath.Join(t.TempDir(), "state")}
	for _, put := range []string{"kept", ""} {
		s, err := Start(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(s.Endpoint(), "http://127.0.0.1:") ||
			strings.HasSuffix(s.Endpoint(), ":0") {
			t.Errorf("endpoint %q, want a port of 127.0.0.1", s.Endpoint())
		}
		if got := read(t, s.Endpoint(), put); got != "kept" {
			t.Errorf("got %q, want %q", got, "kept")
		}
		s.Close()
		select {
		case <-s.Done():
		default:
			t.Error("closed, and not done")
		}
	}
	if state, err := os.Stat(opts.Dir); err != nil || state.Mode().Perm() != 0o700 {
		t.Errorf("state folder %v, %v, want mode 0700", state, err)
	}
}

// TestTwoMembers runs two servers in one process, each on ports of its own.
func TestTwoMembers(t *testing.T) {
	var endpoints []string
	for range 2 {
		s, err := Start(t.Context(), Options{Dir: filepath.Join(t.TempDir(), "state")})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		read(t, s.Endpoint(), s.Endpoint())
		endpoints = append(endpoints, s.Endpoint())
	}
	for _, e := range endpoints {
		if got := read(t, e, ""); got != e {
			t.Errorf("%s holds %q", e, got)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := "a new folder"
	for name, opts := range map[string]Options{
		"no folder":     {},
		"no url":        {Dir: dir, ClientURL: "127.0.0.1:2379"},
		"name":          {Dir: dir, ClientURL: "http://localhost.invalid:1"},
		"busy port":     {Dir: dir, ClientURL: "http://" + busy.Addr().String()},
		"no TLS files":  {Dir: dir, ClientURL: "https://127.0.0.1:0"},
		"bad TLS files": {Dir: dir, ClientURL: "https://127.0.0.1:0", ClientTLS: TLSFiles{Certificate: file, Key: file}},
		"file":          {Dir: file},
		"quota":         {Dir: dir, QuotaBytes: -1},
		"others absent": {Dir: dir, StartTimeout: time.Second,
			InitialCluster: "drover=http://127.0.0.1:0,other=http://127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			if opts.Dir == dir {
				opts.Dir = filepath.Join(t.TempDir(), "state")
			}
			s, err := Start(t.Context(), opts)
			if err == nil {
				s.Close()
				t.Fatal("Start accepts it")
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
		})
	}
}

func TestStartObeysItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := Start(ctx, Options{Dir: filepath.Join(t.TempDir(), "state"),
		InitialCluster: "drover=http://127.0.0.1:0,other=http://127.0.0.1:1"})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Start = %v, want %v", err, context.DeadlineExceeded)
	}
}
