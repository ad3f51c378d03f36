package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"drover/client"
	droverv1 "drover/proto/drover/v1"
)

// teller is a coordinator that knows one story, and is lost after some words of it.
type teller struct {
	droverv1.UnimplementedCoordinatorServiceServer
	words int
}

func (t teller) Generate(req *droverv1.GenerateRequest,
	out grpc.ServerStreamingServer[droverv1.GenerateResponse]) error {
	story := []string{"Once ", "there ", "was ", "a ", "fox."}
	started := &droverv1.Started{RequestId: "story-1"}
	begin := len(req.GetResume().GetTokenIds())
	if err := out.Send(&droverv1.GenerateResponse{
		Event: &droverv1.GenerateResponse_Started{Started: started}}); err != nil {
		return err
	}
	for i := begin; i < len(story); i++ {
		if i == begin+t.words {
			return status.Error(codes.Unavailable, "going down")
		}
		if err := out.Send(&droverv1.GenerateResponse{Event: &droverv1.GenerateResponse_Delta{
			Delta: &droverv1.Delta{TokenIds: []int32{int32(i)}, Text: story[i]}}}); err != nil {
			return err
		}
	}
	return out.Send(&droverv1.GenerateResponse{
		Event: &droverv1.GenerateResponse_Finished{Finished: &droverv1.Finished{}}})
}

// serve runs a coordinator on loopback.
func serve(t droverv1.CoordinatorServiceServer, opts ...grpc.ServerOption) (address string,
	stop func()) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	server := grpc.NewServer(opts...)
	droverv1.RegisterCoordinatorServiceServer(server, t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	return listener.Addr().String(), func() {
		server.Stop()
		<-ended
	}
}

// An answer of a pool in which each coordinator is lost after two words.
func Example() {
	first, stopFirst := serve(teller{words: 2})
	defer stopFirst()
	second, stopSecond := serve(teller{words: 2})
	defer stopSecond()

	pool, err := client.New(client.Options{
		Addresses:   []string{first, second},
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream := pool.Generate(ctx, &droverv1.GenerateRequest{
		Prompt: &droverv1.GenerateRequest_Text{Text: "Tell me a story about a fox."}})
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Print(message.GetDelta().GetText())
	}
	fmt.Printf("\nresumed %d times\n", stream.Resumes())
	// Output:
	// Once there was a fox.
	// resumed 2 times
}
