package api

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	droverv1 "drover/proto/drover/v1"
)

// TestSlowClient checks that a client that does not read its stream loses it, and that
// others get their answers meanwhile.
func TestSlowClient(t *testing.T) {
	flooding, cut := make(chan struct{}), make(chan error, 1)
	var first sync.Once
	f := &fake{answer: func(out grpc.ServerStreamingServer[droverv1.GenerateResponse]) error {
		flood := false
		first.Do(func() { flood = true })
		if !flood {
			return say("quick")(out)
		}
		close(flooding)
		text := &droverv1.GenerateResponse{Event: &droverv1.GenerateResponse_Delta{
			Delta: &droverv1.Delta{Text: strings.Repeat("x", 1<<16)}}}
		var err error
		for err == nil {
			err = out.Send(text)
		}
		cut <- err
		return err
	}}
	s := newFront(t, f, Options{WriteTimeout: 500 * time.Millisecond})
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const hi = `{"messages":[{"role":"user","content":"hi"}],"stream":true}`
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s",
		chatPath, len(hi), hi)
	<-flooding
	for range 3 {
		if code, text := s.post(t, chatPath, hi); code != 200 || !strings.Contains(text, "quick") {
			t.Errorf("status %d, %s", code, text)
		}
	}
	select {
	case <-cut:
	case <-time.After(10 * time.Second):
		t.Fatal("the stream that nobody reads goes on")
	}
}

// TestServerTimeouts checks that bodies which no route reads are bounded, and that
// streams are not.
func TestServerTimeouts(t *testing.T) {
	server := New(nil, Options{BodyTimeout: time.Second})
	if got, want := server.ReadTimeout, headerTimeout+time.Second; got != want {
		t.Errorf("ReadTimeout %v, want %v", got, want)
	}
	if server.WriteTimeout != 0 {
		t.Errorf("WriteTimeout %v would cut streams", server.WriteTimeout)
	}
}

func TestEvents(t *testing.T) {
	answered := make(chan Answered, 1)
	s := newFront(t, &fake{}, Options{Events: Events{
		Answered: func(a Answered) { answered <- a }}})
	for _, tc := range []struct {
		method, path, body string
		route              string
		status             int
	}{
		{http.MethodPost, chatPath, `{"messages":[{"role":"user","content":"hi"}],"stream":true}`,
			chatPath, 200},
		{http.MethodPost, chatPath, `{}`, chatPath, 400},
		{http.MethodGet, chatPath, ``, chatPath, 405},
		{http.MethodGet, "/v1/models/gpt", ``, "/v1/models/{model}", 404},
		{http.MethodGet, "/nowhere", ``, "", 404},
	} {
		s.ask(t, tc.method+" "+tc.path, tc.body)
		a := <-answered
		if a.Duration <= 0 {
			t.Errorf("%s %s took %v", tc.method, tc.path, a.Duration)
		}
		a.Duration = 0
		if want := (Answered{Method: tc.method, Route: tc.route, Status: tc.status}); a != want {
			t.Errorf("%s: got %+v, want %+v", tc.path, a, want)
		}
	}
}
