package client

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	droverv1 "drover/proto/drover/v1"
)

// Service is the pool behind the generated interface, for code that is written against
// that: answers are resumed, Describe is asked of any coordinator, again if that one is
// lost. Score is asked of any, once.
//
// The streams of its Generate also have the methods Resumes and Close of Stream.
func (c *Client) Service() droverv1.CoordinatorServiceClient { return service{c} }

type service struct{ c *Client }

func (s service) Generate(ctx context.Context, req *droverv1.GenerateRequest,
	opts ...grpc.CallOption) (grpc.ServerStreamingClient[droverv1.GenerateResponse], error) {
	return &serviceStream{s.c.generate(ctx, req, opts)}, nil
}

func (s service) Score(ctx context.Context, req *droverv1.ScoreRequest,
	opts ...grpc.CallOption) (grpc.ServerStreamingClient[droverv1.ScoreResponse], error) {
	e, err := s.c.pick(ctx, nil)
	if err != nil {
		return nil, err
	}
	s.c.release(e) // it is not known when such a stream ends
	return e.coordinator.Score(ctx, req, opts...)
}

func (s service) Describe(ctx context.Context, req *droverv1.DescribeRequest,
	opts ...grpc.CallOption) (*droverv1.DescribeResponse, error) {
	var last *endpoint
	for tries := 0; ; tries++ {
		e, err := s.c.pick(ctx, last)
		if err != nil {
			return nil, err
		}
		r, err := e.coordinator.Describe(ctx, req, opts...)
		s.c.release(e)
		if status.Code(err) != codes.Unavailable || tries > len(s.c.endpoints) {
			return r, err
		}
		s.c.suspect(e)
		last = e
	}
}

// serviceStream is a Stream with the methods that gRPC's streams have beside Recv.
type serviceStream struct{ *Stream }

// Header is empty: each of several coordinators has its own.
func (s *serviceStream) Header() (metadata.MD, error) { return nil, nil }

// Trailer is empty, like Header.
func (s *serviceStream) Trailer() metadata.MD { return nil }

// CloseSend does nothing: the request has been sent.
func (s *serviceStream) CloseSend() error { return nil }

// Context is the stream's own.
func (s *serviceStream) Context() context.Context { return s.ctx }

// SendMsg refuses: there is one request.
func (s *serviceStream) SendMsg(any) error {
	return status.Error(codes.Internal, "a stream of an answer takes no message")
}

// RecvMsg is Recv into m.
func (s *serviceStream) RecvMsg(m any) error {
	r, err := s.Recv()
	if err == nil {
		proto.Merge(m.(proto.Message), r)
	}
	return err
}
