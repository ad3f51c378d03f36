package router_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"drover/expertnode"
	"drover/kernel"
	"drover/placement"
	droverv1 "drover/proto/drover/v1"
	"drover/router"
	"drover/wire"
)

// pipes is the network of nodes in a bubble of virtual time: each is a listener to whose
// address the Router dials.
type pipes struct {
	name   string
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	cut    atomic.Bool  // nothing gets through, and nobody is told
	forge  atomic.Bool  // pongs have nonces that nobody asked for
	pings  atomic.Int64 // that came to the node
	frames atomic.Int64
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr  { return p }
func (p *pipes) Network() string { return "pipes" }
func (p *pipes) String() string  { return "passthrough:///" + p.name }

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	if p.cut.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return &severed{here, &p.cut}, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// severed is the Router's end of a connection that may be cut.
type severed struct {
	net.Conn
	cut *atomic.Bool
}

func (c *severed) Read(b []byte) (int, error) {
	for {
		if n, err := c.Conn.Read(b); err != nil || !c.cut.Load() {
			return n, err
		}
	}
}

func (c *severed) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// observed is a node's stream on which messages are counted.
type observed struct {
	grpc.ServerStream
	pipes *pipes
}

func (o *observed) RecvMsg(m any) error {
	err := o.ServerStream.RecvMsg(m)
	if r, ok := m.(*wire.Request); ok && err == nil {
		switch r.Kind {
		case wire.KindPing:
			o.pipes.pings.Add(1)
		case wire.KindDispatch:
			o.pipes.frames.Add(1)
		}
	}
	return err
}

func (o *observed) SendMsg(m any) error {
	if r, ok := m.(*wire.Response); ok && r.Kind == wire.KindPong && o.pipes.forge.Load() {
		return o.ServerStream.SendMsg(&wire.Response{Kind: wire.KindPong,
			PongNonce: r.PongNonce + 1000})
	}
	return o.ServerStream.SendMsg(m)
}

// startPiped serves a fake on pipes until the test ends.
func startPiped(t *testing.T, name string) (*pipes, *testNode) {
	t.Helper()
	p := &pipes{name: name, conns: make(chan net.Conn), closed: make(chan struct{})}
	n := &testNode{fake: &fake{spec: testSpec, mode: kernel.BF16},
		node: placement.Node{ID: name, Epoch: 1, Address: p.String()}}
	var err error
	n.server, err = expertnode.NewServer(expertnode.Options{Replicas: n.fake, NodeID: name,
		Epoch: 1, ModelDigest: digest, Mode: kernel.BF16})
	if err != nil {
		t.Fatal(err)
	}
	n.grpc = grpc.NewServer(append(expertnode.ServerOptions(), grpc.StreamInterceptor(
		func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return h(srv, &observed{s, p})
		}))...)
	droverv1.RegisterExpertServiceServer(n.grpc, n.server)
	var serving sync.WaitGroup
	serving.Go(func() { _ = n.grpc.Serve(p) })
	t.Cleanup(func() {
		n.stop()
		serving.Wait()
	})
	return p, n
}

// idleCluster runs f with a Router and two nodes that hold everything, in virtual time.
func idleCluster(t *testing.T, f func(t *testing.T, c *idle)) {
	synctest.Test(t, func(t *testing.T) {
		c := &idle{down: make(chan error, 64), bad: make(chan error, 1024)}
		var nodes []*testNode
		byName := map[string]*pipes{}
		for i, name := range []string{"n0", "n1"} {
			var n *testNode
			c.pipes[i], n = startPiped(t, name)
			nodes, byName[name] = append(nodes, n), c.pipes[i]
		}
		c.fake = nodes[0].fake
		c.router = startRouter(t, kernel.BF16, func(o *router.Options) {
			o.CheckFraction = -1
			o.DialOptions = []grpc.DialOption{grpc.WithContextDialer(
				func(ctx context.Context, name string) (net.Conn, error) {
					return byName[name].dial(ctx)
				})}
			o.Events.LinkDown = func(id string, _ int, err error) {
				if id == "n0" {
					c.down <- err
				}
			}
			o.Events.BadAnswer = func(_ string, _ int, err error) { c.bad <- err }
		})
		c.router.Update(viewOf(testSpec, 1, 2, nodes...))
		waitReady(t, c.router)
		time.Sleep(time.Minute) // both are connected, and used to being asked
		f(t, c)
	})
}

type idle struct {
	router *router.Router
	fake   *fake
	pipes  [2]*pipes
	down   chan error // of n0's link
	bad    chan error // answers
}

