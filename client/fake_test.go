package client

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	droverv1 "drover/proto/drover/v1"
)

const (
	serves    = healthv1.HealthCheckResponse_SERVING
	servesNot = healthv1.HealthCheckResponse_NOT_SERVING
)

// fake is a coordinator without a network: its answers count up to their max_tokens, a
// token a millisecond if nothing else is said, and go on where Resume says.
type fake struct {
	name string

	mu      sync.Mutex // guards the fields below
	up      bool
	silent  bool // takes everything and answers nothing
	stuck   bool // makes no tokens
	healthy healthv1.HealthCheckResponse_ServingStatus
	gap     time.Duration // between tokens
	way     time.Duration // there and back, of health checks
	changed chan struct{} // closed when one of the above changes
	calls   []*droverv1.GenerateRequest
	open    int
	// cut, if not nil, says after how many messages the nth call ends, and how.
	cut func(n int) (messages int, err error)
	old bool // knows neither Resume nor health
}

func newFakeNode(name string) *fake {
	return &fake{name: name, up: true, healthy: serves, gap: time.Millisecond,
		changed: make(chan struct{})}
}

// change changes a coordinator and tells its streams.
func (f *fake) change(how func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fake) kill()    { f.change(func() { f.up = false }) }
func (f *fake) restart() { f.change(func() { f.up = true }) }

var errRefused = status.Error(codes.Unavailable, "connection refused")

func (f *fake) look() (up, silent bool, h healthv1.HealthCheckResponse_ServingStatus,
	changed chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.up, f.silent, f.healthy, f.changed
}

func (f *fake) Close() error { return nil }

// Invoke is a unary call.
func (f *fake) Invoke(ctx context.Context, method string, _, reply any,
	_ ...grpc.CallOption) error {
	up, silent, health, _ := f.look()
	switch {
	case !up:
		return errRefused
	case silent:
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	case strings.HasSuffix(method, "/Check") && f.old:
		return status.Error(codes.Unimplemented, "no such service")
	case strings.HasSuffix(method, "/Check"):
		time.Sleep(f.way)
		reply.(*healthv1.HealthCheckResponse).Status = health
	case strings.HasSuffix(method, "/Describe"):
		reply.(*droverv1.DescribeResponse).Model = f.name
	default:
		return status.Error(codes.Unimplemented, method)
	}
	return nil
}

// NewStream is a streaming call.
func (f *fake) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string,
	_ ...grpc.CallOption) (grpc.ClientStream, error) {
	up, _, _, _ := f.look()
	switch {
	case !up:
		return nil, errRefused
	case strings.HasSuffix(method, "/Watch") && f.old:
		return nil, status.Error(codes.Unimplemented, "no such service")
	case strings.HasSuffix(method, "/Watch"):
		return &watchStream{fakeStream: fakeStream{f: f, ctx: ctx}}, nil
	}
	return &answerStream{fakeStream: fakeStream{f: f, ctx: ctx}}, nil
}

// fakeStream is what both streams share.
type fakeStream struct {
	grpc.ClientStream // nil: methods that the client leaves alone
	f                 *fake
	ctx               context.Context
}

func (s *fakeStream) SendMsg(any) error { return nil }
func (s *fakeStream) CloseSend() error  { return nil }

// pause waits until the coordinator has something to say: after d if that is over 0, and
// when it changes.
func (s *fakeStream) pause(changed chan struct{}, d time.Duration) error {
	var after <-chan time.Time
	if d > 0 {
		after = time.After(d)
	}
	select {
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	case <-changed:
	case <-after:
	}
	return nil
}

type watchStream struct {
	fakeStream
	told healthv1.HealthCheckResponse_ServingStatus
}

func (s *watchStream) RecvMsg(m any) error {
	for {
		up, silent, health, changed := s.f.look()
		switch {
		case !up:
			return errRefused
		case !silent && health != s.told:
			s.told = health
			m.(*healthv1.HealthCheckResponse).Status = health
			return nil
		}
		if err := s.pause(changed, 0); err != nil {
			return err
		}
	}
}

type answerStream struct {
	fakeStream
	req  *droverv1.GenerateRequest
	sent int // messages
	at   int // next token
	left int // messages until err; below 0 for all
	err  error
}

