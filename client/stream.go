package client

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	droverv1 "drover/proto/drover/v1"
)

// Stream is an answer as it comes. One goroutine at a time may use it.
type Stream struct {
	c      *Client
	ctx    context.Context // the caller's
	cancel context.CancelFunc
	req    *droverv1.GenerateRequest
	opts   []grpc.CallOption

	at     *attempt // nil between attempts
	avoid  *endpoint
	wait   time.Duration // before the next attempt
	quiet  time.Duration // after which an attempt without a token is examined
	stalls int           // attempts that were lost by silence: each doubles what is waited for
	since  time.Time     // of the last progress
	lost   time.Time     // of the last loss
	end    error         // what Recv returns from now on

	// What the caller has of the answer (K1).
	started   *droverv1.Started
	ids       []int32
	textBytes uint64
	resumes   int
}

// attempt is one coordinator's stream.
type attempt struct {
	*endpoint
	ctx    context.Context
	cancel context.CancelCauseFunc
	stream grpc.ServerStreamingClient[droverv1.GenerateResponse]
	quiet  atomic.Int64 // time.Duration after which the coordinator is asked whether it is well
	stall  *time.Timer  // which does so
	token  time.Time    // when the last token came, zero before the first
}

func (c *Client) generate(ctx context.Context, req *droverv1.GenerateRequest,
	opts []grpc.CallOption) *Stream {
	s := &Stream{c: c, req: req, opts: opts, since: time.Now(), quiet: c.opts.StallAfter,
		ids:       append([]int32(nil), req.GetResume().GetTokenIds()...),
		textBytes: req.GetResume().GetTextBytes()}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// Recv returns the next message: Started, Deltas, Finished, and after that the error
// io.EOF. Any other error has a gRPC status and ends the stream.
func (s *Stream) Recv() (*droverv1.GenerateResponse, error) {
	for s.end == nil {
		if s.at == nil {
			s.end = s.begin()
			continue
		}
		r, err := s.at.stream.Recv()
		if err != nil {
			s.end = s.lose(err)
			continue
		}
		s.at.follow(s, r)
		show, err := s.take(r)
		if s.end = err; show {
			return r, nil
		}
	}
	s.Close()
	return nil, s.end
}

// Resumes is how often the answer went on at another stream so far.
func (s *Stream) Resumes() int { return s.resumes }

// Close ends the stream; the coordinator stops to work on the answer.
func (s *Stream) Close() {
	if s.end == nil {
		s.end = status.Error(codes.Canceled, "the stream is closed")
	}
	s.leave()
	s.cancel()
}

// begin asks a coordinator, after the wait that is due.
func (s *Stream) begin() error {
	if err := sleep(s.ctx, s.wait); err != nil {
		return status.FromContextError(s.ctx.Err()).Err()
	}
	s.wait = next(s.wait)
	e, err := s.c.pick(s.ctx, s.avoid)
	if err != nil {
		return err
	}
	at := &attempt{endpoint: e}
	at.quiet.Store(int64(s.quiet))
	at.ctx, at.cancel = context.WithCancelCause(s.ctx)
	at.stall = time.AfterFunc(time.Hour, func() { s.c.examine(at) })
	at.stall.Reset(s.quiet)            // now that examine can do so itself
	context.AfterFunc(at.ctx, func() { // also if the caller forgets the stream
		at.stall.Stop()
		s.c.release(e)
	})
	s.at, s.avoid = at, e
	if at.stream, err = e.coordinator.Generate(at.ctx, s.request(), s.opts...); err != nil {
		return s.lose(err)
	}
	return nil
}

// request is what to ask: after Started only for what the caller lacks.
func (s *Stream) request() *droverv1.GenerateRequest {
	if s.started == nil {
		return s.req
	}
	r := proto.CloneOf(s.req)
	seed := s.started.GetSeed()
	r.Resume = &droverv1.Resume{RequestId: s.started.GetRequestId(), Seed: &seed,
		Fingerprint: s.started.GetFingerprint(), TokenIds: s.ids, TextBytes: s.textBytes}
	return r
}

// follow takes note that a message came. Before an attempt's first token there is a prompt to
// compute, which takes as long as it takes; then the gaps before say what silence is long.
func (at *attempt) follow(s *Stream, r *droverv1.GenerateResponse) {
	if r.GetDelta() != nil {
		now := time.Now()
		if !at.token.IsZero() {
			s.c.pace.add(now.Sub(at.token))
		}
		at.token = now
		atMost := s.c.opts.StallAfter
		at.quiet.Store(int64(min(s.c.pace.stall(atMost)<<min(s.stalls, maxDoublings), atMost)))
	}
	at.stall.Reset(time.Duration(at.quiet.Load()))
}

// maxDoublings keeps doubled times in their range.
const maxDoublings = 10

// examine asks a coordinator whose stream is silent whether it is well, and ends the
// attempt if it does not say so. One that is well is asked less and less often.
func (c *Client) examine(at *attempt) {
	quiet := time.Duration(at.quiet.Load())
	err := c.check(at.ctx, at.endpoint, c.patience(at.endpoint, quiet))
	switch {
	case at.ctx.Err() != nil:
	case err == nil:
		at.quiet.CompareAndSwap(int64(quiet), int64(max(quiet, min(2*quiet, c.opts.StallAfter))))
		at.stall.Reset(time.Duration(at.quiet.Load()))
	default:
		c.set(at.endpoint, dead, err)
		c.suspect(at.endpoint)
		at.cancel(err)
	}
}

// take notes what a message brings and says whether the caller gets it. The error is what
// comes after it.
func (s *Stream) take(r *droverv1.GenerateResponse) (show bool, err error) {
	switch e := r.GetEvent().(type) {
	case *droverv1.GenerateResponse_Started:
		if s.started == nil {
			s.started = e.Started
			return true, nil
		}
		return false, s.again(e.Started)
	case *droverv1.GenerateResponse_Delta:
		s.ids = append(s.ids, e.Delta.GetTokenIds()...)
		s.textBytes += uint64(len(e.Delta.GetText()))
		s.since, s.wait, s.quiet = time.Now(), 0, s.c.opts.StallAfter
		return true, nil
	case *droverv1.GenerateResponse_Finished:
		s.leave()
		return true, io.EOF
	}
	return false, nil // of a newer coordinator
}

// again checks that a second coordinator goes on with the answer that the first began.
func (s *Stream) again(n *droverv1.Started) error {
	was := s.started
	if n.GetRequestId() != was.GetRequestId() || n.GetSeed() != was.GetSeed() ||
		n.GetPromptTokenCount() != was.GetPromptTokenCount() {
		return status.Errorf(codes.FailedPrecondition, "coordinator %s did not resume request %s, "+
			"it began another: is it of an older version?", s.at.address, was.GetRequestId())
	}
	s.resumes++
	s.c.opts.Events.Resumed(Resumed{RequestID: was.GetRequestId(), Address: s.at.address,
		Tokens: len(s.ids), After: time.Since(s.lost)})
	return nil
}

// leave ends the current attempt, if there is one.
func (s *Stream) leave() {
	if s.at == nil {
		return
	}
	s.at.cancel(nil)
	s.at = nil
}

// tooLarge tells whether gRPC refused a message for its size, before a coordinator saw it. That has
// the code of one that is full, but does not go better next time.
func tooLarge(err error) bool {
	return status.Code(err) == codes.ResourceExhausted &&
		strings.Contains(err.Error(), "message larger than max")
}

// lose ends the current attempt because of an error, and returns one if that is the
// answer's end, too.
func (s *Stream) lose(err error) error {
	e := s.at.endpoint
	if stalled := context.Cause(s.at.ctx); stalled != nil {
		err = stalled
		s.quiet = min(2*s.quiet, s.c.opts.Patience) // it may be slow, not dead
		s.stalls++
	}
	s.leave()
	if errors.Is(err, io.EOF) {
		err = status.Error(codes.Unavailable, "the answer broke off")
	}
	switch code := status.Code(err); {
	case s.ctx.Err() != nil:
		return status.FromContextError(s.ctx.Err()).Err()
	case isDone(s.c.done):
		return errClosed
	case code == codes.Unavailable, code == codes.Canceled:
		s.c.suspect(e)
	case tooLarge(err):
		return err
	case code == codes.Aborted, code == codes.ResourceExhausted: // it is well
	default:
		return err
	}
	if gone := time.Since(s.since); gone > s.c.opts.Patience {
		return status.Errorf(status.Code(err), "%s (no coordinator went on for %v)",
			status.Convert(err).Message(), gone.Round(time.Second/10))
	}
	s.lost = time.Now()
	s.c.opts.Events.Lost(Lost{RequestID: s.started.GetRequestId(), Address: e.address,
		Tokens: len(s.ids), Err: err})
	return nil
}