// lost wants n0's link to be given up soon for its silence.
func (c *idle) lost(t *testing.T) {
	t.Helper()
	began := time.Now()
	if err := <-c.down; err.Error() != "no sign of life" {
		t.Errorf("the link went down with %v, want no sign of life", err)
	}
	// Heard at most 1 s before, and lost 2 s after that.
	if took := time.Since(began); took < 750*time.Millisecond || took > 2500*time.Millisecond {
		t.Errorf("the silent link was lost after %v, want about 2 s", took)
	}
	if n := c.router.Stats().SilentLinks; n != 1 {
		t.Errorf("%d silent links, want 1", n)
	}
}

// TestIdleLinkIsCut has a node vanish without a word while nothing is asked of it: its link
// goes down, so that the next step loses no time on it. When it is back it is used.
func TestIdleLinkIsCut(t *testing.T) {
	idleCluster(t, func(t *testing.T, c *idle) {
		c.pipes[0].cut.Store(true)
		c.lost(t)
		frames, began := c.pipes[0].frames.Load(), time.Now()
		for seed := range uint64(20) {
			check(t, c.router, c.fake, batchOf(seed))
		}
		// No time passes where nobody waits for a timer.
		if took := time.Since(began); took > 0 {
			t.Errorf("steps after the loss waited for %v, want not at all", took)
		}
		c.pipes[0].cut.Store(false)
		time.Sleep(5 * time.Second)
		for seed := range uint64(20) {
			check(t, c.router, c.fake, batchOf(seed))
		}
		if c.pipes[0].frames.Load() == frames {
			t.Error("the node is back and not used")
		}
	})
}

// TestIdleLinkIsKept asks links on which nothing is sent about once in a second, and keeps
// them as long as they answer.
func TestIdleLinkIsKept(t *testing.T) {
	idleCluster(t, func(t *testing.T, c *idle) {
		before := c.pipes[0].pings.Load()
		time.Sleep(10 * time.Minute)
		if n := c.pipes[0].pings.Load() - before; n < 400 || n > 600 {
			t.Errorf("asked %d times in 10 min, want 400 to 600", n)
		}
		if s := c.router.Stats(); s.SilentLinks != 0 || s.BadAnswers != 0 || len(c.down) > 0 {
			t.Errorf("a link that answers went down: %+v", s)
		}
	})
}

// TestBusyLinkIsNotAsked sends no pings on links whose answers show that they are alive.
func TestBusyLinkIsNotAsked(t *testing.T) {
	idleCluster(t, func(t *testing.T, c *idle) {
		busy := func(steps int) {
			for seed := range uint64(steps) {
				check(t, c.router, c.fake, batchOf(seed))
				time.Sleep(10 * time.Millisecond)
			}
		}
		busy(100)
		p := c.pipes[0]
		pings, frames := p.pings.Load(), p.frames.Load()
		busy(1000)
		if n := p.pings.Load() - pings; n > 0 {
			t.Errorf("asked %d times for signs of life beside %d frames, want never", n,
				p.frames.Load()-frames)
		}
	})
}

// TestForgedPongs has a node answer pings with nonces that nobody asked for, which are no
// signs of life: each is told, and the link goes down.
func TestForgedPongs(t *testing.T) {
	idleCluster(t, func(t *testing.T, c *idle) {
		c.pipes[0].forge.Store(true)
		c.lost(t)
		if n := c.router.Stats().BadAnswers; n == 0 || int(n) != len(c.bad) {
			t.Fatalf("%d bad answers, %d told, want some and the same", n, len(c.bad))
		}
		if err := <-c.bad; err.Error() != "nobody asked for it" {
			t.Errorf("a forged pong is told as %v", err)
		}
	})
}

// TestLivesLeaveNothing starts a node anew again and again: of each life's links no
// goroutine is left, and so no connection.
func TestLivesLeaveNothing(t *testing.T) {
	const lives, settled, slack = 25, 5, 8
	steady := startNodes(t, 1, kernel.BF16, nil)[0]
	r := startRouter(t, kernel.BF16, func(o *router.Options) { o.Lanes = 2 })
	few := 0
	for life := range uint64(lives) {
		n := startNode(t, nodeConfig{id: "n1", epoch: life + 1,
			fake: &fake{spec: testSpec, mode: kernel.BF16}})
		r.Update(viewOf(testSpec, life+1, 2, steady, n))
		waitReady(t, r)
		check(t, r, steady.fake, batchOf(life))
		n.stop()
		check(t, r, steady.fake, batchOf(life))
		if life == settled {
			few = runtime.NumGoroutine()
		}
	}
	waitFor(t, func() error {
		if n := runtime.NumGoroutine(); n > few+slack {
			return fmt.Errorf("%d goroutines after %d lives of a node, %d after %d", n, lives, few,
				settled+1)
		}
		return nil
	})
}
