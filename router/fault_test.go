package router_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"drover/expertnode"
	"drover/kernel"
	"drover/moe"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
	"drover/router"
	"drover/tensor"
	"drover/wire"
)

// oneRow is a batch of one row for one expert.
func oneRow(layer, expert int) *moe.Batch {
	b := &moe.Batch{Layer: layer, Experts: []int32{int32(expert)}, Counts: []int32{1},
		X: tensor.MakeRows(1, testSpec.Hidden), Y: tensor.MakeRows(1, testSpec.Hidden)}
	for i := range b.X.Data {
		b.X.Data[i] = float32(i)
	}
	return b
}

func batchOf(seed uint64) *moe.Batch {
	return randomBatch(rand.New(rand.NewPCG(seed, 3)), testSpec, kernel.BF16, 5)
}

// once returns a function that is true the first time.
func once() func() bool {
	var used atomic.Bool
	return func() bool { return used.CompareAndSwap(false, true) }
}

func TestNotHostedWaitsForTheNextView(t *testing.T) {
	var hosts atomic.Bool
	empty := startNode(t, nodeConfig{id: "n0", fake: &fake{spec: testSpec, mode: kernel.BF16,
		holds: func(int, int) bool { return hosts.Load() }}})
	full := startNodes(t, 2, kernel.BF16, nil)[1]
	refused := make(chan struct{})
	stop := sync.OnceFunc(func() { close(refused) })
	r := startRouter(t, kernel.BF16, func(o *router.Options) {
		o.Events.Retried = func(_ string, _, _ int, reason error) {
			if !strings.Contains(reason.Error(), "not hosted") {
				t.Errorf("retried for %v, want not hosted", reason)
			}
			stop()
		}
	})
	r.Update(viewOf(testSpec, 1, 1, empty))
	waitReady(t, r)
	var updating sync.WaitGroup
	updating.Go(func() {
		<-refused
		r.Update(viewOf(testSpec, 2, 1, full))
	})
	check(t, r, full.fake, batchOf(1))
	updating.Wait()
	if rows := r.RowsByNode(); rows["n0"] != 0 || rows["n1"] == 0 {
		t.Errorf("rows by node = %v, want all from n1", rows)
	}
}

// TestNodeDiesMidFrame kills a node while it computes.
func TestNodeDiesMidFrame(t *testing.T) {
	nodes := startNodes(t, 2, kernel.BF16, nil)
	die := once()
	var dying sync.WaitGroup
	defer dying.Wait()
	nodes[0].fake.setBefore(func(int, int) error {
		if die() {
			dying.Go(nodes[0].stop)
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	})
	r := startRouter(t, kernel.BF16, nil)
	r.Update(viewOf(testSpec, 1, 2, nodes...))
	waitReady(t, r)
	for seed := range uint64(5) {
		check(t, r, nodes[1].fake, batchOf(seed))
	}
}

// TestOnlyReplicaDies kills the only node: the error names layer, expert and node.
func TestOnlyReplicaDies(t *testing.T) {
	node := startNodes(t, 1, kernel.BF16, nil)[0]
	r := startRouter(t, kernel.BF16, func(o *router.Options) {
		o.FailAfter = 300 * time.Millisecond
	})
	r.Update(viewOf(testSpec, 1, 1, node))
	waitReady(t, r)
	node.stop()
	err := r.Forward(context.Background(), oneRow(3, 7), nil)
	wantNoReplica(t, err, "layer 3 expert 7", "node n0: ")
}

// TestNoPlanYet asks before there is a placement: the error says who is missing.
func TestNoPlanYet(t *testing.T) {
	r := startRouter(t, kernel.BF16, func(o *router.Options) { o.FailAfter = 50 * time.Millisecond })
	ask := func(part string) {
		t.Helper()
		wantNoReplica(t, r.Forward(context.Background(), oneRow(3, 7), nil), "no placement yet", part)
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("Ready = %v, want %q in it", err, part)
		}
	}
	ask("no expert node that can be used has joined")
	v := viewOf(testSpec, 1, 1, startNodes(t, 1, kernel.BF16, nil)...)
	v.Plan = &placement.Plan{}
	r.Update(v)
	ask("expert nodes have joined (1)")
}

