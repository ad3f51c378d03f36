package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

type script = func(grpc.ServerStreamingServer[droverv1.GenerateResponse]) error

// contents joins what a stream's chunks say: text, tool calls and the reason.
func contents(t *testing.T, all []map[string]any) (text, calls, reason string) {
	t.Helper()
	for _, c := range all {
		choices := c["choices"].([]any)
		if len(choices) == 0 {
			continue
		}
		if s, ok := dig(t, choices, 0, "delta", "content").(string); ok {
			text += s
		}
		if list, ok := dig(t, choices, 0, "delta", "tool_calls").([]any); ok {
			for _, call := range list {
				f := dig(t, call, "function")
				calls += fmt.Sprint(dig(t, call, "index"), dig(t, f, "name"), dig(t, f, "arguments"))
			}
		}
		if s, ok := dig(t, choices, 0, "finish_reason").(string); ok {
			reason += s
		}
	}
	return text, calls, reason
}

func TestStream(t *testing.T) {
	s := newFront(t, &fake{answer: say("a", "<b>", "c")}, Options{})
	code, text := s.post(t, chatPath, `{"messages":[{"role":"user","content":"hi"}],
		"stream":true,"stream_options":{"include_usage":true}}`)
	all, done := chunks(t, text)
	if code != 200 || !done || len(all) != 6 {
		t.Fatalf("status %d, %d chunks, done %v: %s", code, len(all), done, text)
	}
	if got, _, reason := contents(t, all); got != "a<b>c" || reason != "stop" {
		t.Errorf("text %q, reason %q", got, reason)
	}
	if r := dig(t, all[0], "choices", 0, "delta", "role"); r != "assistant" {
		t.Errorf("the first chunk has role %v", r)
	}
	for i, c := range all[:5] {
		if u, has := c["usage"]; !has || u != nil || c["id"] != all[5]["id"] ||
			c["object"] != "chat.completion.chunk" {
			t.Errorf("chunk %d is %v", i, c)
		}
	}
	if u := dig(t, all[5], "usage", "total_tokens"); u != 8.0 {
		t.Errorf("total_tokens %v, want 8", u)
	}
	if !strings.Contains(text, "<b>") {
		t.Error("the text is escaped for HTML")
	}
}

func TestStreamOfText(t *testing.T) {
	f := &fake{answer: sayUntil(droverv1.FinishReason_FINISH_REASON_LENGTH, "a", "b")}
	s := newFront(t, f, Options{})
	_, text := s.post(t, "/v1/completions", `{"prompt":["x","y"],"stream":true,"n":2}`)
	all, done := chunks(t, text)
	got := map[float64]string{}
	for _, c := range all {
		got[dig(t, c, "choices", 0, "index").(float64)] += dig(t, c, "choices", 0, "text").(string)
		if _, has := c["usage"]; has {
			t.Errorf("usage was not asked for: %v", c)
		}
	}
	want := map[float64]string{0: "ab", 1: "ab", 2: "ab", 3: "ab"}
	if !done || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("texts %v, done %v", got, done)
	}
}

func TestToolCalls(t *testing.T) {
	const call = `{"name": "weather", "parameters": {"b": 1, "a": "x y"}}`
	const length = droverv1.FinishReason_FINISH_REASON_LENGTH
	for name, tc := range map[string]struct {
		answer              script
		tools               string
		text, calls, reason string
	}{
		"call": {say("\n", call[:9], call[9:]), weather,
			"", `0weather{"b": 1, "a": "x y"}`, "tool_calls"},
		"two calls": {say(call, "\n", call), weather, "",
			`0weather{"b": 1, "a": "x y"}1weather{"b": 1, "a": "x y"}`, "tool_calls"},
		"one of two calls": {say(call, call), weather + `],"parallel_tool_calls":false,"stop":[`,
			"", `0weather{"b": 1, "a": "x y"}`, "tool_calls"},
		"call and more": {say(call, " {"), weather, call + " {", "", "stop"},
		"no tools":      {say(call), "", call, "", "stop"},
		"text first":    {say("Sure: ", call), weather, "Sure: " + call, "", "stop"},
		"text after":    {say(call, " ok"), weather, call + " ok", "", "stop"},
		"other tool": {say(`{"name":"x","parameters":{}}`), weather,
			`{"name":"x","parameters":{}}`, "", "stop"},
		"no parameters": {say(`{"name":"weather"}`), weather, `{"name":"weather"}`, "", "stop"},
		"more keys": {say(`{"name":"weather","parameters":{},"x":1}`), weather,
			`{"name":"weather","parameters":{},"x":1}`, "", "stop"},
		"cut off": {sayUntil(length, `{"name": "wea`), weather, `{"name": "wea`, "", "length"},
		"list": {say(`{"name":"weather","parameters":[]}`), weather,
			`{"name":"weather","parameters":[]}`, "", "stop"},
		"only space": {say(" "), weather, " ", "", "stop"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFront(t, &fake{answer: tc.answer}, Options{})
			body := `{"messages":[{"role":"user","content":"hi"}],"tools":[` + tc.tools + `]`
			_, out := s.post(t, chatPath, body+`,"stream":true}`)
			all, done := chunks(t, out)
			text, calls, reason := contents(t, all)
			if !done || text != tc.text || calls != tc.calls || reason != tc.reason {
				t.Errorf("stream: text %q, calls %q, reason %q; want %q, %q, %q",
					text, calls, reason, tc.text, tc.calls, tc.reason)
			}
			_, out = s.post(t, chatPath, body+`}`)
			choice := dig(t, parse(t, out), "choices", 0)
			message := dig(t, choice, "message")
			list, _ := dig(t, message, "tool_calls").([]any)
			if dig(t, choice, "finish_reason") != tc.reason ||
				len(list) != strings.Count(tc.calls, "weather") {
				t.Errorf("whole: %v", choice)
			}
			if text, _ := dig(t, message, "content").(string); text != tc.text {
				t.Errorf("whole: content %q, want %q", text, tc.text)
			}
		})
	}
}

