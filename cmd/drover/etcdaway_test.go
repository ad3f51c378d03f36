package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	droverv1 "drover/proto/drover/v1"
)

// steady is clients that ask a coordinator all the time, and what they want to see.
type steady struct {
	t      *testing.T
	cancel context.CancelFunc
	wg     sync.WaitGroup
	asked  atomic.Int64
}

// startSteady lets two clients ask until stop: every answer must be the one of before, and
// the coordinator must say all the time that it is ready.
func startSteady(t *testing.T, c *client) *steady {
	t.Helper()
	l := &steady{t: t}
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(t.Context())
	for _, question := range []string{story, translate} {
		want := c.mustAsk(t, question)
		l.wg.Go(func() {
			for ; ctx.Err() == nil; l.asked.Add(1) {
				limited, cancel := context.WithTimeout(ctx, 60*slack*time.Second)
				got, err := c.ask(limited, question)
				cancel()
				if ctx.Err() == nil && (err != nil || got != want) {
					t.Errorf("under load: %v, %q; before: %q", err, got, want)
				}
			}
		})
	}
	stream, err := healthv1.NewHealthClient(c.conn).Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	l.wg.Go(func() {
		for {
			r, err := stream.Recv()
			if ctx.Err() != nil {
				return
			}
			if err != nil || r.Status != healthv1.HealthCheckResponse_SERVING {
				t.Errorf("readiness: %v, %v", r, err)
				return
			}
		}
	})
	return l
}

// goesOn waits until the clients have had more answers.
func (l *steady) goesOn() {
	l.t.Helper()
	enough := l.asked.Load() + 3
	eventually(l.t, 60*slack*time.Second, "more answers", func() (bool, string) {
		return l.asked.Load() >= enough, fmt.Sprint(l.asked.Load())
	})
}

// stop ends the load and reports how much there was.
func (l *steady) stop() {
	l.cancel()
	l.wg.Wait()
	l.t.Logf("%d answers", l.asked.Load())
}

// revision is that of the committed placement.
func (c *client) revision(t *testing.T) uint64 {
	t.Helper()
	r, err := c.cluster.GetPlacement(t.Context(), &droverv1.GetPlacementRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Revision
}

// registered waits until these nodes, and no others, are ready.
func (c *client) registered(t *testing.T, ids ...string) {
	t.Helper()
	eventually(t, 60*slack*time.Second, fmt.Sprint(ids, " are ready"), func() (bool, string) {
		nodes := c.nodes(t)
		for _, id := range ids {
			if nodes[id].GetState() != "ready" || nodes[id].GetReplicaCount() == 0 {
				return false, fmt.Sprint(nodes)
			}
		}
		return len(nodes) == len(ids), fmt.Sprint(nodes)
	})
}

// TestEtcdAway lets an etcd of three lose its leader, its history, its leases and, for
// longer than leases last, all its members, under load. No request fails, no byte
// differs, the coordinator stays ready, and the placement does not change for it.
func TestEtcdAway(t *testing.T) { etcdAway(t, 8*time.Second) }

// TestSoakEtcdAway is TestEtcdAway for ten minutes: DROVER_SOAK=1 go test ./cmd/drover
// -run TestSoakEtcdAway -timeout 40m.
func TestSoakEtcdAway(t *testing.T) {
	if os.Getenv("DROVER_SOAK") == "" {
		t.Skip("DROVER_SOAK is not set")
	}
	etcdAway(t, 10*time.Minute)
}

func etcdAway(t *testing.T, away time.Duration) {
	m := startMembers(t)
	r := &roles{etcd: m.urls[0] + "," + m.urls[1] + "," + m.urls[2], model: demoModel(t)}
	all := []string{"n1", "n2", "n3"}
	nodes := map[string]*process{}
	for _, id := range all {
		nodes[id] = r.expertNode(t, place{}, id, "--domain", id)
	}
	_, endpoint := r.coordinator(t, place{}, "--grpc", "127.0.0.1:0", "--replicas", "2",
		"--min-nodes", "3")
	c := connectTo(t, endpoint)
	c.registered(t, all...)
	l := startSteady(t, c)
	defer l.stop()
	first := c.revision(t)
	same := func(after string) {
		t.Helper()
		l.goesOn()
		c.registered(t, all...)
		if now := c.revision(t); now != first {
			t.Errorf("after %s: placement revision %d, before %d", after, now, first)
		}
	}

	etcd := m.client(t)
	leader := m.leader(t, etcd)
	m.running[leader].signal(os.Kill)
	m.running[leader].wait(5 * slack * time.Second)
	m.leader(t, etcd)
	l.goesOn()
	m.start(t, leader)
	m.ready(t)
	same("a change of the leader")

	m.compact(t, etcd)
	same("a compaction")

	t.Cleanup(func() { // or the test would end slowly
		for _, p := range m.running {
			_ = p.cmd.Process.Signal(syscall.SIGCONT)
		}
	})
	m.signal(syscall.SIGSTOP)
	time.Sleep(away)
	l.goesOn()
	m.signal(syscall.SIGCONT)
	m.put(t, etcd, "answers", "again")
	time.Sleep(2 * time.Second) // absences would be acted on
	same("a stop")

	m.signal(os.Kill)
	time.Sleep(away)
	nodes["n2"].signal(os.Kill) // its experts have other replicas
	l.goesOn()
	if now := c.revision(t); now != first {
		t.Errorf("while etcd is away: placement revision %d, before %d", now, first)
	}
	for i, p := range m.running {
		p.wait(5 * slack * time.Second)
		m.start(t, i)
	}
	m.ready(t)
	c.registered(t, "n1", "n3")
	l.goesOn()
	r.expertNode(t, place{}, "n2", "--domain", "n2")
	c.registered(t, all...)
	l.goesOn()

	m.revoke(t, etcd)
	l.goesOn()
	c.registered(t, all...)
	l.goesOn()
}
