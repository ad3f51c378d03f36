package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
	"drover/wire"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 500 * time.Millisecond
	// A greeting has time from the first to the last, doubling with each attempt: after a
	// short fault a new attempt is better than waiting for what was lost.
	minHelloTimeout = 250 * time.Millisecond
	maxHelloTimeout = 2 * time.Second
	// retireTimeout bounds how long a retired link waits for its last answers.
	retireTimeout = 2 * time.Second
)

var (
	errRetired = errors.New("the node left the placement")
	errEpoch   = errors.New("the node was restarted")
	errSilent  = errors.New("no sign of life")
)

// link is one lane's way to one node. Its goroutine connects, receives and
// connects again, until the link is retired. Others may know it for long after that, so it
// does not keep a session that has ended, whose connection has large buffers.
type link struct {
	router *Router
	node   *node
	lane   *lane

	session atomic.Pointer[session] // nil while not connected
	problem atomic.Pointer[string]  // why the last session ended or did not begin
	retired atomic.Bool
	downAt  atomic.Int64 // since when there is no session, as the lane's now
	ctx     context.Context
	cancel  context.CancelCauseFunc

	// perKiB is how long 1 KiB of rows takes on the way, as the lane measured, in ns.
	perKiB atomic.Int64

	// The fields below belong to the goroutine that uses the lane.
	state    linkState
	stateOf  uint64 // the number of the session that state is about, 0 if there was none
	assigned int    // experts chosen for it in this round of dispatch

	// The fields below belong to the goroutine of watchLinks.
	pulse   pulse
	pulseOf uint64 // the number of the session that pulse is about, 0 if there is none

	sessions uint64 // that there were; of the link's goroutine
}

func newLink(r *Router, n *node, l *lane) *link {
	k := &link{router: r, node: n, lane: l}
	k.downAt.Store(int64(l.now()))
	k.ctx, k.cancel = context.WithCancelCause(r.ctx)
	return k
}

// session is one stream of a link, from Hello to its end.
type session struct {
	link        *link
	number      uint64 // the link's first is 1
	stream      grpc.ClientStream
	ctx         context.Context // of the stream
	cancel      context.CancelCauseFunc
	creditLimit int64
	out         chan *wire.Request // to the sending goroutine

	// queued counts the requests in out or being written. Who writes has counted one, so
	// there is one writer at a time.
	queued      atomic.Int64
	unanswered  atomic.Int64          // frames
	creditBytes atomic.Int64          // of rows sent and not yet answered; the lane changes it
	heard       atomic.Int64          // time of the last sign of life, as the lane's now
	full        atomic.Bool           // the lane has no room for what was received
	asked       atomic.Uint64         // the nonce of the last ping
	failed      atomic.Pointer[error] // why it ended, nil before

	answers  atomic.Int64 // received
	answered uint64       // the nonce of the last Pong; of the receiving goroutine

	flights int // frames sent and not yet answered; belongs to the goroutine that uses the lane
}

// run is the link's goroutine.
func (k *link) run() {
	delay, patience := minBackoff, minHelloTimeout
	for k.ctx.Err() == nil {
		s, err := k.connect(patience)
		k.report(err)
		patience = min(2*patience, maxHelloTimeout)
		if s != nil {
			patience, delay = minHelloTimeout, minBackoff
			if s.answers.Load() > 0 {
				delay = 0 // the link was of use: often the node is still there
			}
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-k.ctx.Done():
			timer.Stop()
		}
		delay = min(max(2*delay, minBackoff), maxBackoff)
	}
}

// report keeps the reason of a failure for errors, and tells of it if it is new.
func (k *link) report(err error) {
	text := err.Error()
	old := k.problem.Swap(&text)
	k.lane.wakeUp()
	if k.ctx.Err() == nil {
		k.node.work.linksLost.Add(1)
	}
	f := k.router.opts.Events.LinkDown
	if f != nil && k.ctx.Err() == nil && (old == nil || *old != text) {
		f(k.node.id, k.lane.index, err)
	}
}

// describe says how the link is, for errors.
func (k *link) describe() string {
	if p := k.problem.Load(); p != nil {
		return *p
	}
	if k.session.Load() != nil {
		return "connected"
	}
	return "not yet connected"
}

