package router_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"drover/expertnode"
	"drover/kernel"
	"drover/moe"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
	"drover/router"
	"drover/tensor"
)

var (
	digest   = []byte("sha-256 of a small checkpoint...")
	testSpec = moe.Spec{Layers: []int{1, 3}, Experts: 16, TopK: 2, Hidden: 24}
)

// fake computes experts by arithmetic that depends on layer and expert, so that a
// row in the wrong place or from the wrong expert is noticed.
type fake struct {
	spec  moe.Spec
	mode  kernel.Mode
	holds func(layer, expert int) bool // nil: all
	// before, if set, is called before each computation and may stall or fail it.
	before atomic.Pointer[func(layer, expert int) error]
	lies   atomic.Pointer[func() bool] // nil: never
	rows   atomic.Int64
}

func (f *fake) Spec() moe.Spec { return f.spec }
func (f *fake) Count() int     { return len(f.spec.Layers) * f.spec.Experts }
func (f *fake) Bytes() int64   { return 1 << 20 }

func (f *fake) Holds(layer, expert int) bool { return f.holds == nil || f.holds(layer, expert) }

func (f *fake) setLies(lies func() bool) { f.lies.Store(&lies) }

func (f *fake) setBefore(before func(layer, expert int) error) { f.before.Store(&before) }

func (f *fake) ComputeBatch(b *moe.Batch, errs []error) {
	at := 0
	for i, expert := range b.Experts {
		n := int(b.Counts[i])
		errs[i] = f.Compute(b.Layer, int(expert), b.Y.Slice(at, at+n), b.X.Slice(at, at+n))
		at += n
	}
}

func (f *fake) Compute(layer, expert int, y, x tensor.Rows) error {
	if before := f.before.Load(); before != nil {
		if err := (*before)(layer, expert); err != nil {
			return err
		}
	}
	if !f.Holds(layer, expert) {
		return fmt.Errorf("layer %d expert %d: %w", layer, expert, expertnode.ErrNotHeld)
	}
	f.rows.Add(int64(x.N))
	scale := 1 + float32(layer)/8 + float32(expert)/64
	for i := range x.N {
		in, out := x.Row(i), y.Row(i)
		for j, v := range in {
			out[j] = v*scale + in[(j+1)%len(in)]
		}
	}
	moe.RoundRows(f.mode, y)
	if lies := f.lies.Load(); lies != nil && (*lies)() {
		y.Data[len(y.Data)-1] += 64
	}
	return nil
}

