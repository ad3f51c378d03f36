package expertnode_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"drover/expertnode"
	"drover/kernel"
	droverv1 "drover/proto/drover/v1"
	"drover/wire"
)

// pipeListener accepts the ends of pipes: connections in a bubble of virtual time.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipeListener) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipeListener) Addr() net.Addr  { return p }
func (p *pipeListener) Network() string { return "pipe" }
func (p *pipeListener) String() string  { return "node" }

func (p *pipeListener) dial(ctx context.Context, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// virtually runs f in virtual time with a served stub, whose client's stream holds at most
// 64 KiB that it has not read.
func virtually(t *testing.T, change func(*expertnode.Options),
	f func(t *testing.T, s *serving)) {
	synctest.Test(t, func(t *testing.T) {
		s := &serving{stub: new(stub)}
		opts := expertnode.Options{Replicas: s.stub, NodeID: "n1", Epoch: 3,
			ModelDigest: digest, Mode: kernel.BF16}
		change(&opts)
		var err error
		if s.server, err = expertnode.NewServer(opts); err != nil {
			t.Fatal(err)
		}
		p := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		g := grpc.NewServer(expertnode.ServerOptions()...)
		droverv1.RegisterExpertServiceServer(g, s.server)
		var running sync.WaitGroup
		running.Go(func() { _ = g.Serve(p) })
		s.conn, err = grpc.NewClient("passthrough:///node",
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(p.dial),
			grpc.WithInitialWindowSize(clientWindow), grpc.WithInitialConnWindowSize(clientWindow),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(&wire.Codec{Pool: new(wire.Pool)})))
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = s.conn.Close()
			s.server.Close()
			g.Stop()
			running.Wait()
		}()
		f(t, s)
	})
}

const clientWindow = 64 << 10