// connect opens a connection with one stream and serves it to its end. A stream
// has its own connection, so that nothing of a hung one is left when it is replaced. It
// returns why there is no session, or the one that there was and why it ended.
func (k *link) connect(patience time.Duration) (*session, error) {
	conn, err := grpc.NewClient(k.node.address, k.router.dialOptions()...)
	if err != nil {
		return nil, err
	}
	// Closing takes seconds where nothing can be written: a new attempt does not wait for that.
	defer k.router.running.Go(func() { _ = conn.Close() })
	ctx, cancel := context.WithCancelCause(k.ctx)
	defer cancel(nil)
	greeting := time.AfterFunc(patience, func() { cancel(errors.New("no hello in time")) })
	defer greeting.Stop()
	stream, err := conn.NewStream(ctx, &droverv1.ExpertService_ServiceDesc.Streams[0],
		droverv1.ExpertService_Execute_FullMethodName)
	if err != nil {
		return nil, cause(ctx, err)
	}
	hello, err := k.greet(stream)
	if err != nil {
		return nil, cause(ctx, err)
	}
	if !greeting.Stop() {
		return nil, cause(ctx, context.Canceled)
	}
	k.sessions++
	s := &session{
		link:        k,
		number:      k.sessions,
		stream:      stream,
		ctx:         ctx,
		cancel:      cancel,
		creditLimit: min(k.router.opts.CreditBytes, int64(min(hello.CreditBytes, 1<<40))),
		out:         make(chan *wire.Request, wire.MaxStreamFrames),
	}
	return s, s.serve()
}

// cause prefers the reason for which a context was cancelled to the error that
// this led to, and what a gRPC error says to its code.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the node closed the stream")
	}
	if s, ok := status.FromError(err); ok {
		return errors.New(s.Message())
	}
	return err
}

// greet exchanges the Hellos and checks the node's.
func (k *link) greet(stream grpc.ClientStream) (*wire.Hello, error) {
	o := &k.router.opts
	err := stream.SendMsg(&wire.Request{Kind: wire.KindHello, Hello: wire.Hello{
		ProtocolVersion: wire.ProtocolVersion,
		ModelDigest:     o.ModelDigest,
		NumericMode:     o.Mode.String(),
		KernelClass:     o.KernelClass,
		HiddenSize:      uint32(o.Spec.Hidden),
		DTypes:          []wire.DType{k.router.dtype},
		MaxFrameBytes:   uint32(o.MaxFrameBytes),
		CreditBytes:     uint64(o.CreditBytes),
	}})
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var r wire.Response
	if err := stream.RecvMsg(&r); err != nil {
		return nil, err // also why the stream ended, if it did
	}
	defer r.Release()
	if r.Verify() != nil || r.Kind != wire.KindHello {
		return nil, errors.New("the node's first message is no valid hello")
	}
	return &r.Hello, k.checkHello(&r.Hello)
}

// checkHello compares what a node is with what this Router and its View expect.
func (k *link) checkHello(h *wire.Hello) error {
	o := &k.router.opts
	switch {
	case h.ProtocolVersion != wire.ProtocolVersion:
		return fmt.Errorf("protocol version: the router speaks %d, the node %d",
			wire.ProtocolVersion, h.ProtocolVersion)
	case h.NodeID != k.node.id:
		return fmt.Errorf("node id: %s was expected at %s, %q answers",
			k.node.id, k.node.address, h.NodeID)
	case h.Epoch < k.node.epoch:
		return fmt.Errorf("epoch: the node's life %d was expected, %d answers",
			k.node.epoch, h.Epoch)
	case !bytes.Equal(h.ModelDigest, o.ModelDigest):
		return fmt.Errorf("model digest: the router has %x, the node %x: another model, or other"+
			" weights of it; give both the same files", o.ModelDigest, h.ModelDigest)
	case h.NumericMode != o.Mode.String():
		return fmt.Errorf("numeric mode: the router has %q, the node %q",
			o.Mode.String(), h.NumericMode)
	case o.KernelClass != "" && h.KernelClass != o.KernelClass:
		return fmt.Errorf("kernel class: the router wants %q, the node has %q",
			o.KernelClass, h.KernelClass)
	case int(h.HiddenSize) != o.Spec.Hidden || !slices.Contains(h.DTypes, k.router.dtype):
		return fmt.Errorf("rows: the router sends %d elements of %v, the node takes %d of %v",
			o.Spec.Hidden, k.router.dtype, h.HiddenSize, h.DTypes)
	case int64(h.MaxFrameBytes) < int64(o.MaxFrameBytes):
		return fmt.Errorf("frame size: the router sends up to %d bytes, the node takes %d",
			o.MaxFrameBytes, h.MaxFrameBytes)
	case h.CreditBytes < uint64(o.MaxFrameBytes):
		return fmt.Errorf("credit: the node gives %d bytes, one frame may have %d",
			h.CreditBytes, o.MaxFrameBytes)
	}
	return nil
}