func (s *answerStream) SendMsg(m any) error {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.req, s.left = m.(*droverv1.GenerateRequest), -1
	s.at = len(s.req.GetResume().GetTokenIds())
	s.f.calls = append(s.f.calls, proto.CloneOf(s.req))
	s.f.open++
	context.AfterFunc(s.ctx, func() {
		s.f.mu.Lock()
		s.f.open--
		s.f.mu.Unlock()
	})
	if s.f.cut != nil {
		s.left, s.err = s.f.cut(len(s.f.calls) - 1)
	}
	if s.f.old {
		s.at = 0
	}
	return nil
}

// word is the text of a token.
func word(i int) string { return fmt.Sprintf("é%d ", i) }

func (s *answerStream) RecvMsg(m any) error {
	if s.left == 0 {
		return s.err
	}
	s.left--
	for waited := false; ; waited = true {
		up, silent, _, changed := s.f.look()
		s.f.mu.Lock()
		silent = silent || s.f.stuck
		s.f.mu.Unlock()
		switch {
		case !up:
			return errRefused
		case !silent && (s.sent == 0 || waited || s.at == int(s.req.MaxTokens)):
			r := m.(*droverv1.GenerateResponse)
			r.Event = s.message().Event
			if r.Event == nil {
				return io.EOF
			}
			s.sent++
			return nil
		}
		d := s.f.gap
		if silent {
			d = 0
		}
		if err := s.pause(changed, d); err != nil {
			return err
		}
	}
}

// message is the next one.
func (s *answerStream) message() *droverv1.GenerateResponse {
	switch {
	case s.sent == 0:
		id, seed := s.req.GetResume().GetRequestId(), s.req.GetResume().GetSeed()
		if id == "" || s.f.old {
			id, seed = s.f.name+"-id", 7
		}
		return &droverv1.GenerateResponse{Event: &droverv1.GenerateResponse_Started{
			Started: &droverv1.Started{RequestId: id, Seed: seed, PromptTokenCount: 3}}}
	case s.at < int(s.req.MaxTokens):
		s.at++
		return &droverv1.GenerateResponse{Event: &droverv1.GenerateResponse_Delta{
			Delta: &droverv1.Delta{TokenIds: []int32{int32(s.at - 1)}, Text: word(s.at - 1)}}}
	case s.at == int(s.req.MaxTokens):
		s.at++
		return &droverv1.GenerateResponse{Event: &droverv1.GenerateResponse_Finished{
			Finished: &droverv1.Finished{TokenCount: s.req.MaxTokens}}}
	}
	return &droverv1.GenerateResponse{}
}

// pool makes a client of fake coordinators that closes with the test.
func pool(t testing.TB, o Options, nodes ...*fake) *Client {
	t.Helper()
	by := map[string]*fake{}
	for _, n := range nodes {
		o.Addresses = append(o.Addresses, n.name)
		by[n.name] = n
	}
	o.connect = func(address string) (conn, error) { return by[address], nil }
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func ask(n int) *droverv1.GenerateRequest {
	return &droverv1.GenerateRequest{MaxTokens: uint32(n),
		Prompt: &droverv1.GenerateRequest_Text{Text: "Once"}}
}

// read reads an answer to its end and checks that it is whole: each token once, in order,
// with its text, Started first and once, Finished last.
func read(t testing.TB, s *Stream, each func(token int)) error {
	t.Helper()
	var ids []int32
	text, started, finished := "", 0, 0
	for {
		r, err := s.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		switch {
		case r.GetStarted() != nil:
			started++
		case r.GetFinished() != nil:
			finished++
		case started != 1 || finished != 0:
			t.Errorf("%v after %d Started and %d Finished", r, started, finished)
		}
		ids = append(ids, r.GetDelta().GetTokenIds()...)
		text += r.GetDelta().GetText()
		if each != nil && r.GetDelta() != nil {
			each(len(ids))
		}
	}
	want := ""
	for i := range int(s.req.MaxTokens) {
		if want += word(i); i < len(ids) && ids[i] != int32(i) {
			t.Fatalf("token %d is %d", i, ids[i])
		}
	}
	if text != want || len(ids) != int(s.req.MaxTokens) || started != 1 || finished != 1 {
		t.Errorf("%d Started, %d tokens, %d Finished, %q; want %d tokens", started, len(ids), finished,
			text, s.req.MaxTokens)
	}
	if _, err := s.Recv(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
	return nil
}
