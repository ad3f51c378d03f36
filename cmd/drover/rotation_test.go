package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"drover/internal/answer"
	"drover/internal/identity"
	droverv1 "drover/proto/drover/v1"
)

// streams asks without a pause and counts. A stream that ends early is not resumed: it is lost.
type streams struct {
	endpoint string
	id       *identity.Source

	ended   []atomic.Int64 // answers of each client
	running sync.WaitGroup

	mu   sync.Mutex // guards the field below
	lost []string
}

// ask has a client ask until ctx ends, over a connection that it keeps, or over a new one for
// each question.
func (s *streams) ask(ctx context.Context, c int, keep bool, questions, answers []string) {
	var conn *grpc.ClientConn
	for i := c; ctx.Err() == nil; i++ {
		err := error(nil)
		if conn == nil {
			conn, err = grpc.NewClient(s.endpoint, grpc.WithTransportCredentials(
				credentials.NewTLS(s.id.Client(identity.Coordinator))))
		}
		if err == nil {
			err = one(conn, questions[i%len(questions)], answers[i%len(questions)])
		}
		if err != nil {
			s.mu.Lock()
			s.lost = append(s.lost, fmt.Sprintf("client %d, question %d: %v", c, i, err))
			s.mu.Unlock()
		}
		s.ended[c].Add(1)
		if conn != nil && !keep {
			_ = conn.Close() // the answer is there
			conn = nil
		}
	}
	if conn != nil {
		_ = conn.Close()
	}
}

func one(conn *grpc.ClientConn, question, want string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*slack*time.Second)
	defer cancel()
	got, err := answer.Stream(ctx, droverv1.NewCoordinatorServiceClient(conn), answer.Chat(question),
		func(string) {})
	if err == nil && got.Text != want {
		err = fmt.Errorf("the answer is %q, want %q", got.Text, want)
	}
	return err
}

// more waits until each client has had two answers since: one of them began since.
func (s *streams) more(t *testing.T, what string) {
	t.Helper()
	for c := range s.ended {
		n := s.ended[c].Load() + 2
		eventually(t, 120*slack*time.Second, what+": answers go on", func() (bool, string) {
			return s.ended[c].Load() >= n, fmt.Sprintf("client %d has %d of %d", c, s.ended[c].Load(), n)
		})
	}
}

// TestTLSRotation changes the authority and all certificates of a cluster of processes while
// clients ask, over old connections and new ones: no stream is lost and no byte differs.
func TestTLSRotation(t *testing.T) {
	dir := certificates(t, "etcd", "expertnode", "coordinator", "client")
	of := func(role string) string { return filepath.Join(dir, role) }
	etcd := launch(t, place{}, "etcd", "--dir", filepath.Join(dir, "state"), "--tls", of("etcd"),
		"--client", "https://127.0.0.1:0", "--peer", "https://127.0.0.1:0")
	r := &roles{etcd: awaitReady(t, etcd), model: demoModel(t)}
	left := r.expertNode(t, place{}, "left", "--tls", of("expertnode"))
	right := r.expertNode(t, place{}, "right", "--tls", of("expertnode"))
	coordinator, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--tls",
		of("coordinator"))
	const taken = "new certificates are in force"
	processes := []following{
		// It reads its certificate for each connection, and starts again with other authorities.
		{etcd, "msg=ready", [3]int{2, 2, 3}},
		{left, taken, [3]int{1, 2, 3}}, {right, taken, [3]int{1, 2, 3}},
		// It follows the folder twice, for its cluster and for its clients.
		{coordinator, taken, [3]int{2, 4, 6}},
	}
	id, err := identity.Open(of("client"), identity.Events{})
	if err != nil {
		t.Fatal(err)
	}
	defer id.Close()
	questions, answers := []string{translate, story}, make([]string, 2)
	for i, q := range questions {
		code, out, stderr := drover(t, "run", "--endpoint", endpoint, "--tls", of("client"), q)
		if code != exitDone {
			t.Fatal(stderr)
		}
		answers[i] = strings.TrimSuffix(out, "\n")
	}
	const clients = 6
	s := &streams{endpoint: endpoint, id: id, ended: make([]atomic.Int64, clients)}
	ctx, stop := context.WithCancel(t.Context())
	defer s.running.Wait()
	defer stop()
	for c := range clients {
		s.running.Go(func() { s.ask(ctx, c, c%2 == 0, questions, answers) })
	}
	s.more(t, "at first")
	rotate(t, s, dir, processes)
	stop()
	s.running.Wait()
	total := int64(0)
	for c := range s.ended {
		total += s.ended[c].Load()
	}
	for _, l := range s.lost[:min(len(s.lost), 10)] {
		t.Error(l)
	}
	t.Logf("%d streams, %d lost", total, len(s.lost))
}

// following is a process that says something so often when it has taken the steps of a rotation.
type following struct {
	*process
	says  string
	times [3]int
}

// rotate changes the authority in its three steps, each when all processes and the clients have
// taken the one before.
func rotate(t *testing.T, s *streams, dir string, processes []following) {
	t.Helper()
	authority := filepath.Join(dir, "new")
	if code, _, stderr := drover(t, "certs", "ca", "--out", authority); code != 0 {
		t.Fatal(stderr)
	}
	folders := []string{"etcd", "expertnode", "coordinator", "client"}
	for i, f := range folders {
		folders[i] = filepath.Join(dir, f)
	}
	old, err := os.ReadFile(filepath.Join(dir, identity.AuthorityFile))
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range [][]string{{"trust"}, {"renew", "--new-key"}, {"trust", "--only"}} {
		args := append(append([]string{"certs"}, step...), "--ca", authority)
		if code, _, stderr := drover(t, append(args, folders...)...); code != 0 {
			t.Fatal(stderr)
		}
		if _, err := s.id.Reload(); err != nil {
			t.Fatal(err)
		}
		for _, p := range processes {
			eventually(t, 60*slack*time.Second, "it is taken", func() (bool, string) {
				text := p.errors.String()
				return strings.Count(text, p.says) >= p.times[i], text
			})
		}
		s.more(t, strings.Join(step, " "))
	}
	for _, f := range folders {
		now, err := os.ReadFile(filepath.Join(f, identity.AuthorityFile))
		if err != nil || slices.Equal(now, old) || strings.Contains(string(now), string(old)) {
			t.Errorf("%s still trusts the old authority (%v)", f, err)
		}
	}
}