func wantNoReplica(t *testing.T, err error, parts ...string) {
	t.Helper()
	if !errors.Is(err, router.ErrNoReplica) || !errors.Is(err, moe.ErrUnavailable) {
		t.Fatalf("Forward = %v, want ErrNoReplica", err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("Forward = %v, want %q in it", err, part)
		}
	}
}

// TestOnlyReplicaRestarts lets the node come back at its address within FailAfter.
func TestOnlyReplicaRestarts(t *testing.T) {
	node := startNodes(t, 1, kernel.BF16, nil)[0]
	r := startRouter(t, kernel.BF16, func(o *router.Options) { o.FailAfter = 8 * time.Second })
	r.Update(viewOf(testSpec, 1, 1, node))
	waitReady(t, r)
	node.stop()
	var restarting sync.WaitGroup
	var again *testNode
	restarting.Go(func() {
		time.Sleep(50 * time.Millisecond)
		again = startNode(t, nodeConfig{id: "n0", epoch: 2, address: node.node.Address,
			fake: &fake{spec: testSpec, mode: kernel.BF16}})
	})
	check(t, r, node.fake, batchOf(1))
	restarting.Wait()
	if again.fake.rows.Load() == 0 {
		t.Error("the restarted node computed nothing")
	}
}

func TestBlackHole(t *testing.T) {
	t.Run("another replica answers", func(t *testing.T) {
		nodes := startNodes(t, 2, kernel.BF16, nil)
		hole := startBlackHole(t, nodes[0].node)
		nodes[0].node = hole.node
		r := startRouter(t, kernel.BF16, nil)
		r.Update(viewOf(testSpec, 1, 2, nodes...))
		waitReady(t, r)
		check(t, r, nodes[1].fake, batchOf(1))
		hole.swallow.Store(true)
		began := time.Now()
		for seed := range uint64(10) {
			check(t, r, nodes[1].fake, batchOf(seed))
		}
		if took := time.Since(began); took > 10*time.Second { // a machine's moods, not FailAfter each
			t.Errorf("10 batches beside a black hole took %v, want less than 10 s", took)
		}
	})
	t.Run("no other replica", func(t *testing.T) {
		node := startNodes(t, 1, kernel.BF16, nil)[0]
		hole := startBlackHole(t, node.node)
		node.node = hole.node
		r := startRouter(t, kernel.BF16, func(o *router.Options) { o.FailAfter = time.Second })
		r.Update(viewOf(testSpec, 1, 1, node))
		waitReady(t, r)
		hole.swallow.Store(true)
		began := time.Now()
		err := r.Forward(context.Background(), oneRow(1, 15), nil)
		wantNoReplica(t, err, "layer 1 expert 15", "node n0: ")
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the error came after %v, want within 10 s", took)
		}
	})
}

// mute is an ExpertService that greets and then reads without ever answering.
type mute struct {
	droverv1.UnimplementedExpertServiceServer
	hello wire.Hello
	pongs bool // answers pings all the same
	// frames counts what is never answered.
	frames atomic.Int64
}

func (m *mute) Execute(
	g grpc.BidiStreamingServer[droverv1.ExecuteRequest, droverv1.ExecuteResponse]) error {
	for {
		var r wire.Request
		if err := g.RecvMsg(&r); err != nil {
			return err
		}
		r.Release()
		var err error
		switch {
		case r.Kind == wire.KindDispatch:
			m.frames.Add(1)
		case r.Kind == wire.KindHello:
			err = g.SendMsg(&wire.Response{Kind: wire.KindHello, Hello: m.hello})
		case r.Kind == wire.KindPing && m.pongs:
			err = g.SendMsg(&wire.Response{Kind: wire.KindPong, PongNonce: r.PingNonce})
		}
		if err != nil {
			return err
		}
	}
}

// goodHello is what a node says that fits testSpec in bf16.
func goodHello(id string) wire.Hello {
	return wire.Hello{ProtocolVersion: wire.ProtocolVersion, ModelDigest: digest,
		NumericMode: "bf16", KernelClass: kernel.Class(kernel.BF16), Epoch: 1,
		HiddenSize: uint32(testSpec.Hidden), DTypes: []wire.DType{wire.BF16},
		MaxFrameBytes: 4 << 20, CreditBytes: 16 << 20, NodeID: id}
}

