package api

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func (f *front) get(t *testing.T, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, req)
}

func TestRoutes(t *testing.T) {
	s := newFront(t, &fake{}, Options{Unready: func() error { return errors.New("node a is gone") }})
	s.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/v1/models":      {200, `"id":"demo"`},
		"/v1/models/demo": {200, `"object":"model"`},
		"/v1/models/gpt":  {404, `"code":"model_not_found"`},
		"/healthz":        {200, "ok"},
		"/readyz":         {503, `{"reason":"node a is gone","status":"not ready"}`},
		chatPath:          {405, `"error"`},
		"/nowhere":        {404, `"error"`},
	} {
		if code, text := s.get(t, path); code != want.code || !strings.Contains(text, want.text) {
			t.Errorf("GET %s: status %d, %s; want %d and %s", path, code, text, want.code, want.text)
		}
	}
	s.health.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
	if code, text := s.get(t, "/readyz"); code != 200 || strings.Contains(text, "reason") {
		t.Errorf("ready, but status %d, %s", code, text)
	}
}

func TestStatuses(t *testing.T) {
	for code, want := range map[codes.Code]struct {
		status int
		kind   string
	}{
		codes.InvalidArgument:    {400, "invalid_request_error"},
		codes.FailedPrecondition: {400, "invalid_request_error"},
		codes.OutOfRange:         {400, "invalid_request_error"},
		codes.NotFound:           {404, "invalid_request_error"},
		codes.Unauthenticated:    {401, "authentication_error"},
		codes.PermissionDenied:   {403, "permission_error"},
		codes.ResourceExhausted:  {429, "rate_limit_error"},
		codes.Unavailable:        {503, "server_error"},
		codes.DeadlineExceeded:   {504, "server_error"},
		codes.Unimplemented:      {501, "server_error"},
		codes.Canceled:           {499, "server_error"},
		codes.Internal:           {500, "server_error"},
		codes.Unknown:            {500, "server_error"},
		codes.DataLoss:           {500, "server_error"},
	} {
		got := toError(fmt.Errorf("attempt: %w", status.Error(code, "why")))
		if got.status != want.status || got.Type != want.kind {
			t.Errorf("%v: status %d %s, want %d %s", code, got.status, got.Type, want.status, want.kind)
		}
	}
	if got := toError(errors.New("x")); got.status != 500 {
		t.Errorf("an error without a code has status %d", got.status)
	}
}

// TestRefusedByCoordinator checks that messages about gRPC fields name JSON's.
func TestRefusedByCoordinator(t *testing.T) {
	for text, want := range map[string]struct{ param, message, code string }{
		"sampling.top_p: is 7, want over 0": {"top_p", "top_p: is 7, want over 0", ""},
		"chat: the chat template refuses it: no": {"messages",
			"messages: the chat template refuses it: no", ""},
		"text: the prompt is empty":       {"prompt", "prompt: the prompt is empty", ""},
		"tokens.ids: entry 0 is token -1": {"prompt", "prompt: entry 0 is token -1", ""},
		"chat.messages[0].tool_calls[1].arguments_json: is not a JSON object": {
			"messages[0].tool_calls[1].function.arguments",
			"messages[0].tool_calls[1].function.arguments: is not a JSON object", ""},
		"chat.messages[2].parts[1].image: this model does not take images": {
			"messages[2].content[1].image",
			"messages[2].content[1].image: this model does not take images", ""},
		"chat.tools_json[0]: is no object": {"tools[0]", "tools[0]: is no object", ""},
		`model: "x" is not served here`:    {"model", `model: "x" is not served here`, "model_not_found"},
		"prompt: has 9 tokens; it must fit into a context of 8 tokens": {"prompt",
			"prompt: has 9 tokens; it must fit into a context of 8 tokens", "context_length_exceeded"},
		"something else: sampling. stays": {"", "something else: sampling. stays", ""},
	} {
		e := toError(status.Error(codes.InvalidArgument, text))
		param, code := "", ""
		if e.Param != nil {
			param = *e.Param
		}
		if e.Code != nil {
			code = *e.Code
		}
		if param != want.param || e.Message != want.message || code != want.code {
			t.Errorf("%q: param %q, message %q, code %q; want %v", text, param, e.Message, code, want)
		}
		if wantStatus := 400; code != "model_not_found" && e.status != wantStatus {
			t.Errorf("%q: status %d", text, e.status)
		}
	}
}

func TestOverload(t *testing.T) {
	f := &fake{answer: func(grpc.ServerStreamingServer[droverv1.GenerateResponse]) error {
		return status.Error(codes.ResourceExhausted, "too many requests")
	}}
	s := newFront(t, f, Options{})
	res, err := http.Post(s.URL+chatPath, "application/json",
		strings.NewReader(`{"messages":[{"role":"user","content":"hi"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 429 || res.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
}

func TestBodies(t *testing.T) {
	s := newFront(t, &fake{}, Options{MaxBodyBytes: 100, BodyTimeout: 50 * time.Millisecond})
	if code, text := s.post(t, chatPath, strings.Repeat(" ", 101)); code != 413 ||
		!strings.Contains(text, "100 bytes") {
		t.Errorf("a large body: status %d, %s", code, text)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+chatPath,
		strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "http://elsewhere.example")
	if code, text := do(t, req); code != 403 || !strings.Contains(text, "permission_error") {
		t.Errorf("a page of another origin: status %d, %s", code, text)
	}
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{", chatPath)
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer := make([]byte, 12)
	if _, err := conn.Read(answer); err != nil || string(answer) != "HTTP/1.1 400" {
		t.Errorf("a body that does not come: %q, %v", answer, err)
	}
}

// TestLongAnswer checks that the time limits for bodies do not bound answers.
func TestLongAnswer(t *testing.T) {
	f := &fake{answer: func(out grpc.ServerStreamingServer[droverv1.GenerateResponse]) error {
		select {
		case <-time.After(300 * time.Millisecond):
			return say("late")(out)
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}}
	s := newFront(t, f, Options{BodyTimeout: 50 * time.Millisecond,
		WriteTimeout: 50 * time.Millisecond})
	for _, more := range []string{"", `,"stream":true`} {
		code, text := s.post(t, chatPath, `{"messages":[{"role":"user","content":"hi"}]`+more+`}`)
		if code != 200 || !strings.Contains(text, "late") {
			t.Errorf("status %d, %s", code, text)
		}
	}
}
