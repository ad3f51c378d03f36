package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"drover/cluster/etcdserver"
	"drover/internal/answer"
	droverv1 "drover/proto/drover/v1"
)

// TestElastic scales a cluster of processes from 2 nodes to 6, 3 and 5, drains a chosen node
// and restarts all, while clients ask: none gets an error or another byte than before, and
// every expert always has a ready replica in the placement.
func TestElastic(t *testing.T) {
	if slack > 1 {
		t.Skip("30 changes of placement take minutes with the race detector")
	}
	etcd, err := etcdserver.Start(t.Context(), etcdserver.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	e := &elastic{roles: roles{etcd: etcd.Endpoint(), model: demoModel(t)},
		nodes: map[string]*process{}}
	e.start(t, "n1", "n2")
	_, endpoint := e.roles.coordinator(t, place{}, "--grpc", "127.0.0.1:0")
	e.client = connectTo(t, endpoint)
	e.load = newAskers(t, e.client)
	e.load.run(t, time.Second)
	t.Logf("quiet: %v", e.load)

	e.load.begin(t)
	watched := e.watch(t)
	e.start(t, "n3", "n4", "n5", "n6")
	e.settled(t, "n1", "n2", "n3", "n4", "n5", "n6")
	code, out, errs := drover(t, "drain", "--plaintext", "--endpoint", endpoint, "n2")
	if code != exitDone {
		t.Errorf("drain n2: exit code %d\n%s%s", code, out, errs)
	}
	t.Logf("drain n2: %s; largest gap %v", out, e.load.pause())
	e.stop(t, "n2", "n5", "n6")
	e.settled(t, "n1", "n3", "n4")
	e.start(t, "n7", "n8")
	e.settled(t, "n1", "n3", "n4", "n7", "n8")
	for _, id := range []string{"n1", "n3", "n4", "n7", "n8"} {
		e.stop(t, id)
		stopped := e.load.pause()
		e.start(t, id)
		t.Logf("restarted %s; largest gap %v", id, stopped)
	}
	e.settled(t, "n1", "n3", "n4", "n7", "n8")
	e.load.end(t)
	t.Logf("moving: %v, %d looks at %d placements", e.load, watched().looks, watched().revisions)
	if e.load.answers < 10 || watched().revisions < 8 {
		t.Errorf("%d answers over %d placements: too few to say anything", e.load.answers,
			watched().revisions)
	}
}

// elastic is a cluster whose nodes come and go.
type elastic struct {
	roles
	*client
	load  *askers
	nodes map[string]*process
}

// start starts nodes. The names of all nodes that run are those that settled wants.
func (e *elastic) start(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		capacity := int64(0) // room for all
		if id == "n4" {
			capacity = 6 << 20 // less than a share of three nodes
		}
		e.nodes[id] = e.expertNode(t, place{}, id, "--short-lease", "--domain", id,
			"--capacity", fmt.Sprint(capacity))
	}
}

// stop ends nodes as Kubernetes does.
func (e *elastic) stop(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		e.nodes[id].signal(syscall.SIGTERM)
	}
	for _, id := range ids {
		if code := e.nodes[id].wait(time.Minute); code != exitDone {
			t.Errorf("%s: exit code %d", id, code)
		}
	}
}

// settled waits until exactly these nodes have their share and, to be of use, have carried
// rows since.
func (e *elastic) settled(t *testing.T, ids ...string) {
	t.Helper()
	began := time.Now()
	rows := map[string]uint64{}
	for id, n := range e.client.nodes(t) {
		rows[id] = n.RowsDispatched
	}
	eventually(t, time.Minute, fmt.Sprint(ids, " share the experts"), func() (bool, string) {
		nodes := e.client.nodes(t)
		for _, id := range ids {
			n := nodes[id]
			if n.GetState() != "ready" || n.ReplicaCount == 0 || n.RowsDispatched <= rows[id] {
				return false, n.String()
			}
		}
		for id, n := range nodes {
			if !slices.Contains(ids, id) && n.ReplicaCount > 0 {
				return false, n.String()
			}
		}
		return true, ""
	})
	t.Logf("%v share the experts after %v; largest gap until then %v", ids,
		time.Since(began).Round(time.Millisecond), e.load.pause())
}

// watching is what an observer saw.
type watching struct{ looks, revisions int }

