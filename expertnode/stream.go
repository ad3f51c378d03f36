package expertnode

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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
	"drover/wire"
)

// helloTimeout bounds how long an opened stream may stay without a Hello.
const helloTimeout = 5 * time.Second

// A router whose stream is idle asks for a sign of life every second. A stream on which
// nothing has come at quietLooks looks in a row is that of a machine that is gone, and ends. A
// node that stood still itself looks once for all that time, so it does not end them.
const (
	quietEvery = 2500 * time.Millisecond
	quietLooks = 4
)

// stream is one lane of one router. Its receiving goroutine owns the reading half,
// the goroutine of Execute the writing half.
type stream struct {
	server  *Server
	grpc    grpc.ServerStream
	ctx     context.Context
	address string              // of the client
	hello   chan *wire.Hello    // the first message
	out     chan *wire.Response // never full: at most wire.MaxStreamFrames are unanswered
	pongs   chan uint64         // nonces; a Ping is dropped while one waits
	ended   chan error          // from the receiving goroutine

	// The fields below belong to the receiving goroutine.
	dispatched  bool   // a sound Dispatch has come
	lastFrameID uint64 // of the last one
	pings       pingAllowance

	received    atomic.Uint64 // messages
	unanswered  atomic.Int64  // frames
	creditBytes atomic.Int64  // of rows received and not yet answered

	mu      sync.Mutex        // guards the field below
	waiting map[uint64]*frame // accepted and not yet computed, by frame id
}

// frame is one Dispatch on its way through the queue. It owns its rows.
type frame struct {
	request   wire.Request
	stream    *stream
	received  time.Time
	deadline  time.Time // zero if the frame has no budget
	cancelled atomic.Bool
}

// Execute serves one stream until the client or Close ends it.
func (s *Server) Execute(
	g grpc.BidiStreamingServer[droverv1.ExecuteRequest, droverv1.ExecuteResponse]) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	st := &stream{
		server:  s,
		grpc:    g,
		ctx:     g.Context(),
		hello:   make(chan *wire.Hello, 1),
		out:     make(chan *wire.Response, wire.MaxStreamFrames),
		pongs:   make(chan uint64, 1),
		ended:   make(chan error, 1),
		waiting: make(map[uint64]*frame),
		address: "unknown",
	}
	if p, ok := peer.FromContext(st.ctx); ok {
		st.address = p.Addr.String()
	}
	go func() {
		defer s.running.Done()
		st.ended <- st.receive()
	}()
	if err := st.greet(); err != nil {
		return err
	}
	if f := s.opts.Events.StreamOpened; f != nil {
		f(st.address)
	}
	err := st.send()
	if f := s.opts.Events.StreamClosed; f != nil {
		f(st.address, err)
	}
	return err
}

// greet waits for the client's Hello, checks it and answers with the server's.
func (st *stream) greet() error {
	s := st.server
	timer := time.NewTimer(helloTimeout)
	defer timer.Stop()
	select {
	case h := <-st.hello:
		if err := s.checkHello(h); err != nil {
			return status.Error(codes.FailedPrecondition, err.Error())
		}
	case err := <-st.ended:
		return err
	case <-timer.C:
		return status.Error(codes.DeadlineExceeded, "no hello arrived")
	case <-s.done:
		return status.Error(codes.Unavailable, "the expert node is stopping")
	}
	return st.grpc.SendMsg(&wire.Response{Kind: wire.KindHello, Hello: wire.Hello{
		ProtocolVersion: wire.ProtocolVersion,
		ModelDigest:     s.opts.ModelDigest,
		NumericMode:     s.opts.Mode.String(),
		KernelClass:     s.opts.KernelClass,
		Epoch:           s.opts.Epoch,
		HiddenSize:      uint32(s.spec.Hidden),
		DTypes:          []wire.DType{s.dtype},
		MaxFrameBytes:   uint32(s.opts.MaxFrameBytes),
		CreditBytes:     uint64(s.opts.CreditBytes),
		NodeID:          s.opts.NodeID,
	}})
}

// checkHello compares what a router expects with what this node is.
func (s *Server) checkHello(h *wire.Hello) error {
	mode, class := s.opts.Mode.String(), s.opts.KernelClass
	switch {
	case h.ProtocolVersion != wire.ProtocolVersion:
		return fmt.Errorf("protocol version: the router speaks %d, the expert node %d",
			h.ProtocolVersion, wire.ProtocolVersion)
	case !bytes.Equal(h.ModelDigest, s.opts.ModelDigest):
		return fmt.Errorf("model digest: the router has %x, the expert node %x: another model, or other"+
			" weights of it; give both the same files", h.ModelDigest, s.opts.ModelDigest)
	case h.NumericMode != mode:
		return fmt.Errorf("numeric mode: the router has %q, the expert node %q",
			h.NumericMode, mode)
	case h.KernelClass != "" && h.KernelClass != class:
		return fmt.Errorf("kernel class: the router wants %q, the expert node has %q",
			h.KernelClass, class)
	case int(h.HiddenSize) != s.spec.Hidden:
		return fmt.Errorf("hidden size: the router has %d, the expert node %d",
			h.HiddenSize, s.spec.Hidden)
	case !slices.Contains(h.DTypes, s.dtype):
		return fmt.Errorf("row type: the router sends %v, the expert node takes %v",
			h.DTypes, s.dtype)
	case int64(h.MaxFrameBytes) > int64(s.opts.MaxFrameBytes):
		return fmt.Errorf("frame size: the router sends up to %d bytes, the expert node takes %d",
			h.MaxFrameBytes, s.opts.MaxFrameBytes)
	}
	return nil
}

