package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/cluster/etcdserver"
	"drover/internal/testcluster"
	droverv1 "drover/proto/drover/v1"
)

// newRoles starts an etcd for roles that the test starts by hand.
func newRoles(t *testing.T) *roles {
	t.Helper()
	etcd, err := etcdserver.Start(t.Context(), etcdserver.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	return &roles{etcd: etcd.Endpoint(), model: demoModel(t)}
}

// says waits until a process has logged something.
func (p *process) says(t *testing.T, what string) {
	t.Helper()
	eventually(t, 60*slack*time.Second, "it says "+what, func() (bool, string) {
		return strings.Contains(p.errors.String(), what), p.errors.String()
	})
}

// TestDrain drains nodes by command and by signals, also where that cannot be done.
func TestDrain(t *testing.T) {
	r := newRoles(t)
	left := r.expertNode(t, place{}, "left", "--short-lease", "--drain-timeout", "5m")
	right := r.expertNode(t, place{}, "right", "--short-lease")
	p, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	c := connectTo(t, endpoint)
	want := c.mustAsk(t, story)
	run := func(code int, says string, args ...string) {
		t.Helper()
		got, out, errs := drover(t, append(args, "--plaintext", "--endpoint", endpoint)...)
		if got != code || !strings.Contains(out+errs, says) {
			t.Errorf("%v: exit code %d, want %d with %q:\n%s%s", args, got, code, says, out, errs)
		}
	}
	run(exitUsage, "one node", "drain")
	run(exitUsage, "must be more than 0", "drain", "left", "--drain-timeout", "0s")
	run(exitFailed, `no node "nobody"`, "drain", "nobody")
	run(exitDone, "right is empty after", "drain", "right")
	run(exitDone, "drained", "nodes")
	p.tells(t, `drover_nodes{state="drained"}`, isOne)
	p.tells(t, "drover_ready", isOne)
	p.says(t, "expert node drains")
	// Now left is the only one, so it cannot be drained.
	run(exitFailed, "are missing", "drain", "left")
	if got := c.mustAsk(t, story); got != want {
		t.Errorf("with right drained: %q, before %q", got, want)
	}
	run(exitDone, "right gets its share again", "drain", "--undo", "right")
	both := func() (bool, string) {
		n := c.nodes(t)
		return n["left"].GetReplicaCount() > 0 && n["right"].GetReplicaCount() > 0 &&
			n["right"].GetState() == "ready", n["right"].String()
	}
	eventually(t, 20*slack*time.Second, "both share the experts", both)

	// A node that is told to end ends when it is empty.
	right.signal(syscall.SIGTERM)
	if code := right.wait(20 * slack * time.Second); code != exitDone ||
		!strings.Contains(right.errors.String(), "msg=drained") {
		t.Errorf("right: exit code %d", code)
	}
	if got := c.mustAsk(t, story); got != want {
		t.Errorf("with right gone: %q, before %q", got, want)
	}
	// The last one has nobody to give its experts to: it waits, until it is told again.
	left.signal(syscall.SIGTERM)
	left.says(t, "msg=draining")
	eventually(t, 20*slack*time.Second, "left drains", func() (bool, string) {
		s := c.nodes(t)["left"].GetState()
		return s == "draining", s
	})
	if got := c.mustAsk(t, story); got != want {
		t.Errorf("while left drains: %q, before %q", got, want)
	}
	left.signal(syscall.SIGTERM)
	if code := left.wait(20 * slack * time.Second); code != exitDone ||
		!strings.Contains(left.errors.String(), "left before others took over") {
		t.Errorf("left: exit code %d", code)
	}
}

// TestDrainTimeout ends a node that cannot be drained when its time is over.
func TestDrainTimeout(t *testing.T) {
	r := newRoles(t)
	only := r.expertNode(t, place{}, "only", "--short-lease", "--drain-timeout", "300ms")
	second := r.expertNode(t, place{}, "second", "--short-lease", "--drain-timeout", "0")
	_, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0")
	second.signal(syscall.SIGTERM) // at once: its experts are loaded after its lease
	if code := second.wait(20 * slack * time.Second); code != exitDone ||
		strings.Contains(second.errors.String(), "drain") {
		t.Errorf("second: exit code %d", code)
	}
	c := connectTo(t, endpoint)
	eventually(t, 20*slack*time.Second, "the first holds all", func() (bool, string) {
		n := c.nodes(t)["only"]
		return n.GetReplicaCount() == 4*128 && n.GetState() == "ready", n.String()
	})
	only.signal(syscall.SIGTERM)
	if code := only.wait(20 * slack * time.Second); code != exitDone ||
		!strings.Contains(only.errors.String(), "--drain-timeout of 300ms is over") {
		t.Errorf("only: exit code %d", code)
	}
}

// TestSourcePeers joins a node whose checkpoint has no weights, only the configuration and
// the headers: it gets its experts from the others and computes the same.
func TestSourcePeers(t *testing.T) {
	r := newRoles(t)
	first := r.expertNode(t, place{}, "first", "--short-lease")
	r.expertNode(t, place{}, "second", "--short-lease")
	_, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0")
	c := connectTo(t, endpoint)
	want := c.mustAsk(t, story)
	poor := &roles{etcd: r.etcd, model: testcluster.HeadersOnly(t, r.model)}
	third := poor.expertNode(t, place{}, "third", "--short-lease", "--source", "peers")
	eventually(t, 20*slack*time.Second, "the third has its share", func() (bool, string) {
		n := c.nodes(t)["third"]
		return n.GetState() == "ready" && n.GetReplicaCount() > 100, n.String()
	})
	// With the first one gone, it needs more of the second.
	first.signal(syscall.SIGTERM)
	if code := first.wait(20 * slack * time.Second); code != exitDone {
		t.Errorf("first: exit code %d", code)
	}
	for range 3 {
		if got := c.mustAsk(t, story); got != want {
			t.Errorf("%q, before %q", got, want)
		}
	}
	n := c.nodes(t)["third"]
	if n.GetReplicaCount() < 200 || n.GetRowsDispatched() == 0 {
		t.Errorf("third: %v", n)
	}
	s, err := droverv1.NewExpertServiceClient(connectTo(t, n.Address).conn).Status(t.Context(),
		&droverv1.StatusRequest{})
	if err != nil || s.CheckpointBytesRead != 0 {
		t.Errorf("the third has read %d bytes of tensors: %v", s.GetCheckpointBytesRead(), err)
	}
	if strings.Contains(third.errors.String(), "read from the checkpoint") {
		t.Error("it fell back on the checkpoint")
	}
}