// watch looks at the placement until the test ends: every expert must have a replica on a
// node that is there and has loaded it.
func (e *elastic) watch(t *testing.T) (seen func() watching) {
	var mu sync.Mutex
	var w watching
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-done
	})
	go func() {
		defer close(done)
		last := uint64(0)
		for ctx.Err() == nil {
			p, bare, err := e.look(ctx)
			if err == nil && len(bare) > 0 {
				t.Errorf("placement %d: no ready replica of %v", p, bare)
				return
			}
			mu.Lock()
			if err == nil {
				w.looks++
				if p != last {
					w.revisions++
				}
				last = p
			}
			mu.Unlock()
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return func() watching {
		mu.Lock()
		defer mu.Unlock()
		return w
	}
}

var errChanged = errors.New("the placement changed meanwhile")

// look returns the placement's revision and the experts that nobody has ready.
func (e *elastic) look(ctx context.Context) (revision uint64, bare []string, err error) {
	before, err := e.cluster.ListNodes(ctx, &droverv1.ListNodesRequest{})
	if err != nil {
		return 0, nil, err
	}
	p, err := e.cluster.GetPlacement(ctx, &droverv1.GetPlacementRequest{})
	if err != nil {
		return 0, nil, err
	}
	after, err := e.cluster.ListNodes(ctx, &droverv1.ListNodesRequest{})
	if err != nil {
		return 0, nil, err
	}
	if before.Revision != p.Revision || after.Revision != p.Revision {
		return 0, nil, errChanged
	}
	serves := map[string]bool{}
	for _, list := range []*droverv1.ListNodesResponse{before, after} {
		for _, n := range list.Nodes {
			serves[n.Id] = serves[n.Id] || n.State == "ready" || n.State == "draining"
		}
	}
	for _, l := range p.Layers {
		for i, x := range l.Experts {
			if !slices.ContainsFunc(x.NodeIds, func(id string) bool { return serves[id] }) {
				bare = append(bare, fmt.Sprintf("%d.%d on %v", l.Layer, i, x.NodeIds))
			}
		}
	}
	return p.Revision, bare, nil
}

// askers are clients that ask the same questions again and again.
type askers struct {
	client   *client
	requests []*droverv1.GenerateRequest
	want     [][]int32
	stop     func()

	mu      sync.Mutex // guards the fields below
	answers int
	gaps    []time.Duration // between two messages of a stream
	largest time.Duration   // since the last call of pause
}

// newAskers makes requests, greedy and sampled, with and without tools, and remembers how the
// cluster answers them while nothing else happens.
func newAskers(t *testing.T, c *client) *askers {
	t.Helper()
	l := &askers{client: c}
	for i, prompt := range []string{story, translate, story, "How is the weather in Rome?"} {
		r := answer.Chat(prompt)
		r.IgnoreEos, r.MaxTokens = true, 48
		if i >= 2 {
			r.Sampling = &droverv1.Sampling{Temperature: proto.Float32(0.9),
				Seed: proto.Uint64(uint64(i))}
		}
		if i == 3 {
			r.GetChat().ToolsJson = []string{`{"type":"function","function":{"name":"weather",` +
				`"parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}`}
		}
		tokens, err := l.ask(t.Context(), r)
		if err != nil || len(tokens) != 48 {
			t.Fatalf("%d tokens, %v", len(tokens), err)
		}
		l.requests, l.want = append(l.requests, r), append(l.want, tokens)
	}
	return l
}

// ask returns the tokens of an answer and notes the gaps.
func (l *askers) ask(ctx context.Context, r *droverv1.GenerateRequest) ([]int32, error) {
	stream, err := l.client.coordinator.Generate(ctx, r)
	if err != nil {
		return nil, err
	}
	var tokens []int32
	var gaps []time.Duration
	var last time.Time
	for ; ; last = time.Now() {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.answers++
			l.gaps = append(l.gaps, gaps...)
			return tokens, nil
		}
		if err != nil {
			return nil, err
		}
		if !last.IsZero() {
			gap := time.Since(last)
			gaps = append(gaps, gap)
			l.mu.Lock()
			l.largest = max(l.largest, gap)
			l.mu.Unlock()
		}
		tokens = append(tokens, r.GetDelta().GetTokenIds()...)
	}
}

// run asks for a while.
func (l *askers) run(t *testing.T, long time.Duration) {
	l.begin(t)
	time.Sleep(long)
	l.end(t)
}

// begin starts the clients, end stops them after their present answers.
func (l *askers) begin(t *testing.T) {
	l.mu.Lock()
	l.answers, l.gaps, l.largest = 0, nil, 0
	l.mu.Unlock()
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	l.stop = sync.OnceFunc(func() {
		stop()
		asking.Wait()
	})
	t.Cleanup(l.stop)
	for i := range l.requests {
		asking.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				which := n % len(l.requests)
				got, err := l.ask(t.Context(), l.requests[which])
				if err != nil || !slices.Equal(got, l.want[which]) {
					t.Errorf("request %d: %v\ngot  %v\nwant %v", which, err, got, l.want[which])
					return
				}
			}
		})
	}
}

func (l *askers) end(t *testing.T) {
	t.Helper()
	l.stop()
}

// pause returns the largest gap since it was called last.
func (l *askers) pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.largest
	l.largest = 0
	return d.Round(time.Millisecond)
}

// String says how fast the answers were.
func (l *askers) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.gaps) == 0 {
		return "no gaps"
	}
	slices.Sort(l.gaps)
	at := func(q float64) time.Duration {
		return l.gaps[int(q*float64(len(l.gaps)-1))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("%d answers; gap between tokens p50 %v, p99 %v, largest %v", l.answers,
		at(0.5), at(0.99), at(1))
}
