package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

// TestLargeBodiesTakeTurns asks for a turn while all are taken: what is large, or does not say,
// waits for as long as a body may take to be read, or until its client goes.
func TestLargeBodiesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{large: make(chan struct{}, largeBodies)}
		s.opts.setDefaults()
		for range largeBodies {
			s.large <- struct{}{}
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for name, tc := range map[string]struct {
			ctx   context.Context
			bytes int64
			code  codes.Code
			waits time.Duration
		}{
			"small":   {t.Context(), largeBody - 1, codes.OK, 0},
			"large":   {t.Context(), largeBody, codes.ResourceExhausted, s.opts.BodyTimeout},
			"untold":  {t.Context(), -1, codes.ResourceExhausted, s.opts.BodyTimeout},
			"it left": {gone, largeBody, codes.Canceled, 0},
		} {
			r := httptest.NewRequestWithContext(tc.ctx, http.MethodPost, chatPath, nil)
			r.ContentLength = tc.bytes
			began := time.Now()
			_, err := s.turn(r)
			if waited := time.Since(began); status.FromContextError(err).Code() != tc.code &&
				status.Code(err) != tc.code || waited != tc.waits {
				t.Errorf("%s: %v after %v, want %v after %v", name, err, waited, tc.code, tc.waits)
			}
		}
		<-s.large
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, chatPath, nil)
		r.ContentLength = largeBody
		done, err := s.turn(r)
		if err != nil || len(s.large) != largeBodies {
			t.Fatalf("with a turn left: %v, %d are taken", err, len(s.large))
		}
		done()
		done()
		if len(s.large) != largeBodies-1 {
			t.Errorf("%d turns are taken after one was given back", len(s.large))
		}
	})
}

// TestLargeBodiesRun has more large requests answered at a time than there are turns: each gives
// its own back when its choices have begun, or when it is refused.
func TestLargeBodiesRun(t *testing.T) {
	var running sync.WaitGroup
	running.Add(2 * largeBodies)
	f := &fake{answer: func(out grpc.ServerStreamingServer[droverv1.GenerateResponse]) error {
		running.Done()
		running.Wait()
		return say("yes")(out)
	}}
	s := newFront(t, f, Options{})
	body := `{"messages":[{"role":"user","content":"` + strings.Repeat("x", largeBody) + `"}]`
	var asked sync.WaitGroup
	for i := range 2 * largeBodies {
		more := []string{"}", `,"stream":true}`}[i%2]
		asked.Go(func() {
			if code, text := s.post(t, chatPath, body+more); code != http.StatusOK {
				t.Errorf("status %d, %.200s", code, text)
			}
		})
	}
	asked.Wait()
	for range largeBodies + 1 {
		if code, _ := s.post(t, chatPath, body+`,"n":0}`); code != http.StatusBadRequest {
			t.Errorf("a bad one has status %d", code)
		}
	}
}
