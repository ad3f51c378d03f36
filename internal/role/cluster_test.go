package role

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"drover/cluster"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
)

// within bounds what the tests wait for; it says nothing about how long things take.
const within = 2 * time.Minute

var demo = filepath.Join("..", "..", "models", "tiny-maverick")

func loopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// statuses follows a health service until the test ends: what it says, in order.
type statuses struct {
	mu   sync.Mutex // guards said
	said []string
}

func follow(t *testing.T, address string) *statuses {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	s := &statuses{}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{},
		grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r, err := stream.Recv()
			s.mu.Lock()
			if err != nil {
				s.said = append(s.said, "ended")
				s.mu.Unlock()
				return
			}
			s.said = append(s.said, r.Status.String())
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		conn.Close()
	})
	return s
}

// all is what was said so far, in words.
func (s *statuses) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.said, " ")
}

// await waits until this, and nothing else, was said.
func (s *statuses) await(t *testing.T, want string) {
	t.Helper()
	await(t, "the statuses "+want, func() (bool, string) {
		got := s.all()
		if !strings.HasPrefix(want, got) {
			t.Fatalf("said %q, want %q", got, want)
		}
		return got == want, got
	})
}

// awaitEnd waits until the service has ended. That it said before that it is not ready may
// have been cut off.
func (s *statuses) awaitEnd(t *testing.T) {
	t.Helper()
	await(t, "the end", func() (bool, string) {
		return strings.HasSuffix(s.all(), " ended"), s.all()
	})
}

// await waits until ok.
func await(t *testing.T, what string, ok func() (bool, string)) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		so, got := ok()
		if so {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not %s: %s", within, what, got)
		}
	}
}

// readyz asks the coordinator's HTTP address.
func readyz(t *testing.T, address string) (code int, reason string) {
	t.Helper()
	r, err := http.Get("http://" + address + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var body struct{ Status, Reason string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, body.Reason
}

// stateOf is what a coordinator says of a node, nil if it does not know it.
func stateOf(t *testing.T, c *Coordinator, id string) *droverv1.NodeStatus {
	t.Helper()
	r, err := droverv1.NewClusterServiceClient(c.Conn).ListNodes(t.Context(),
		&droverv1.ListNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range r.Nodes {
		if n.Id == id {
			return n
		}
	}
	return nil
}

// TestReadiness follows what a coordinator and its nodes say of themselves: before there
// is a placement, with one, when a node leaves in good order and when the store is away.
func TestReadiness(t *testing.T) {
	store, quiet := &cluster.Memory{}, slog.New(slog.DiscardHandler)
	start := func(id string) *ExpertNode {
		n, err := StartExpertNode(t.Context(), ExpertNodeOptions{ModelDir: demo, Mode: kernel.BF16,
			Store: store, ID: id, Epoch: NewEpoch(), Listen: "127.0.0.1:0", Domain: id,
			ShortLease: true, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Close)
		return n
	}
	a, b := start("a"), start("b")
	ofA, ofB := follow(t, a.Address), follow(t, b.Address)
	ofA.await(t, "NOT_SERVING")
	ofB.await(t, "NOT_SERVING")

	rows, web := loopback(t), loopback(t)
	c, err := StartCoordinator(t.Context(), CoordinatorOptions{ModelDir: demo, Mode: kernel.BF16,
		Store: store, MinNodes: 2, Replicas: 2, GRPC: rows, HTTP: web, ShortLease: true, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			c.Close()
		}
	}()
	ofC := follow(t, rows.Addr().String())
	ofC.await(t, "NOT_SERVING")
	if code, reason := readyz(t, web.Addr().String()); code != http.StatusServiceUnavailable ||
		reason == "" {
		t.Errorf("before it is ready: %d, %q, want a reason", code, reason)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	ofC.await(t, "NOT_SERVING SERVING")
	ofA.await(t, "NOT_SERVING SERVING")
	ofB.await(t, "NOT_SERVING SERVING")
	if code, reason := readyz(t, web.Addr().String()); code != http.StatusOK || reason != "" {
		t.Errorf("when it is ready: %d, %q", code, reason)
	}

	store.SetDown(true) // nothing changes
	time.Sleep(2 * canaryEvery)
	if got := ofC.all() + ", " + ofA.all(); got != "NOT_SERVING SERVING, NOT_SERVING SERVING" {
		t.Errorf("while the store is away: %s", got)
	}
	b.Close() // a has a replica of everything
	ofB.awaitEnd(t)
	// The store cannot tell that b is gone. Its links do.
	await(t, "b is unreachable", func() (bool, string) {
		n := stateOf(t, c, "b")
		return n.GetState() == "unreachable" && strings.Contains(n.GetReason(), "no link to it for"),
			n.String()
	})
	if n := stateOf(t, c, "a"); n.GetState() != "ready" || n.GetReason() != "" {
		t.Errorf("a is %v, want ready", n)
	}
	store.SetDown(false)
	d := start("d")
	ofD := follow(t, d.Address)
	await(t, "d is ready", func() (bool, string) {
		return strings.HasSuffix(" "+ofD.all(), " SERVING"), ofD.all()
	})
	ofA.await(t, "NOT_SERVING SERVING")
	ofC.await(t, "NOT_SERVING SERVING")

	c.Close()
	closed = true
	ofC.awaitEnd(t)
}