// startMute serves a mute node.
func startMute(t testing.TB, m *mute) *testNode {
	t.Helper()
	n := startNode(t, nodeConfig{id: m.hello.NodeID, fake: &fake{spec: testSpec, mode: kernel.BF16},
		grpc: []grpc.ServerOption{grpc.StreamInterceptor(
			func(_ any, s grpc.ServerStream, _ *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
				return m.Execute(&grpc.GenericServerStream[droverv1.ExecuteRequest,
					droverv1.ExecuteResponse]{ServerStream: s})
			})}})
	return n
}

func TestMuteNode(t *testing.T) {
	for name, tc := range map[string]struct {
		pongs   bool
		replica bool
	}{
		"hung, with a replica":               {false, true},
		"hung, alone":                        {false, false},
		"alive but stuck, with a replica":    {true, true},
		"alive but stuck beyond its timeout": {true, false},
	} {
		t.Run(name, func(t *testing.T) {
			silent := startMute(t, &mute{hello: goodHello("n0"), pongs: tc.pongs})
			nodes := []*testNode{silent}
			if tc.replica {
				nodes = append(nodes, startNodes(t, 2, kernel.BF16, nil)[1])
			}
			r := startRouter(t, kernel.BF16, func(o *router.Options) {
				o.SlowTimeout = 500 * time.Millisecond
				o.FailAfter = time.Second
			})
			r.Update(viewOf(testSpec, 1, 2, nodes...))
			waitReady(t, r)
			began := time.Now()
			if tc.replica {
				check(t, r, nodes[1].fake, batchOf(1))
			} else {
				wantNoReplica(t, r.Forward(context.Background(), oneRow(3, 2), nil),
					"layer 3 expert 2", "node n0: ")
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %v, want at most 10 s", took)
			}
		})
	}
}

// TestBusyNodeIsNotHung lets a computation take far longer than the frame timeout.
func TestBusyNodeIsNotHung(t *testing.T) {
	node := startNodes(t, 1, kernel.BF16, nil)[0]
	r := startRouter(t, kernel.BF16, func(o *router.Options) {
		o.FrameTimeout = 50 * time.Millisecond
		o.Events.LinkDown = func(_ string, _ int, err error) { t.Errorf("link down: %v", err) }
		o.Events.Retried = func(_ string, _, _ int, err error) { t.Errorf("retried: %v", err) }
	})
	r.Update(viewOf(testSpec, 1, 1, node))
	waitReady(t, r)
	node.fake.setBefore(func(int, int) error { time.Sleep(600 * time.Millisecond); return nil })
	check(t, r, node.fake, oneRow(1, 1))
	if rows := node.fake.rows.Load(); rows != 1 {
		t.Errorf("the node computed %d rows, want 1", rows)
	}
}

// corrupter is the wire codec that flips a bit of some frames with rows.
type corrupter struct {
	wire.Codec
	every   int64
	frames  atomic.Int64
	flipped atomic.Int64
}

func (c *corrupter) Marshal(v any) (mem.BufferSlice, error) {
	data, err := c.Codec.Marshal(v)
	if err != nil || len(data) < 2 || c.frames.Add(1)%c.every != 0 {
		return data, err
	}
	defer data.Free()
	b := bytes.Clone(data.Materialize())
	b[len(b)-1] ^= 0x10
	c.flipped.Add(1)
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// TestCorruptFrames flips a bit in every third frame, on the way out and on the way back.
func TestCorruptFrames(t *testing.T) {
	out := &corrupter{Codec: wire.Codec{Pool: new(wire.Pool)}, every: 3}
	back := &corrupter{Codec: wire.Codec{Pool: new(wire.Pool)}, every: 3}
	node := startNode(t, nodeConfig{id: "n0", fake: &fake{spec: testSpec, mode: kernel.BF16},
		grpc: []grpc.ServerOption{grpc.ForceServerCodecV2(back)}})
	var reasons atomic.Int64
	r := startRouter(t, kernel.BF16, func(o *router.Options) {
		o.MaxFrameBytes = 4 * testSpec.Hidden * 2
		o.FrameTimeout = 30 * time.Second // ids are whole here: every answer comes, late as it may be
		o.DialOptions = []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.ForceCodecV2(out))}
		o.Events.Retried = func(_ string, _, _ int, reason error) {
			if errors.Is(reason, wire.ErrCorrupt) || strings.Contains(reason.Error(), "corrupt") {
				reasons.Add(1)
			}
		}
		o.Events.LinkDown = func(_ string, _ int, err error) { t.Errorf("link down: %v", err) }
	})
	r.Update(viewOf(testSpec, 1, 1, node))
	waitReady(t, r)
	for seed := range uint64(4) {
		check(t, r, node.fake, batchOf(seed))
	}
	if out.flipped.Load() == 0 || back.flipped.Load() == 0 {
		t.Error("nothing was corrupted")
	}
	if got, want := reasons.Load(), out.flipped.Load()+back.flipped.Load(); got != want {
		t.Errorf("%d frames were found corrupt, want %d", got, want)
	}
}