// serve publishes the session and receives until it ends; the error says why.
func (s *session) serve() error {
	k := s.link
	s.heard.Store(int64(k.lane.now()))
	k.problem.Store(nil)
	k.session.Store(s)
	if k.retired.Load() {
		k.cancel(errRetired) // retire may have looked before there was a session
	}
	if f := k.router.opts.Events.LinkUp; f != nil {
		f(k.node.id, k.lane.index)
	}
	k.lane.wakeUp()
	var sending sync.WaitGroup
	sending.Go(s.send)
	err := cause(s.ctx, s.receive())
	s.failed.Store(&err)
	k.downAt.Store(int64(k.lane.now()))
	k.session.Store(nil)
	s.cancel(err)
	sending.Wait()
	return err
}

// send writes what the lane queued. If writing fails, receive learns why.
func (s *session) send() {
	for {
		select {
		case r := <-s.out:
			if r.Kind == wire.KindPing {
				r.PingNonce = s.asked.Add(1)
			}
			err := s.stream.SendMsg(r)
			s.release(r)
			s.queued.Add(-1)
			if err != nil {
				return
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// receive hands each Combine to the lane, whole.
func (s *session) receive() error {
	l := s.link.lane
	for {
		a := l.answers.Get().(*answer)
		if err := s.stream.RecvMsg(&a.response); err != nil {
			l.drop(a)
			return err
		}
		if a.response.Kind != wire.KindCombine {
			err := s.takeSign(&a.response)
			l.drop(a)
			if err != nil {
				return err
			}
			continue
		}
		a.at = l.now()
		s.heard.Store(int64(a.at))
		a.session = s
		s.answers.Add(1)
		if err := s.hand(a); err != nil {
			return err
		}
		if s.unanswered.Add(-1) <= 0 && s.link.retired.Load() {
			s.link.cancel(errRetired)
			return errRetired
		}
	}
}

// takeSign takes a message that is no Combine: a Pong that was asked for is a sign of life,
// whatever else a node says is none.
func (s *session) takeSign(r *wire.Response) error {
	l := s.link.lane
	if err := r.Verify(); err != nil { // it may have been a Combine, which then is lost
		s.link.router.stats.corrupt.Add(1)
		return err
	}
	if r.Kind == wire.KindPong && s.ponged(r.PongNonce) {
		s.heard.Store(int64(l.now()))
	} else {
		l.badAnswer(s.link, errUnasked)
	}
	return nil
}

// hand gives an answer to the lane, and waits while that has no room.
func (s *session) hand(a *answer) error {
	l := s.link.lane
	select {
	case l.arrived <- a:
		return nil
	default:
	}
	s.full.Store(true)
	defer s.full.Store(false)
	select {
	case l.arrived <- a:
		return nil
	case <-s.ctx.Done():
		l.drop(a)
		return context.Cause(s.ctx)
	}
}

// retire makes the link end: at once, or when its frames are answered.
func (k *link) retire(atOnce bool) {
	if atOnce {
		k.cancel(errEpoch)
		return
	}
	k.retired.Store(true)
	s := k.session.Load()
	if s == nil || s.unanswered.Load() <= 0 {
		k.cancel(errRetired)
		return
	}
	stop := time.AfterFunc(retireTimeout, func() { k.cancel(errRetired) })
	context.AfterFunc(k.ctx, func() { stop.Stop() })
}
