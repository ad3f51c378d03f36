package expertnode_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"drover/expertnode"
	"drover/kernel"
	"drover/moe"
	droverv1 "drover/proto/drover/v1"
	"drover/tensor"
	"drover/wire"
)

var digest = []byte("sha-256 of a small checkpoint...")

// rowBytes is the size of one row of testSpec in bf16.
const rowBytes = 64

// stub is Replicas that double each row, after whatever the test puts before.
type stub struct {
	before atomic.Pointer[func(layer, expert int) error]
	holds  atomic.Bool // experts from 4 on; those below are always held
	rows   atomic.Int64
}

func (s *stub) Spec() moe.Spec { return testSpec }
func (s *stub) Count() int     { return 16 }
func (s *stub) Bytes() int64   { return 4096 }

func (s *stub) Holds(_, expert int) bool { return expert < 4 || s.holds.Load() }

func (s *stub) ComputeBatch(b *moe.Batch, errs []error) {
	at := 0
	for i, expert := range b.Experts {
		n := int(b.Counts[i])
		errs[i] = s.Compute(b.Layer, int(expert), b.Y.Slice(at, at+n), b.X.Slice(at, at+n))
		at += n
	}
}

func (s *stub) Compute(layer, expert int, y, x tensor.Rows) error {
	if before := s.before.Load(); before != nil {
		if err := (*before)(layer, expert); err != nil {
			return err
		}
	}
	if !s.Holds(layer, expert) {
		return fmt.Errorf("layer %d expert %d: %w", layer, expert, expertnode.ErrNotHeld)
	}
	s.rows.Add(int64(x.N))
	for i, v := range x.Data {
		y.Data[i] = 2 * v
	}
	return nil
}

// serving is a served stub with a connection to it.
type serving struct {
	stub   *stub
	server *expertnode.Server
	conn   *grpc.ClientConn
}

func serve(t *testing.T, change func(*expertnode.Options)) *serving {
	t.Helper()
	s := &serving{stub: new(stub)}
	opts := expertnode.Options{Replicas: s.stub, NodeID: "n1", Epoch: 3, ModelDigest: digest,
		Mode: kernel.BF16}
	if change != nil {
		change(&opts)
	}
	var err error
	if s.server, err = expertnode.NewServer(opts); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(expertnode.ServerOptions()...)
	droverv1.RegisterExpertServiceServer(g, s.server)
	var running sync.WaitGroup
	running.Go(func() { _ = g.Serve(listener) })
	s.conn, err = grpc.NewClient(listener.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(&wire.Codec{Pool: new(wire.Pool)})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.conn.Close()
		s.server.Close()
		g.Stop()
		running.Wait()
	})
	return s
}

func goodHello() wire.Hello {
	return wire.Hello{ProtocolVersion: wire.ProtocolVersion, ModelDigest: digest,
		NumericMode: "bf16", HiddenSize: uint32(testSpec.Hidden), DTypes: []wire.DType{wire.BF16},
		MaxFrameBytes: 64 * rowBytes, CreditBytes: 1 << 20}
}

// lane is one stream from the outside.
type lane struct {
	t      *testing.T
	stream grpc.ClientStream
}