// TestCreditBlocksAndResumes gives a link credit for two frames of a larger batch.
func TestCreditBlocksAndResumes(t *testing.T) {
	const rows = 4
	frameBytes := rows * testSpec.Hidden * 2
	node := startNodes(t, 1, kernel.BF16, func(o *expertnode.Options) {
		o.CreditBytes, o.MaxFrameBytes = int64(2*frameBytes), frameBytes
	})[0]
	r := startRouter(t, kernel.BF16, func(o *router.Options) {
		o.MaxFrameBytes = frameBytes
		o.Events.LinkDown = func(_ string, _ int, err error) { t.Errorf("link down: %v", err) }
	})
	r.Update(viewOf(testSpec, 1, 1, node))
	waitReady(t, r)
	rng := rand.New(rand.NewPCG(1, 1))
	for range 5 {
		check(t, r, node.fake, randomBatch(rng, testSpec, kernel.BF16, 20))
	}
}

// TestNewEpochClosesTheOldStream restarts a node elsewhere while the old life hangs.
func TestNewEpochClosesTheOldStream(t *testing.T) {
	old := startMute(t, &mute{hello: goodHello("n0"), pongs: true})
	young := startNode(t, nodeConfig{id: "n0", epoch: 2,
		fake: &fake{spec: testSpec, mode: kernel.BF16}})
	r := startRouter(t, kernel.BF16, nil)
	r.Update(viewOf(testSpec, 1, 1, old))
	waitReady(t, r)
	var updating sync.WaitGroup
	updating.Go(func() { r.Update(viewOf(testSpec, 1, 1, young)) })
	check(t, r, young.fake, batchOf(1))
	updating.Wait()
}

// TestNodeLeaves removes a node from the View while it computes: its answer still counts.
func TestNodeLeaves(t *testing.T) {
	nodes := startNodes(t, 2, kernel.BF16, nil)
	computing, leave := make(chan struct{}), once()
	left := make(chan struct{})
	nodes[0].fake.setBefore(func(int, int) error {
		if leave() {
			close(computing)
			<-left
		}
		return nil
	})
	r := startRouter(t, kernel.BF16, func(o *router.Options) {
		o.Events.Retried = func(_ string, _, _ int, err error) { t.Errorf("retried: %v", err) }
		o.FrameTimeout = 5 * time.Second
	})
	r.Update(viewOf(testSpec, 1, 1, nodes[0]))
	waitReady(t, r)
	var updating sync.WaitGroup
	updating.Go(func() {
		<-computing
		r.Update(viewOf(testSpec, 2, 1, nodes[1]))
		close(left)
	})
	check(t, r, nodes[0].fake, oneRow(1, 1))
	updating.Wait()
	waitReady(t, r)
	check(t, r, nodes[1].fake, oneRow(1, 1))
	if rows := r.RowsByNode(); rows["n0"] != 1 || rows["n1"] != 1 {
		t.Errorf("rows by node = %v, want one of each", rows)
	}
}