// send writes what the receiving and the compute goroutine have for this stream.
func (st *stream) send() error {
	pong := wire.Response{Kind: wire.KindPong}
	tick := time.NewTicker(quietEvery)
	defer tick.Stop()
	received, quiet := uint64(0), 0
	for {
		select {
		case <-tick.C:
			quiet++
			if n := st.received.Load(); n != received {
				received, quiet = n, 0
			}
			if quiet >= quietLooks {
				return status.Errorf(codes.DeadlineExceeded, "nothing came for %v, not even a ping",
					quietLooks*quietEvery)
			}
		case r := <-st.out:
			// First, since the router may use both as soon as it has the answer.
			st.creditBytes.Add(-int64(r.Combine.CreditBytes))
			st.unanswered.Add(-1)
			err := st.grpc.SendMsg(r)
			r.Release()
			st.server.replies.Put(r)
			if err != nil {
				return err
			}
		case pong.PongNonce = <-st.pongs:
			if err := st.grpc.SendMsg(&pong); err != nil {
				return err
			}
		case err := <-st.ended:
			return err
		case <-st.server.done:
			return status.Error(codes.Unavailable, "the expert node is stopping")
		}
	}
}

// receive reads the stream to its end. A nil error means that the client closed it.
func (st *stream) receive() error {
	greeted := false
	f := st.server.newFrame()
	for {
		if err := st.grpc.RecvMsg(&f.request); err != nil {
			f.request.Release()
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		st.received.Add(1)
		corrupt := f.request.Verify() != nil
		if !greeted {
			if corrupt || f.request.Kind != wire.KindHello {
				return status.Error(codes.FailedPrecondition, "the first message is no valid hello")
			}
			greeted = true
			hello := f.request.Hello
			st.hello <- &hello
			f = st.server.newFrame()
			continue
		}
		switch {
		case f.request.Kind == wire.KindDispatch:
			if err := st.accept(f, corrupt); err != nil {
				f.request.Release()
				return err
			}
			f = st.server.newFrame()
		case corrupt: // it may have been a Dispatch, which then would wait for ever
			st.server.recorder.corrupt.Add(1)
			return status.Error(codes.DataLoss, "a message arrived corrupt: its kind is unknown")
		case f.request.Kind == wire.KindCancel:
			st.cancel(f.request.CancelID)
		case f.request.Kind == wire.KindPing:
			if !st.pings.take(time.Now()) {
				return st.flooded()
			}
			select {
			case st.pongs <- f.request.PingNonce:
			default:
			}
		default:
			return status.Error(codes.FailedPrecondition, "a message that has no place here")
		}
	}
}

// accept takes one Dispatch, which is no longer the caller's: it is queued, or
// answered at once. An error is a breach of the protocol and ends the stream.
func (st *stream) accept(f *frame, corrupt bool) error {
	s, d := st.server, &f.request.Dispatch
	rowBytes := int64(len(f.request.RowBytes()))
	if n := st.creditBytes.Add(rowBytes); n > s.opts.CreditBytes {
		return status.Errorf(codes.ResourceExhausted,
			"%d bytes of rows unanswered, the credit is %d", n, s.opts.CreditBytes)
	}
	if n := st.unanswered.Add(1); n > wire.MaxStreamFrames {
		return status.Errorf(codes.ResourceExhausted, "%d frames unanswered, the limit is %d",
			n, wire.MaxStreamFrames)
	}
	f.stream, f.received, f.deadline = st, time.Now(), time.Time{}
	f.cancelled.Store(false)
	if d.BudgetMicros > 0 {
		f.deadline = f.received.Add(time.Duration(d.BudgetMicros) * time.Microsecond)
	}
	if corrupt {
		f.refuse(wire.StatusCorrupt, wire.ErrCorrupt.Error())
		return nil
	}
	if err := st.checkNew(d.FrameID); err != nil {
		f.refuse(wire.StatusBadShape, err.Error())
		return nil
	}
	if err := s.checkShape(d, int(rowBytes)); err != nil {
		f.refuse(wire.StatusBadShape, err.Error())
		return nil
	}
	if s.draining.Load() {
		f.refuse(wire.StatusDraining, "the expert node is draining")
		return nil
	}
	st.mu.Lock()
	st.waiting[d.FrameID] = f
	st.mu.Unlock()
	if !s.queue.push(f) {
		st.forget(d.FrameID)
		f.refuse(wire.StatusOverloaded,
			fmt.Sprintf("%d frames wait, the limit", s.opts.QueueFrames))
	}
	return nil
}

// checkNew refuses a frame that was sent before: ids rise on a stream.
func (st *stream) checkNew(frameID uint64) error {
	if st.dispatched && frameID <= st.lastFrameID {
		return fmt.Errorf("frame %d comes after frame %d: ids must rise, so it is a replay",
			frameID, st.lastFrameID)
	}
	st.dispatched, st.lastFrameID = true, frameID
	return nil
}

func (st *stream) cancel(frameID uint64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if f := st.waiting[frameID]; f != nil {
		f.cancelled.Store(true)
	}
}

func (st *stream) forget(frameID uint64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.waiting, frameID)
}
