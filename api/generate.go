package api

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

// choice is one answer to a request.
type choice struct {
	index int
	// text and tokens are what has not been sent to the client yet.
	text     strings.Builder
	tokens   []*droverv1.TokenLogprobs
	released bool // of a stream: the text cannot become a tool call any more
	finish   *droverv1.Finished
	offset   int // characters of text before the tokens that come next
}

// take adds a delta to what has not been sent.
func (c *choice) take(d *droverv1.Delta) {
	c.text.WriteString(d.GetText())
	c.tokens = append(c.tokens, d.GetLogprobs()...)
}

// flush returns what has not been sent and forgets it.
func (c *choice) flush() (string, []*droverv1.TokenLogprobs) {
	text, tokens := c.text.String(), c.tokens
	c.text.Reset()
	c.tokens = nil
	return text, tokens
}

func (c *choice) finishReason() string {
	if c.finish.GetReason() == droverv1.FinishReason_FINISH_REASON_LENGTH {
		return "length"
	}
	return "stop"
}

// event is a message of one of the choices, or the error that ended it.
type event struct {
	index    int
	response *droverv1.GenerateResponse
	err      error
}

// generate runs the requests side by side and calls each with their messages, from this
// goroutine. The first error, also one of each's, cancels the others and is returned.
func (s *server) generate(ctx context.Context, requests []*droverv1.GenerateRequest,
	each func(index int, r *droverv1.GenerateResponse) error) error {
	runs, cancel := context.WithCancel(ctx)
	defer cancel()
	events := make(chan event)
	var running sync.WaitGroup
	for i, req := range requests {
		running.Go(func() {
			put := func(r *droverv1.GenerateResponse, err error) bool {
				select {
				case events <- event{i, r, err}:
					return true
				case <-runs.Done():
					return false
				}
			}
			s.follow(runs, req, put)
		})
	}
	go func() {
		running.Wait()
		close(events)
	}()
	var first error
	for e := range events {
		if first != nil {
			continue
		}
		if first = e.err; first == nil {
			first = each(e.index, e.response)
		}
		if first != nil {
			cancel()
		}
	}
	if first == nil {
		return ctx.Err()
	}
	return first
}

// follow hands a stream's messages to put until it ends or put refuses one.
func (s *server) follow(ctx context.Context, req *droverv1.GenerateRequest,
	put func(*droverv1.GenerateResponse, error) bool) {
	stream, err := s.coordinator.Generate(ctx, req)
	if err != nil {
		put(nil, err)
		return
	}
	finished := false
	for {
		r, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && finished:
			return
		case errors.Is(err, io.EOF):
			put(nil, status.Error(codes.Unavailable, "the answer broke off"))
			return
		}
		if !put(r, err) || err != nil {
			return
		}
		finished = finished || r.GetFinished() != nil
	}
}