// TestCancelReturnsPromptly cancels a Forward whose node is busy for long.
func TestCancelReturnsPromptly(t *testing.T) {
	node := startNodes(t, 1, kernel.BF16, nil)[0]
	computing, release := make(chan struct{}), make(chan struct{})
	stall := once()
	node.fake.setBefore(func(int, int) error {
		if stall() {
			close(computing)
			<-release
		}
		return nil
	})
	r := startRouter(t, kernel.BF16, nil)
	r.Update(viewOf(testSpec, 1, 1, node))
	waitReady(t, r)
	ctx, cancel := context.WithCancelCause(context.Background())
	reason := errors.New("the client left")
	var cancelling sync.WaitGroup
	cancelling.Go(func() { <-computing; cancel(reason) })
	if err := r.Forward(ctx, oneRow(1, 3), nil); !errors.Is(err, reason) {
		t.Errorf("Forward = %v, want %v", err, reason)
	}
	cancelling.Wait()
	close(release)
	check(t, r, node.fake, batchOf(2)) // the late answer is dropped
}

func TestCloseEndsForward(t *testing.T) {
	r := startRouter(t, kernel.BF16, nil)
	var closing sync.WaitGroup
	err := r.Forward(context.Background(), oneRow(1, 3), func() { closing.Go(r.Close) })
	closing.Wait()
	if !errors.Is(err, router.ErrClosed) {
		t.Errorf("Forward = %v, want ErrClosed", err)
	}
	err = r.Forward(context.Background(), oneRow(1, 3), nil)
	if !errors.Is(err, router.ErrClosed) {
		t.Errorf("Forward after Close = %v, want ErrClosed", err)
	}
	r.Update(&placement.View{})
}

// TestAnyReplicaAnyOrder draws replicas at random and lets nodes stall at random, so
// that frames are hedged and answered twice and late: the bytes never change.
func TestAnyReplicaAnyOrder(t *testing.T) {
	nodes := startNodes(t, 3, kernel.BF16, nil)
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(5, 5))
	draw := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rng.IntN(n)
	}
	for _, n := range nodes {
		n.fake.setBefore(func(int, int) error {
			switch draw(60) {
			case 0:
				time.Sleep(30 * time.Millisecond)
			case 1:
				return errors.New("a passing fault")
			}
			return nil
		})
	}
	var hedged atomic.Int64
	r := startRouter(t, kernel.BF16, func(o *router.Options) {
		o.Lanes = 2
		o.FrameTimeout = 20 * time.Millisecond
		o.Events.Hedged = func(string, int) { hedged.Add(1) }
		o.SetPick(draw)
	})
	r.Update(viewOf(testSpec, 1, 3, nodes...))
	waitReady(t, r)
	var running sync.WaitGroup
	for lane := range uint64(3) {
		running.Go(func() {
			rng := rand.New(rand.NewPCG(lane, 9))
			for range 40 {
				check(t, r, nodes[0].fake, randomBatch(rng, testSpec, kernel.BF16, 6))
			}
		})
	}
	running.Wait()
	if hedged.Load() == 0 {
		t.Error("no frame was hedged")
	}
}

// TestDrainingNodeIsLeft routes around a node that drains.
func TestDrainingNodeIsLeft(t *testing.T) {
	nodes := startNodes(t, 2, kernel.BF16, nil)
	r := startRouter(t, kernel.BF16, nil)
	r.Update(viewOf(testSpec, 1, 2, nodes...))
	waitReady(t, r)
	nodes[0].server.Drain()
	check(t, r, nodes[1].fake, batchOf(1))
	if rows := r.RowsByNode(); rows["n0"] != 0 {
		t.Errorf("rows by node = %v, want none of n0", rows)
	}
}

func TestBadBatches(t *testing.T) {
	r := startRouter(t, kernel.BF16, nil)
	for name, change := range map[string]func(*moe.Batch){
		"count missing":  func(b *moe.Batch) { b.Counts = nil },
		"count zero":     func(b *moe.Batch) { b.Counts[0] = 0 },
		"too few rows":   func(b *moe.Batch) { b.Counts[0] = 2 },
		"wrong width":    func(b *moe.Batch) { b.X.Dim = 5 },
		"expert negativ": func(b *moe.Batch) { b.Experts[0] = -1 },
	} {
		b := oneRow(1, 1)
		change(b)
		if err := r.Forward(context.Background(), b, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
