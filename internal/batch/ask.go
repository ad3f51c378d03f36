package batch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	droverv1 "drover/proto/drover/v1"
)

// Answer is a whole answer.
type Answer struct {
	Text   string
	Tokens []int32
	// Logprobs has one entry for each token, if they were asked for.
	Logprobs []*droverv1.TokenLogprobs
	// Reason is "stop" or "length".
	Reason string
	// Started and Finished are the stream's first and last event.
	Started  *droverv1.Started
	Finished *droverv1.Finished
}

// Ask sends one request and collects its answer.
func Ask(
	ctx context.Context, client droverv1.CoordinatorServiceClient, req *droverv1.GenerateRequest,
) (Answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream on every way out
	stream, err := client.Generate(ctx, req)
	if err != nil {
		return Answer{}, err
	}
	var a Answer
	var text strings.Builder
	for {
		r, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && a.Finished == nil:
			return Answer{}, status.Error(codes.Unavailable, "the answer broke off")
		case errors.Is(err, io.EOF):
			a.Text = text.String()
			return a, nil
		case err != nil:
			return Answer{}, err
		}
		switch e := r.Event.(type) {
		case *droverv1.GenerateResponse_Started:
			a.Started = e.Started
		case *droverv1.GenerateResponse_Delta:
			text.WriteString(e.Delta.Text)
			a.Tokens = append(a.Tokens, e.Delta.TokenIds...)
			a.Logprobs = append(a.Logprobs, e.Delta.Logprobs...)
		case *droverv1.GenerateResponse_Finished:
			a.Finished = e.Finished
			if a.Reason, err = reasonName(e.Finished.Reason); err != nil {
				return Answer{}, err
			}
		}
	}
}

func reasonName(r droverv1.FinishReason) (string, error) {
	switch r {
	case droverv1.FinishReason_FINISH_REASON_STOP:
		return "stop", nil
	case droverv1.FinishReason_FINISH_REASON_LENGTH:
		return "length", nil
	}
	return "", fmt.Errorf("the coordinator finished for an unknown reason, %v", r)
}

// AskPatiently is Ask for work that may wait: while the coordinator is full or away it tries
// again, six times over about six seconds. Trying again is safe, since a request changes nothing.
func AskPatiently(
	ctx context.Context, client droverv1.CoordinatorServiceClient, req *droverv1.GenerateRequest,
) (Answer, error) {
	const tries = 7
	wait := 100 * time.Millisecond
	for try := 1; ; try++ {
		a, err := Ask(ctx, client, req)
		if try == tries || !mayComeBack(err) {
			return a, err
		}
		select {
		case <-time.After(wait):
			wait *= 2
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		}
	}
}

// mayComeBack says whether an error passes when the coordinator has room or is there again.
func mayComeBack(err error) bool {
	c := status.Code(err)
	return c == codes.Unavailable || c == codes.ResourceExhausted
}

// Reachable returns an error at once if no coordinator answers.
func Reachable(ctx context.Context, client droverv1.CoordinatorServiceClient) error {
	_, err := client.Describe(ctx, &droverv1.DescribeRequest{})
	if c := status.Code(err); c == codes.Unavailable || ctx.Err() != nil {
		return err
	}
	return nil
}