// Forward is the computation in process that every distributed one must equal.
func (f *fake) Forward(_ context.Context, b *moe.Batch, meanwhile func()) error {
	if meanwhile != nil {
		meanwhile()
	}
	at := 0
	for i, expert := range b.Experts {
		n := int(b.Counts[i])
		err := f.Compute(b.Layer, int(expert), b.Y.Slice(at, at+n), b.X.Slice(at, at+n))
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}

// testNode is one expert node with its server and address.
type testNode struct {
	fake   *fake
	server *expertnode.Server
	grpc   *grpc.Server
	node   placement.Node
}

type nodeConfig struct {
	id      string
	epoch   uint64
	address string // "": any
	fake    *fake
	change  func(*expertnode.Options)
	grpc    []grpc.ServerOption
}

// startNode serves a fake on loopback until the test ends.
func startNode(t testing.TB, c nodeConfig) *testNode {
	t.Helper()
	opts := expertnode.Options{Replicas: c.fake, NodeID: c.id, Epoch: max(c.epoch, 1),
		ModelDigest: digest, Mode: c.fake.mode}
	if c.change != nil {
		c.change(&opts)
	}
	server, err := expertnode.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	if c.address == "" {
		c.address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", c.address)
	if err != nil {
		t.Fatal(err)
	}
	n := &testNode{fake: c.fake, server: server, grpc: grpc.NewServer(
		append(expertnode.ServerOptions(), c.grpc...)...)}
	droverv1.RegisterExpertServiceServer(n.grpc, server)
	n.node = placement.Node{ID: c.id, Epoch: opts.Epoch, Address: listener.Addr().String()}
	var serving sync.WaitGroup
	serving.Go(func() { _ = n.grpc.Serve(listener) })
	t.Cleanup(func() {
		n.stop()
		serving.Wait()
	})
	return n
}

// stop ends the node as a kill would: connections break, nothing is said.
func (n *testNode) stop() {
	n.grpc.Stop()
	n.server.Close()
}

// startNodes starts nodes n0, n1, ... that hold everything.
func startNodes(t testing.TB, count int, mode kernel.Mode, change func(*expertnode.Options),
) []*testNode {
	t.Helper()
	var out []*testNode
	for i := range count {
		out = append(out, startNode(t, nodeConfig{id: fmt.Sprintf("n%d", i), change: change,
			fake: &fake{spec: testSpec, mode: mode}}))
	}
	return out
}

// viewOf places each expert on copies of the nodes, in turn.
func viewOf(spec moe.Spec, revision uint64, copies int, nodes ...*testNode) *placement.View {
	plan := &placement.Plan{Revision: revision, Layers: spec.Layers, Experts: spec.Experts}
	v := &placement.View{Plan: plan, Nodes: map[string]placement.Node{}}
	for _, n := range nodes {
		plan.NodeIDs = append(plan.NodeIDs, n.node.ID)
		v.Nodes[n.node.ID] = n.node
	}
	for range spec.Layers {
		var layer [][]uint16
		for expert := range spec.Experts {
			var on []uint16
			for c := range min(copies, len(nodes)) {
				on = append(on, uint16((expert+c)%len(nodes)))
			}
			slices.Sort(on)
			layer = append(layer, on)
		}
		plan.Replicas = append(plan.Replicas, layer)
	}
	return v
}

// startRouter starts a Router that ends with the test.
func startRouter(t testing.TB, mode kernel.Mode, change func(*router.Options)) *router.Router {
	t.Helper()
	opts := router.Options{ModelDigest: digest, Mode: mode, Spec: testSpec, Lanes: 1}
	if change != nil {
		change(&opts)
	}
	r, err := router.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// waitReady waits until every expert has a connected replica.
func waitReady(t testing.TB, r *router.Router) {
	t.Helper()
	waitFor(t, func() error { return r.Ready() })
}

// waitFor waits until something is as it should be.
func waitFor(t testing.TB, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// randomBatch returns a batch for some of the layer's experts.
func randomBatch(rng *rand.Rand, spec moe.Spec, mode kernel.Mode, maxRows int) *moe.Batch {
	b := &moe.Batch{Layer: spec.Layers[rng.IntN(len(spec.Layers))]}
	total := 0
	for expert := range spec.Experts {
		if rng.IntN(3) == 0 {
			continue
		}
		n := 1 + rng.IntN(maxRows)
		b.Experts, b.Counts = append(b.Experts, int32(expert)), append(b.Counts, int32(n))
		total += n
	}
	b.X, b.Y = tensor.MakeRows(total, spec.Hidden), tensor.MakeRows(total, spec.Hidden)
	for i := range b.X.Data {
		b.X.Data[i] = rng.Float32()*4 - 2
	}
	moe.RoundRows(mode, b.X)
	return b
}

// check runs a batch through the Router and compares with the computation in process.
func check(t testing.TB, r *router.Router, f *fake, b *moe.Batch) {
	t.Helper()
	want := *b
	want.Y = tensor.MakeRows(b.Y.N, b.Y.Dim)
	plain := &fake{spec: f.spec, mode: f.mode}
	if err := plain.Forward(context.Background(), &want, nil); err != nil {
		t.Fatal(err)
	}
	clear(b.Y.Data)
	called := 0
	if err := r.Forward(context.Background(), b, func() { called++ }); err != nil {
		t.Fatalf("Forward: %v", err)
	}
	if called != 1 {
		t.Errorf("meanwhile was called %d times, want once", called)
	}
	if !slices.Equal(b.Y.Data, want.Y.Data) {
		t.Fatalf("layer %d: the rows differ from those computed in process", b.Layer)
	}
}

// blackHole forwards connections to a target until it is told to swallow
// everything without closing anything.
type blackHole struct {
	node    placement.Node // as it is reached through the proxy
	swallow atomic.Bool
}

func startBlackHole(t testing.TB, target placement.Node) *blackHole {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &blackHole{node: target}
	h.node.Address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target.Address)
			if err != nil {
				_ = in.Close()
				continue
			}
			running.Go(func() { h.pump(in, out) })
			running.Go(func() { h.pump(out, in) })
			context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		cancel()
		running.Wait()
	})
	return h
}

// pump copies bytes one way; in a black hole it reads on and forgets them.
func (h *blackHole) pump(from, to net.Conn) {
	defer func() { _, _ = from.Close(), to.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !h.swallow.Load() {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
