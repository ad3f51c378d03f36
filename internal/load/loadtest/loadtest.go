// Package loadtest is a made-up coordinator whose tokens come when a test says so, without a
// network, so that it runs under testing/synctest.
package loadtest

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc"

	droverv1 "drover/proto/drover/v1"
)

// Token is one message of an answer: its tokens, and how long it comes after the one before.
type Token struct {
	After time.Duration
	// Wait, if not nil, runs then, before the message comes.
	Wait func()
	IDs  []int32
	Text string
}

// Client answers a request with what the function returns; an error comes after the tokens.
type Client func(*droverv1.GenerateRequest) ([]Token, error)

// Generate streams the answer.
func (c Client) Generate(
	ctx context.Context, req *droverv1.GenerateRequest, _ ...grpc.CallOption,
) (grpc.ServerStreamingClient[droverv1.GenerateResponse], error) {
	tokens, err := c(req)
	return &stream{ctx: ctx, tokens: tokens, err: err}, nil
}

// Describe tells a little of what is served.
func (Client) Describe(
	context.Context, *droverv1.DescribeRequest, ...grpc.CallOption,
) (*droverv1.DescribeResponse, error) {
	return &droverv1.DescribeResponse{Model: "made-up", NumericMode: "bf16"}, nil
}

// Score is not served.
func (Client) Score(
	context.Context, *droverv1.ScoreRequest, ...grpc.CallOption,
) (grpc.ServerStreamingClient[droverv1.ScoreResponse], error) {
	return nil, io.ErrUnexpectedEOF
}

// stream is one answer under way.
type stream struct {
	grpc.ClientStream
	ctx      context.Context
	tokens   []Token
	err      error
	finished bool
}

func (s *stream) Recv() (*droverv1.GenerateResponse, error) {
	switch {
	case len(s.tokens) > 0:
		t := s.tokens[0]
		s.tokens = s.tokens[1:]
		select {
		case <-time.After(t.After):
		case <-s.ctx.Done():
			return nil, s.ctx.Err()
		}
		if t.Wait != nil {
			t.Wait()
		}
		return &droverv1.GenerateResponse{Event: &droverv1.GenerateResponse_Delta{
			Delta: &droverv1.Delta{TokenIds: t.IDs, Text: t.Text}}}, nil
	case s.err != nil:
		return nil, s.err
	case !s.finished:
		s.finished = true
		return &droverv1.GenerateResponse{Event: &droverv1.GenerateResponse_Finished{
			Finished: &droverv1.Finished{Reason: droverv1.FinishReason_FINISH_REASON_STOP}}}, nil
	}
	return nil, io.EOF
}