// open opens a stream and says hello; the answer is the test's.
func (s *serving) open(t *testing.T, hello wire.Hello) *lane {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	stream, err := s.conn.NewStream(ctx, &droverv1.ExpertService_ServiceDesc.Streams[0],
		droverv1.ExpertService_Execute_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	l := &lane{t, stream}
	l.send(&wire.Request{Kind: wire.KindHello, Hello: hello})
	return l
}

// greeted opens a stream and takes the node's hello.
func (s *serving) greeted(t *testing.T) *lane {
	t.Helper()
	l := s.open(t, goodHello())
	if r := l.receive(); r.Kind != wire.KindHello || r.Hello.NodeID != "n1" || r.Hello.Epoch != 3 {
		t.Fatalf("first answer = %+v, want the hello of n1", r)
	}
	return l
}

func (l *lane) send(r *wire.Request) {
	l.t.Helper()
	if err := l.stream.SendMsg(r); err != nil && !errors.Is(err, io.EOF) {
		l.t.Fatal(err)
	}
}

func (l *lane) receive() *wire.Response {
	l.t.Helper()
	r := new(wire.Response)
	if err := l.stream.RecvMsg(r); err != nil {
		l.t.Fatalf("receive: %v", err)
	}
	if err := r.Verify(); err != nil {
		l.t.Fatalf("receive: %v", err)
	}
	return r
}

// wantEnd receives until the stream ends and checks how.
func (l *lane) wantEnd(code codes.Code, parts ...string) {
	l.t.Helper()
	for {
		err := l.stream.RecvMsg(new(wire.Response))
		if err == nil {
			continue
		}
		if status.Code(err) != code {
			l.t.Errorf("the stream ended with %v, want %v", err, code)
		}
		for _, part := range parts {
			if !strings.Contains(err.Error(), part) {
				l.t.Errorf("the stream ended with %v, want %q in it", err, part)
			}
		}
		return
	}
}

// frame makes a Dispatch of rows of ones, one row for each expert.
func frame(id uint64, experts ...uint32) *wire.Request {
	r := &wire.Request{Kind: wire.KindDispatch}
	r.Dispatch = wire.Dispatch{FrameID: id, Layer: 1, DType: wire.BF16,
		RowCount: uint32(len(experts)), ExpertIDs: experts}
	for range experts {
		r.Dispatch.ExpertRowCounts = append(r.Dispatch.ExpertRowCounts, 1)
	}
	r.Rows = ones(len(experts))
	return r
}

func ones(rows int) mem.Buffer {
	b := make([]byte, rows*rowBytes)
	row := make([]float32, rows*rowBytes/2)
	for i := range row {
		row[i] = 1
	}
	wire.PutRows(b, row, wire.BF16)
	return mem.SliceBuffer(b)
}

// wantCombine receives the Combine of a frame and checks its statuses; none means all OK.
func (l *lane) wantCombine(id uint64, rows int, statuses ...wire.Status) *wire.Combine {
	l.t.Helper()
	r := l.receive()
	c := &r.Combine
	if r.Kind != wire.KindCombine || c.FrameID != id || int(c.RowCount) != rows ||
		len(r.RowBytes()) != rows*rowBytes || fmt.Sprint(c.Statuses) != fmt.Sprint(statuses) {
		l.t.Fatalf("got %+v with %d bytes of rows, want frame %d with %d rows and statuses %v",
			*c, len(r.RowBytes()), id, rows, statuses)
	}
	values := make([]float32, len(r.RowBytes())/2)
	wire.TakeRows(values, r.RowBytes(), wire.BF16)
	for _, v := range values {
		if v != 2 {
			l.t.Fatalf("rows hold %v, want 2", v)
		}
	}
	return c
}

func TestComputes(t *testing.T) {
	s := serve(t, nil)
	l := s.greeted(t)
	for id := range uint64(20) {
		l.send(frame(id, 0, 2, 3))
	}
	for id := range uint64(20) {
		if c := l.wantCombine(id, 3); c.CreditBytes != 3*rowBytes {
			t.Errorf("credit given back = %d, want %d", c.CreditBytes, 3*rowBytes)
		}
	}
	l.send(&wire.Request{Kind: wire.KindPing, PingNonce: 77})
	if r := l.receive(); r.Kind != wire.KindPong || r.PongNonce != 77 {
		t.Errorf("answer to a ping = %+v, want a pong of 77", r)
	}
}

func TestHelloMismatch(t *testing.T) {
	s := serve(t, func(o *expertnode.Options) { o.MaxFrameBytes = 1 << 20 })
	for name, tc := range map[string]struct {
		change func(*wire.Hello)
		want   []string
	}{
		"protocol": {func(h *wire.Hello) { h.ProtocolVersion = 8 }, []string{"8", "3"}},
		"digest": {func(h *wire.Hello) { h.ModelDigest = []byte{0xab} },
			[]string{"ab", fmt.Sprintf("%x", digest)}},
		"mode":   {func(h *wire.Hello) { h.NumericMode = "exact" }, []string{"exact", "bf16"}},
		"class":  {func(h *wire.Hello) { h.KernelClass = "odd" }, []string{"odd", kernel.Class(kernel.BF16)}},
		"hidden": {func(h *wire.Hello) { h.HiddenSize = 31 }, []string{"31", "32"}},
		"dtype":  {func(h *wire.Hello) { h.DTypes = []wire.DType{2} }, []string{"float32", "bf16"}},
		"frame": {func(h *wire.Hello) { h.MaxFrameBytes = 2 << 20 },
			[]string{"2097152", "1048576"}},
	} {
		t.Run(name, func(t *testing.T) {
			hello := goodHello()
			tc.change(&hello)
			s.open(t, hello).wantEnd(codes.FailedPrecondition, tc.want...)
		})
	}
	t.Run("no hello", func(t *testing.T) {
		l := s.greeted(t)
		l.send(&wire.Request{Kind: wire.KindHello, Hello: goodHello()})
		l.wantEnd(codes.FailedPrecondition)
	})
}

func TestBadShapes(t *testing.T) {
	s := serve(t, func(o *expertnode.Options) { o.MaxFrameBytes = 64 * rowBytes })
	l := s.greeted(t)
	id := uint64(0)
	for name, change := range map[string]func(*wire.Request){
		"layer without experts": func(r *wire.Request) { r.Dispatch.Layer = 2 },
		"type of rows":          func(r *wire.Request) { r.Dispatch.DType = wire.Float32 },
		"rows missing":          func(r *wire.Request) { r.Rows = nil },
		"rows too many":         func(r *wire.Request) { r.Rows = ones(3) },
		"row count":             func(r *wire.Request) { r.Dispatch.RowCount = 1 << 31 },
		"descending experts":    func(r *wire.Request) { r.Dispatch.ExpertIDs = []uint32{3, 1} },
		"expert twice":          func(r *wire.Request) { r.Dispatch.ExpertIDs = []uint32{3, 3} },
		"expert out of range":   func(r *wire.Request) { r.Dispatch.ExpertIDs = []uint32{3, 8} },
		"count of zero": func(r *wire.Request) {
			r.Dispatch.ExpertRowCounts = []uint32{2, 0}
		},
		"counts overflow": func(r *wire.Request) {
			r.Dispatch.ExpertRowCounts = []uint32{1<<32 - 1, 3}
		},
		"frame too large": func(r *wire.Request) {
			r.Rows, r.Dispatch.RowCount = ones(65), 65
			r.Dispatch.ExpertRowCounts = []uint32{1, 64}
		},
	} {
		t.Run(name, func(t *testing.T) {
			id++
			r := frame(id, 1, 3)
			change(r)
			l.send(r)
			c := l.wantCombine(id, 0, wire.StatusBadShape, wire.StatusBadShape)
			if c.Detail == "" {
				t.Error("no detail says what is wrong")
			}
		})
	}
	r := frame(99)
	l.send(r)
	l.wantCombine(99, 0, wire.StatusBadShape)
	l.send(frame(100, 1))
	l.wantCombine(100, 1)
}

func TestNotHosted(t *testing.T) {
	s := serve(t, nil)
	s.server.SetRevision(7)
	s.server.SetRevision(6) // never back
	l := s.greeted(t)
	l.send(frame(1, 1, 5))
	if c := l.wantCombine(1, 1, wire.StatusOK, wire.StatusNotHosted); c.NodeRevision != 7 {
		t.Errorf("node revision = %d, want 7", c.NodeRevision)
	}
	// A placement is in force when its nodes have loaded it: there is nothing to wait for.
	newer := frame(2, 1, 5)
	newer.Dispatch.PlacementRevision = 9
	l.send(newer)
	l.wantCombine(2, 1, wire.StatusOK, wire.StatusNotHosted)
	s.stub.holds.Store(true)
	again := frame(3, 1, 5)
	again.Dispatch.PlacementRevision = 9
	l.send(again)
	l.wantCombine(3, 2)
}

// block makes the first computation wait until release is called.
func (s *serving) block() (computing chan struct{}, release func()) {
	computing = make(chan struct{})
	released := make(chan struct{})
	var used atomic.Bool
	before := func(int, int) error {
		if used.CompareAndSwap(false, true) {
			close(computing)
			<-released
		}
		return nil
	}
	s.stub.before.Store(&before)
	return computing, sync.OnceFunc(func() { close(released) })
}

func TestQueuedFrames(t *testing.T) {
	s := serve(t, func(o *expertnode.Options) { o.QueueFrames = 3 })
	computing, release := s.block()
	defer release()
	l := s.greeted(t)
	l.send(frame(1, 1))
	<-computing
	late := frame(2, 1)
	late.Dispatch.BudgetMicros = 1
	l.send(late)
	l.send(frame(3, 1))
	l.send(&wire.Request{Kind: wire.KindCancel, CancelID: 3})
	l.send(&wire.Request{Kind: wire.KindCancel, CancelID: 1000})
	l.send(frame(4, 1))
	l.send(frame(5, 1)) // the queue holds three
	l.wantCombine(5, 0, wire.StatusOverloaded)
	s.server.Drain()
	l.send(frame(6, 1))
	l.wantCombine(6, 0, wire.StatusDraining)
	release()
	if c := l.wantCombine(1, 1); c.ComputeMicros == 0 {
		t.Error("no compute time reported")
	}
	l.wantCombine(2, 0, wire.StatusDeadline)
	l.wantCombine(3, 0, wire.StatusCancelled)
	if c := l.wantCombine(4, 1); c.QueueMicros == 0 {
		t.Error("no queue time reported")
	}
}

func TestFaultsStayInTheirFrame(t *testing.T) {
	var panics atomic.Int64
	s := serve(t, func(o *expertnode.Options) {
		o.Events.ComputePanicked = func(layer int, experts []int32, value any, stack []byte) {
			if layer != 1 || !slices.Equal(experts, []int32{1, 2, 3}) || value != "a bug" || len(stack) == 0 {
				t.Errorf("panic reported as %d, %d, %v", layer, experts, value)
			}
			panics.Add(1)
		}
	})
	before := func(_, expert int) error {
		switch expert {
		case 2:
			panic("a bug")
		case 3:
			return errors.New("a fault")
		}
		return nil
	}
	s.stub.before.Store(&before)
	l := s.greeted(t)
	l.send(frame(1, 1, 2, 3))
	l.wantCombine(1, 0, wire.StatusInternal, wire.StatusInternal, wire.StatusInternal)
	s.stub.holds.Store(true)
	l.send(frame(2, 1, 3, 4))
	l.wantCombine(2, 2, wire.StatusOK, wire.StatusInternal, wire.StatusOK)
	l.send(frame(3, 1))
	l.wantCombine(3, 1)
	if panics.Load() != 1 {
		t.Errorf("%d panics reported, want 1", panics.Load())
	}
}

// flipper flips a bit of each frame's rows.
type flipper struct{ wire.Codec }

func (c *flipper) Marshal(v any) (mem.BufferSlice, error) {
	data, err := c.Codec.Marshal(v)
	if err != nil || len(data) < 2 {
		return data, err
	}
	b := data.Materialize()
	b[len(b)-1] ^= 1
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func TestCorruptFrame(t *testing.T) {
	s := serve(t, nil)
	stream, err := s.conn.NewStream(t.Context(), &droverv1.ExpertService_ServiceDesc.Streams[0],
		droverv1.ExpertService_Execute_FullMethodName,
		grpc.ForceCodecV2(&flipper{wire.Codec{Pool: new(wire.Pool)}}))
	if err != nil {
		t.Fatal(err)
	}
	l := &lane{t, stream}
	l.send(&wire.Request{Kind: wire.KindHello, Hello: goodHello()})
	l.receive()
	l.send(frame(4, 1, 2))
	l.wantCombine(4, 0, wire.StatusCorrupt, wire.StatusCorrupt)
	if n := s.stub.rows.Load(); n != 0 {
		t.Errorf("%d corrupt rows were computed", n)
	}
}

func TestBreachesEndTheStream(t *testing.T) {
	s := serve(t, func(o *expertnode.Options) {
		o.MaxFrameBytes, o.CreditBytes = 64*rowBytes, 300*rowBytes
	})
	computing, release := s.block()
	defer release()
	over := s.greeted(t)
	over.send(frame(1, 0))
	<-computing
	for id := range uint64(5) {
		r := frame(id+2, 0)
		r.Rows, r.Dispatch.RowCount, r.Dispatch.ExpertRowCounts[0] = ones(64), 64, 64
		over.send(r)
	}
	over.wantEnd(codes.ResourceExhausted, "credit is 19200")

	many := s.greeted(t)
	for id := range uint64(wire.MaxStreamFrames + 1) {
		many.send(frame(id, 0))
	}
	many.wantEnd(codes.ResourceExhausted, "limit is 256")

	orderly := s.greeted(t)
	if err := orderly.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := orderly.stream.RecvMsg(new(wire.Response)); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v, want EOF", err)
	}
}

// TestManyStreams opens 64 streams beside a blocked computation: all of their
// frames are answered, the bounded queue's worth by computing.
func TestManyStreams(t *testing.T) {
	const streams, frames = 64, 16
	s := serve(t, func(o *expertnode.Options) { o.QueueFrames, o.MaxStreams = 100, streams })
	computing, release := s.block()
	defer release()
	var lanes []*lane
	for range streams {
		lanes = append(lanes, s.greeted(t))
	}
	s.open(t, goodHello()).wantEnd(codes.ResourceExhausted, "64 streams")
	lanes[0].send(frame(0, 1))
	<-computing
	for _, l := range lanes {
		for id := range uint64(frames) {
			l.send(frame(id+1, 1))
		}
	}
	var ok, overloaded atomic.Int64
	var receiving sync.WaitGroup
	for _, l := range lanes {
		receiving.Go(func() {
			for range frames {
				r := new(wire.Response)
				if err := l.stream.RecvMsg(r); err != nil {
					t.Error(err)
					return
				}
				if r.Combine.FrameID == 0 {
					if err := l.stream.RecvMsg(r); err != nil {
						t.Error(err)
						return
					}
				}
				if len(r.Combine.Statuses) == 0 {
					ok.Add(1)
				} else if r.Combine.Statuses[0] == wire.StatusOverloaded {
					if overloaded.Add(1) == streams*frames-100 {
						release()
					}
				}
			}
		})
	}
	receiving.Wait()
	if ok.Load() != 100 || overloaded.Load() != streams*frames-100 {
		t.Errorf("%d computed, %d overloaded, want 100 and %d", ok.Load(), overloaded.Load(),
			streams*frames-100)
	}
}

func TestCloseEndsStreams(t *testing.T) {
	s := serve(t, nil)
	l := s.greeted(t)
	s.server.Close()
	l.wantEnd(codes.Unavailable)
	s.open(t, goodHello()).wantEnd(codes.Unavailable)
}

func TestStatus(t *testing.T) {
	s := serve(t, func(o *expertnode.Options) {
		o.CheckpointBytes = func() uint64 { return 123 }
	})
	s.server.SetRevision(5)
	l := s.greeted(t)
	l.send(frame(1, 1, 2))
	l.wantCombine(1, 2)
	client := droverv1.NewExpertServiceClient(s.conn)
	got, err := client.Status(t.Context(), &droverv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got.NodeId != "n1" || got.Epoch != 3 || got.NumericMode != "bf16" || got.Rows != 2 ||
		got.Frames != 1 || got.ReplicaCount != 16 || got.WeightBytes != 4096 ||
		got.CheckpointBytesRead != 123 || got.PlacementRevision != 5 || got.Pid == 0 {
		t.Errorf("status = %v", got)
	}
	if got.ResidentBytes < 1<<20 {
		t.Errorf("resident bytes = %d, want more than 1 MiB", got.ResidentBytes)
	}
}

func TestOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*expertnode.Options)
		ok     bool
	}{
		"defaults":        {func(*expertnode.Options) {}, true},
		"no replicas":     {func(o *expertnode.Options) { o.Replicas = nil }, false},
		"no node":         {func(o *expertnode.Options) { o.NodeID = "" }, false},
		"no digest":       {func(o *expertnode.Options) { o.ModelDigest = nil }, false},
		"frame below row": {func(o *expertnode.Options) { o.MaxFrameBytes = rowBytes - 1 }, false},
		"frame too large": {func(o *expertnode.Options) { o.MaxFrameBytes = 9 << 20 }, false},
		"credit":          {func(o *expertnode.Options) { o.CreditBytes = 100 }, false},
		"negative queue":  {func(o *expertnode.Options) { o.QueueFrames = -1 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			opts := expertnode.Options{Replicas: new(stub), NodeID: "n", ModelDigest: digest,
				Mode: kernel.BF16}
			tc.change(&opts)
			s, err := expertnode.NewServer(opts)
			if (err == nil) != tc.ok {
				t.Errorf("NewServer: %v, want ok %v", err, tc.ok)
			}
			if err == nil {
				s.Close()
			}
		})
	}
}
