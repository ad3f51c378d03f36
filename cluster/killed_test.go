package cluster

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drover/cluster/etcdserver"
	"drover/placement"
)

// etcdDir and etcdURL are variables of the environment that make this test binary a
// server: a process that can be killed.
const (
	etcdDir = "DROVER_TEST_ETCD_DIR"
	etcdURL = "DROVER_TEST_ETCD_URL"
)

// serveEtcd serves etcd until its standard input ends.
func serveEtcd(dir string) {
	_, err := etcdserver.Start(context.Background(),
		etcdserver.Options{Dir: dir, ClientURL: os.Getenv(etcdURL)})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	os.Exit(0)
}

// mortalEtcd is etcd in a process of its own.
type mortalEtcd struct {
	t        *testing.T
	dir, url string
	cmd      *exec.Cmd
}

// startMortal starts an etcd that keeps its URL over restarts: nobody else listens on its
// host where all of 127.0.0.0/8 is loopback, and connections start from higher ports.
func startMortal(t *testing.T) *mortalEtcd {
	t.Helper()
	host := net.IPv4(127, 1+byte(os.Getpid()>>16), byte(os.Getpid()>>8), byte(os.Getpid())).String()
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		host = "127.0.0.1"
	} else {
		l.Close()
	}
	e := &mortalEtcd{t: t, dir: filepath.Join(t.TempDir(), "etcd"), url: "http://" + host + ":23900"}
	e.start()
	t.Cleanup(e.kill)
	return e
}

// start starts the process and waits until it serves.
func (e *mortalEtcd) start() {
	e.t.Helper()
	self, err := os.Executable()
	if err != nil {
		e.t.Fatal(err)
	}
	e.cmd = exec.Command(self)
	e.cmd.Env = append(os.Environ(), etcdDir+"="+e.dir, etcdURL+"="+e.url)
	var said bytes.Buffer
	e.cmd.Stderr = &said
	if _, err := e.cmd.StdinPipe(); err != nil { // it ends with this process
		e.t.Fatal(err)
	}
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		e.kill()
		e.t.Fatalf("etcd: %q, %v: %s", line, err, &said)
	}
}

// kill ends the process by SIGKILL.
func (e *mortalEtcd) kill() {
	_ = e.cmd.Process.Kill() // it may be gone
	_ = e.cmd.Wait()
}

// checkWhole wants a store's placement to be one that some planner meant, whole, and no
// older than what was seen to be committed.
func checkWhole(t *testing.T, store Store, acknowledged uint64) {
	t.Helper()
	scope := Scope{Model: testModel}
	scope.setDefaults()
	var entries []Entry
	for began := time.Now(); ; {
		ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
		var err error
		entries, _, err = store.List(ctx, scope.prefix())
		cancel()
		if err == nil {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatal(err)
		}
	}
	values, plans := map[string][]byte{}, map[string]*placement.Plan{}
	newest := ""
	for _, e := range entries {
		values[e.Key] = e.Value
		if strings.HasPrefix(e.Key, scope.history()) {
			newest = e.Key // they ascend
		}
		if strings.HasPrefix(e.Key, scope.history()) || e.Key == scope.plan() ||
			e.Key == scope.intent() {
			p, err := placement.Decode(e.Value)
			if err != nil {
				t.Fatalf("%s: %v", e.Key, err)
			}
			plans[e.Key] = p
		}
	}
	plan, intent := plans[scope.plan()], plans[scope.intent()]
	if plan == nil || intent == nil {
		t.Fatalf("plan %v, intent %v: one is lost", plan, intent)
	}
	if plan.Revision < acknowledged {
		t.Errorf("revision %d, and %d was committed", plan.Revision, acknowledged)
	}
	if newest != scope.historyOf(plan.Revision) || !bytes.Equal(values[newest], values[scope.plan()]) {
		t.Errorf("revision %d is not the newest of the history, %s", plan.Revision, newest)
	}
	if intent.Revision < plan.Revision || intent.Revision == plan.Revision &&
		!bytes.Equal(values[scope.intent()], values[scope.plan()]) {
		t.Errorf("revision %d was committed, the intent is %d", plan.Revision, intent.Revision)
	}
}

// TestStoreKilled kills etcd by SIGKILL at random instants while plans change, and starts
// it again on its state.
func TestStoreKilled(t *testing.T) { storeKilled(t, 10) }

// TestSoakStoreKill is TestStoreKilled many times: DROVER_SOAK=1 go test ./cluster -run
// TestSoakStoreKill -timeout 60m.
func TestSoakStoreKill(t *testing.T) {
	if os.Getenv("DROVER_SOAK") == "" {
		t.Skip("DROVER_SOAK is not set")
	}
	storeKilled(t, 300)
}

func storeKilled(t *testing.T, kills int) {
	etcd := startMortal(t)
	store := openEtcd(t, etcd.url)
	var acknowledged atomic.Uint64
	w := newWorld(t, store, PlannerOptions{Settle: time.Millisecond, Events: PlannerEvents{
		Committed: func(revision uint64) { acknowledged.Store(revision) }}})
	defer w.close()
	w.join("keeper")
	w.await(time.Minute, "the first plan", uses("keeper"))
	ctx, enough := context.WithCancel(t.Context())
	rng, ended := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1)), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; pause(ctx, time.Duration(rng.IntN(20))*time.Millisecond); i++ {
			// Six come, then they go; none comes twice, so that world.committed asks the
			// life of a node that was ready.
			if n := i / 12 * 6; i%12 < 6 {
				w.join(fmt.Sprintf("n%d", n+i%12))
			} else {
				w.leave(fmt.Sprintf("n%d", n+i%12-6))
			}
		}
	}()
	revisions := map[uint64]bool{}
	for range kills {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		etcd.kill()
		seen := acknowledged.Load()
		etcd.start()
		checkWhole(t, store, seen)
		w.await(time.Minute, "plans change again", func(*placement.View) bool {
			return acknowledged.Load() > seen
		})
		revisions[acknowledged.Load()] = true
	}
	enough()
	<-ended
	t.Logf("%d kills, revision %d at the end", kills, acknowledged.Load())
	if len(revisions) != kills {
		t.Errorf("%d kills and %d plans", kills, len(revisions))
	}
}

// leave ends a node in good order.
func (w *world) leave(id string) {
	w.mu.Lock()
	n := w.nodes[id]
	w.mu.Unlock()
	n.member.Close()
}