func TestStreamFlushesEachEvent(t *testing.T) {
	next := make(chan struct{})
	f := &fake{answer: func(out grpc.ServerStreamingServer[droverv1.GenerateResponse]) error {
		if err := say("a")(out); err != nil { // the client must see this before the end
			return err
		}
		select {
		case <-next:
			return nil
		case <-time.After(10 * time.Second):
			return errors.New("the client did not see the first event")
		}
	}}
	s := newFront(t, f, Options{})
	res, err := http.Post(s.URL+chatPath, "application/json", strings.NewReader(
		`{"messages":[{"role":"user","content":"hi"}],"stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() && !strings.Contains(lines.Text(), `"content":"a"`) {
	}
	close(next)
	rest, err := io.ReadAll(res.Body)
	if err != nil || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("rest %q, error %v, type %q", rest, err, res.Header.Get("Content-Type"))
	}
}

// TestDisconnect checks that a client's leave cancels every choice.
func TestDisconnect(t *testing.T) {
	const n = 3
	cancelled := make(chan error, n)
	f := &fake{answer: func(out grpc.ServerStreamingServer[droverv1.GenerateResponse]) error {
		<-out.Context().Done()
		cancelled <- out.Context().Err()
		return out.Context().Err()
	}}
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprintf("stream %v", stream), func(t *testing.T) {
			s := newFront(t, f, Options{})
			conn, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			body := fmt.Sprintf(`{"messages":[{"role":"user","content":"hi"}],"n":%d,"stream":%v}`,
				n, stream)
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s",
				chatPath, len(body), body)
			waitFor(t, func() bool {
				f.mu.Lock()
				defer f.mu.Unlock()
				return len(f.requests) == n
			})
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			for range n {
				select {
				case err := <-cancelled:
					if !errors.Is(err, context.Canceled) {
						t.Errorf("ended with %v, want a cancel", err)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("a choice was not cancelled")
				}
			}
			f.requests = nil
		})
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("timed out")
		}
	}
}

func TestErrorWithinStream(t *testing.T) {
	lost := status.Error(codes.Unavailable, "layer 3 expert 7: node-2 is gone")
	f := &fake{answer: func(out grpc.ServerStreamingServer[droverv1.GenerateResponse]) error {
		return errors.Join(out.Send(&droverv1.GenerateResponse{
			Event: &droverv1.GenerateResponse_Delta{Delta: &droverv1.Delta{Text: "a"}}}), lost)
	}}
	s := newFront(t, f, Options{})
	code, text := s.post(t, chatPath,
		`{"messages":[{"role":"user","content":"hi"}],"stream":true}`)
	all, done := chunks(t, text)
	last := all[len(all)-1]
	message, _ := dig(t, last, "error", "message").(string)
	if code != 200 || done || !strings.Contains(message, "layer 3 expert 7") {
		t.Errorf("status %d, done %v, last %v", code, done, last)
	}
	f.answer = func(grpc.ServerStreamingServer[droverv1.GenerateResponse]) error { return nil }
	code, text = s.post(t, chatPath, `{"messages":[{"role":"user","content":"hi"}]}`)
	if code != 503 || !strings.Contains(text, "broke off") {
		t.Errorf("an answer without an end: status %d, %s", code, text)
	}
}
