package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// truth compares what a coordinator says of itself with what it does.
type truth struct {
	*client
	http string
	want string // the answer to translate
}

// says returns what the coordinator says of itself: over gRPC, and over HTTP with why.
func (c *truth) says(t *testing.T) (ready, httpReady bool, reason string) {
	t.Helper()
	h, err := healthv1.NewHealthClient(c.conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.Get("http://" + c.http + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var body struct{ Reason string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if r.StatusCode == http.StatusServiceUnavailable && body.Reason == "" {
		t.Error("/readyz says that it is not ready, and not why")
	}
	return h.Status == healthv1.HealthCheckResponse_SERVING, r.StatusCode == http.StatusOK, body.Reason
}

// does asks a question.
func (c *truth) does(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*slack*time.Second)
	defer cancel()
	got, err := c.ask(ctx, translate)
	if err == nil && got != c.want {
		t.Fatalf("answered %q, before %q", got, c.want)
	}
	return err
}

// agrees waits until what the coordinator says is what it does: ready before and after a
// question that is answered, not ready before and after one that is not. Between a fault
// and that, it may say for a few seconds what was so before.
func (c *truth) agrees(t *testing.T, after string) (ready bool) {
	t.Helper()
	eventually(t, 60*slack*time.Second, "after "+after+" it says what it does", func() (bool, string) {
		before, _, _ := c.says(t)
		err := c.does(t)
		grpc, http, reason := c.says(t)
		ready = grpc
		return before == grpc && grpc == http && grpc == (err == nil),
			fmt.Sprintf("ready %v, then %v, over HTTP %v (%s); asked: %v", before, grpc, http, reason, err)
	})
	return ready
}

// heals waits until the coordinator says that it is ready, and is.
func (c *truth) heals(t *testing.T, after string) {
	t.Helper()
	eventually(t, 60*slack*time.Second, "ready again after "+after, func() (bool, string) {
		return c.agrees(t, after), "it says, and is, not ready"
	})
}

// readyHTTP is the HTTP address that a coordinator logs when it is ready.
var readyHTTP = regexp.MustCompile(`msg=ready .*http=(\S+)`)

// serving is where a node says that it serves rows.
var serving = regexp.MustCompile(`msg="serving rows" .*address=(\S+)`)

// nodeReady waits until a node says of itself that it is ready.
func nodeReady(t *testing.T, p *process) {
	t.Helper()
	var address string
	eventually(t, 60*slack*time.Second, "the node serves", func() (bool, string) {
		found := serving.FindStringSubmatch(p.errors.String())
		if found != nil {
			address = found[1]
		}
		return found != nil, p.errors.String()
	})
	health := healthv1.NewHealthClient(connectTo(t, address).conn)
	eventually(t, 60*slack*time.Second, "the node is ready", func() (bool, string) {
		r, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{})
		return r.GetStatus() == healthv1.HealthCheckResponse_SERVING, fmt.Sprint(r, err)
	})
}

// TestNeverLies injects faults into a cluster with one replica of each expert, and
// compares what the coordinator says of itself with what it does: all nodes are killed,
// one is stopped and goes on, etcd goes away. Each fault heals without anybody's help,
// but that killed nodes are started again.
func TestNeverLies(t *testing.T) {
	dir := t.TempDir()
	etcd := func(url string) *process {
		return launch(t, place{}, "etcd", "--dir", dir, "--client", url, "--peer", "http://127.0.0.1:0",
			"--plaintext")
	}
	store := etcd("http://127.0.0.1:0")
	r := &roles{etcd: awaitReady(t, store), model: demoModel(t)}
	node := func(id string) *process { return r.expertNode(t, place{}, id, "--short-lease") }
	n1, n2 := node("n1"), node("n2")
	p, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0",
		"--admin", "127.0.0.1:0")
	c := &truth{client: connectTo(t, endpoint), http: readyHTTP.FindStringSubmatch(p.errors.String())[1]}
	c.want = c.mustAsk(t, translate)
	nodeReady(t, n1)
	nodeReady(t, n2)
	if !c.agrees(t, "the start") {
		t.Error("it started, and is not ready")
	}

	n1.signal(os.Kill)
	n2.signal(os.Kill)
	c.agrees(t, "the death of all nodes")
	p.tells(t, "drover_last_resort_experts_total", isMore)
	p.tells(t, "drover_experts_unreachable", isMore)
	p.says(t, "experts are computed on the coordinator itself")
	n1, n2 = node("n1"), node("n2")
	c.heals(t, "the death of all nodes")
	nodeReady(t, n1)
	nodeReady(t, n2)
	p.tells(t, "drover_experts_unreachable", isZero)

	const lost = `msg="expert node lost" node=n1`
	losses, revision := strings.Count(p.errors.String(), lost), p.metric(t, "drover_placement_revision")
	n1.signal(syscall.SIGSTOP)
	stopped := n1
	t.Cleanup(func() { _ = stopped.cmd.Process.Signal(syscall.SIGCONT) })
	c.agrees(t, "the stop of a node")
	eventually(t, 60*slack*time.Second, "its lease ends", func() (bool, string) {
		return strings.Count(p.errors.String(), lost) > losses, ""
	})
	p.tells(t, "drover_placement_revision", func(v float64) bool { return v > revision })
	c.heals(t, "the stop of a node") // the other loads what it held
	n1.signal(syscall.SIGCONT)
	c.heals(t, "the return of a node")
	nodeReady(t, n1)

	store.signal(os.Kill)
	time.Sleep(6 * time.Second) // the last proof is older
	p.tells(t, "drover_store_up", isZero)
	p.says(t, "etcd does not answer")
	p.tells(t, "drover_ready", isOne)
	if !c.agrees(t, "the death of etcd") {
		t.Error("it is not ready without etcd")
	}
	store.wait(10 * slack * time.Second)
	awaitReady(t, etcd(r.etcd))
	c.heals(t, "the return of etcd")
	p.tells(t, "drover_store_up", isOne)
	c.registered(t, "n1", "n2")
}