// stream opens one without a word; it ends with the test only.
func (s *serving) stream(t *testing.T) *lane {
	t.Helper()
	stream, err := s.conn.NewStream(t.Context(), &droverv1.ExpertService_ServiceDesc.Streams[0],
		droverv1.ExpertService_Execute_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	return &lane{t, stream}
}

// TestStreamsWithoutHello opens streams that say nothing: they count, and end after 5 s, so
// that they keep routers out no longer.
func TestStreamsWithoutHello(t *testing.T) {
	few := func(o *expertnode.Options) { o.MaxStreams = 3 }
	virtually(t, few, func(t *testing.T, s *serving) {
		began := time.Now()
		var silent []*lane
		for range 3 {
			silent = append(silent, s.stream(t))
		}
		synctest.Wait()
		s.stream(t).wantEnd(codes.ResourceExhausted, "3 streams open")
		for _, l := range silent {
			l.wantEnd(codes.DeadlineExceeded, "no hello arrived")
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("streams without a hello ended after %v, want 5 s", took)
		}
		l := s.stream(t)
		l.send(&wire.Request{Kind: wire.KindHello, Hello: goodHello()})
		if r := l.receive(); r.Kind != wire.KindHello {
			t.Errorf("a router was answered %+v after the others ended", r)
		}
	})
}

// TestQuietStreamEnds ends a stream on which nothing comes, not one on which a ping comes
// every second, and says so.
func TestQuietStreamEnds(t *testing.T) {
	closed := make(chan error, 1)
	listen := func(o *expertnode.Options) {
		o.Events.StreamClosed = func(_ string, err error) { closed <- err }
	}
	virtually(t, listen, func(t *testing.T, s *serving) {
		l := s.stream(t)
		l.send(&wire.Request{Kind: wire.KindHello, Hello: goodHello()})
		l.receive()
		for nonce := range uint64(120) {
			time.Sleep(time.Second)
			l.send(&wire.Request{Kind: wire.KindPing, PingNonce: nonce})
			if r := l.receive(); r.Kind != wire.KindPong || r.PongNonce != nonce {
				t.Fatalf("ping %d was answered %+v", nonce, r)
			}
		}
		last := time.Now()
		l.wantEnd(codes.DeadlineExceeded, "nothing came for 10s")
		if took := time.Since(last); took < 7500*time.Millisecond || took > 12500*time.Millisecond {
			t.Errorf("a silent stream ended after %v, want about 10 s", took)
		}
		synctest.Wait()
		if len(closed) != 1 {
			t.Error("the end of the stream was not told")
		}
	})
}

// TestPingsUnread sends as many pings as a router may without reading the answers: the node
// keeps one of them for a stream that takes no more, and a frame behind them is computed all
// the same.
func TestPingsUnread(t *testing.T) {
	const seconds, leastPong = 8, 5 // bytes: gRPC's prefix alone
	virtually(t, func(*expertnode.Options) {}, func(t *testing.T, s *serving) {
		l := s.stream(t)
		l.send(&wire.Request{Kind: wire.KindHello, Hello: goodHello()})
		l.receive()
		for nonce := range uint64(seconds * mostPings) {
			if nonce%mostPings == 0 {
				time.Sleep(time.Second)
			}
			l.send(&wire.Request{Kind: wire.KindPing, PingNonce: nonce + 1})
		}
		l.send(frame(1, 1))
		synctest.Wait()
		if n := s.stub.rows.Load(); n != 1 {
			t.Errorf("%d rows computed behind many pings, want 1", n)
		}
		pongs := 0
		for {
			r := l.receive()
			if r.Kind == wire.KindCombine {
				break
			}
			pongs++
		}
		if most := clientWindow/leastPong + 16; pongs > most {
			t.Errorf("%d pongs waited, want at most %d, what the client had room for", pongs, most)
		}
		if pongs == 0 {
			t.Error("none of the pings was answered")
		}
		if n := s.server.Metrics().PingFloods; n != 0 {
			t.Errorf("%d floods of pings counted, want none", n)
		}
	})
}

// mostPings is how many a router sends in a second that has as many frames under way as a
// stream may have: each is asked for twice in the usual 100 ms.
const mostPings = 2 * 10 * wire.MaxStreamFrames

// TestPingFlood sends pings without end: the stream is ended, which is told once, and others
// go on.
func TestPingFlood(t *testing.T) {
	for name, reads := range map[string]bool{"read": true, "not read": false} {
		t.Run(name, func(t *testing.T) { pingFlood(t, reads) })
	}
}

func pingFlood(t *testing.T, reads bool) {
	floods := make(chan string, 8)
	listen := func(o *expertnode.Options) {
		o.Events.PingFlood = func(address string) { floods <- address }
	}
	virtually(t, listen, func(t *testing.T, s *serving) {
		hello := func() *lane {
			l := s.stream(t)
			l.send(&wire.Request{Kind: wire.KindHello, Hello: goodHello()})
			l.receive()
			return l
		}
		l, honest := hello(), hello()
		ended := make(chan error, 1)
		read := func() {
			for {
				var r wire.Response
				if err := l.stream.RecvMsg(&r); err != nil {
					ended <- err
					return
				}
				r.Release()
			}
		}
		if reads {
			go read()
		}
		sent := 0
		for ; sent < 4*mostPings && len(floods) == 0; sent++ {
			ping := &wire.Request{Kind: wire.KindPing, PingNonce: uint64(sent + 1)}
			if l.stream.SendMsg(ping) != nil {
				break
			}
			synctest.Wait()
		}
		if sent < mostPings || sent > mostPings+2 {
			t.Errorf("the flood was told after %d pings at once, want %d", sent, mostPings+1)
		}
		if !reads {
			go read()
		}
		if err := <-ended; status.Code(err) != codes.ResourceExhausted ||
			!strings.Contains(err.Error(), "pings a second") {
			t.Errorf("the flood ended with %v", err)
		}
		honest.send(frame(1, 1))
		honest.wantCombine(1, 1)
		synctest.Wait()
		if m := s.server.Metrics(); m.PingFloods != 1 || len(floods) != 1 || m.Streams != 1 {
			t.Errorf("%d floods counted, %d told, %d streams open, want 1 of each", m.PingFloods,
				len(floods), m.Streams)
		}
	})
}

// TestPingsOfRouters sends what the busiest router does, with pauses in which the network
// holds it up, for minutes: the stream stays.
func TestPingsOfRouters(t *testing.T) {
	virtually(t, func(*expertnode.Options) {}, func(t *testing.T, s *serving) {
		l := s.stream(t)
		l.send(&wire.Request{Kind: wire.KindHello, Hello: goodHello()})
		l.receive()
		const every, answer, frames = time.Second / 20, 3 * time.Second, wire.MaxStreamFrames
		nonce := uint64(0)
		ping := func(count int) {
			for range count {
				nonce++
				l.send(&wire.Request{Kind: wire.KindPing, PingNonce: nonce})
			}
		}
		combined := make(chan error, 1)
		go func() {
			for {
				var r wire.Response
				err := l.stream.RecvMsg(&r)
				r.Release()
				if err != nil || r.Kind == wire.KindCombine {
					combined <- err
					return
				}
			}
		}()
		for range 10 {
			for range 5 * 20 {
				time.Sleep(every)
				ping(frames)
			}
			time.Sleep(answer) // a frame that was asked for is not asked for again
			ping(frames + int(answer/(250*time.Millisecond)))
		}
		l.send(frame(1, 1))
		if err := <-combined; err != nil {
			t.Errorf("a stream with the pings of a busy router ended with %v", err)
		}
		if n := s.server.Metrics().PingFloods; n != 0 {
			t.Errorf("%d floods of pings counted, want none", n)
		}
	})
}
