package api

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	droverv1 "drover/proto/drover/v1"
)

// fake is a coordinator that answers with a script.
type fake struct {
	droverv1.UnimplementedCoordinatorServiceServer

	// silent makes Describe end with an error.
	silent bool
	// refuse ends Generate at once.
	refuse error
	// answer streams between Started and the return; nil answers "hello".
	answer func(out grpc.ServerStreamingServer[droverv1.GenerateResponse]) error

	mu       sync.Mutex // guards requests
	requests []*droverv1.GenerateRequest
}

func (f *fake) Generate(req *droverv1.GenerateRequest,
	out grpc.ServerStreamingServer[droverv1.GenerateResponse]) error {
	f.mu.Lock()
	f.requests = append(f.requests, req)
	f.mu.Unlock()
	if f.refuse != nil {
		return f.refuse
	}
	started := &droverv1.Started{RequestId: "r", Model: "demo", PromptTokenCount: 5}
	err := out.Send(&droverv1.GenerateResponse{
		Event: &droverv1.GenerateResponse_Started{Started: started}})
	if err != nil {
		return err
	}
	if f.answer == nil {
		return say("hel", "lo")(out)
	}
	return f.answer(out)
}

func (f *fake) Describe(context.Context, *droverv1.DescribeRequest) (
	*droverv1.DescribeResponse, error) {
	if f.silent {
		return nil, status.Error(codes.PermissionDenied, "not for you")
	}
	return &droverv1.DescribeResponse{Model: "demo", NumericMode: "bf16",
		ModelDigest: []byte{1, 2, 3, 4, 5, 6, 7, 8}}, nil
}

// sent returns the only request that the coordinator got.
func (f *fake) sent(t *testing.T) *droverv1.GenerateRequest {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.requests) != 1 {
		t.Fatalf("the coordinator got %d requests, want 1", len(f.requests))
	}
	return f.requests[0]
}

// say streams pieces, a token each with its log-probability, and ends with STOP.
func say(pieces ...string) func(grpc.ServerStreamingServer[droverv1.GenerateResponse]) error {
	return sayUntil(droverv1.FinishReason_FINISH_REASON_STOP, pieces...)
}

func sayUntil(reason droverv1.FinishReason, pieces ...string) func(
	grpc.ServerStreamingServer[droverv1.GenerateResponse]) error {
	return func(out grpc.ServerStreamingServer[droverv1.GenerateResponse]) error {
		for i, p := range pieces {
			lp := &droverv1.TokenLogprobs{TokenId: int32(i), Logprob: -0.5, Token: []byte(p),
				Alternatives: []*droverv1.Alternative{{TokenId: 9, Logprob: -1, Token: []byte{0xc3}}}}
			d := &droverv1.Delta{TokenIds: []int32{int32(i)}, Text: p,
				Logprobs: []*droverv1.TokenLogprobs{lp}}
			err := out.Send(&droverv1.GenerateResponse{
				Event: &droverv1.GenerateResponse_Delta{Delta: d}})
			if err != nil {
				return err
			}
		}
		f := &droverv1.Finished{Reason: reason, PromptTokenCount: 5,
			TokenCount: uint32(len(pieces))}
		return out.Send(&droverv1.GenerateResponse{
			Event: &droverv1.GenerateResponse_Finished{Finished: f}})
	}
}

// front is an API server before a fake coordinator.
type front struct {
	*httptest.Server
	health *health.Server
}

func newFront(t testing.TB, f *fake, opts Options) *front {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	h := health.NewServer()
	droverv1.RegisterCoordinatorServiceServer(g, f)
	healthv1.RegisterHealthServer(g, h)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(listener) // ends with Stop
	}()
	conn, err := grpc.NewClient("passthrough:///fake",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return listener.DialContext(ctx)
		}))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(nil)
	s.Config = New(conn, opts)
	s.Start()
	t.Cleanup(func() {
		s.Close()
		_ = conn.Close()
		g.Stop()
		<-done
	})
	return &front{s, h}
}

// post sends a JSON body and returns the answer's status and body.
func (f *front) post(t *testing.T, path, body string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+path,
		strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	return do(t, req)
}

func do(t *testing.T, req *http.Request) (int, string) {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return v
}

// dig follows keys and indexes into decoded JSON.
func dig(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("%v: %v is no object", path, v)
			}
			v = m[p]
		case int:
			l, ok := v.([]any)
			if !ok || p >= len(l) {
				t.Fatalf("%v: %v is no list with an entry %d", path, v, p)
			}
			v = l[p]
		}
	}
	return v
}

// chunks returns the events of a stream, which must end with [DONE] unless broken.
func chunks(t *testing.T, text string) (all []map[string]any, done bool) {
	t.Helper()
	for event := range strings.SplitSeq(strings.TrimSuffix(text, "\n\n"), "\n\n") {
		data, ok := strings.CutPrefix(event, "data: ")
		switch {
		case !ok || done:
			t.Fatalf("unexpected event %q", event)
		case data == "[DONE]":
			done = true
		default:
			all = append(all, parse(t, data))
		}
	}
	return all, done
}
