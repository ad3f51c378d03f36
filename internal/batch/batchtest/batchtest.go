// Package batchtest serves made-up coordinators to tests, without a network.
package batchtest

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	droverv1 "drover/proto/drover/v1"
)

// Serve connects to srv in this process, until the test ends.
func Serve(t testing.TB, srv droverv1.CoordinatorServiceServer) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer()
	droverv1.RegisterCoordinatorServiceServer(s, srv)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with s.Stop below
	}()
	conn, err := grpc.NewClient("passthrough:///bufconn",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return l.DialContext(ctx)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		<-done
	})
	return conn
}

// Generate is a coordinator that can only generate: it runs the function, which returns the
// answer's text and tokens.
type Generate func(context.Context, *droverv1.GenerateRequest) (string, []int32, error)

// Serve connects to g.
func (g Generate) Serve(t testing.TB) droverv1.CoordinatorServiceClient {
	return droverv1.NewCoordinatorServiceClient(Serve(t, generator{g: g}))
}

type generator struct {
	droverv1.UnimplementedCoordinatorServiceServer
	g Generate
}

func (s generator) Generate(
	req *droverv1.GenerateRequest, stream grpc.ServerStreamingServer[droverv1.GenerateResponse],
) error {
	text, tokens, err := s.g(stream.Context(), req)
	if err != nil {
		return err
	}
	return SendAnswer(stream, text, tokens)
}

// SendAnswer streams an answer in two deltas.
func SendAnswer(
	stream grpc.ServerStreamingServer[droverv1.GenerateResponse], text string, tokens []int32,
) error {
	half := len(tokens) / 2
	for _, r := range []*droverv1.GenerateResponse{
		{Event: &droverv1.GenerateResponse_Started{Started: &droverv1.Started{}}},
		{Event: &droverv1.GenerateResponse_Delta{Delta: &droverv1.Delta{
			TokenIds: tokens[:half],
		}}},
		{Event: &droverv1.GenerateResponse_Delta{Delta: &droverv1.Delta{
			TokenIds: tokens[half:], Text: text,
		}}},
		{Event: &droverv1.GenerateResponse_Finished{Finished: &droverv1.Finished{
			Reason: droverv1.FinishReason_FINISH_REASON_STOP,
		}}},
	} {
		if err := stream.Send(r); err != nil {
			return err
		}
	}
	return nil
}
