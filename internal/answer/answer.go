// Package answer asks a coordinator for answers and collects their streams.
package answer

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
	// Resumes is how often the answer went on at another coordinator; 0 for a client of one.
	Resumes int
}

// resumer is a stream of a client that resumes answers.
type resumer interface{ Resumes() int }

// FirstToken is the time from the request's arrival at the coordinator to its first token.
func (a *Answer) FirstToken() time.Duration {
	return time.Duration(a.Finished.GetFirstTokenMicros()) * time.Microsecond
}

// TokensPerSecond is the rate of tokens after the first. It is 0 of an answer that was
// resumed: no coordinator knows its times.
func (a *Answer) TokensPerSecond() float64 {
	total := time.Duration(a.Finished.GetTotalMicros()) * time.Microsecond
	if a.Resumes > 0 || len(a.Tokens) < 2 || total <= a.FirstToken() {
		return 0
	}
	return float64(len(a.Tokens)-1) / (total - a.FirstToken()).Seconds()
}

// Chat makes a request of one user's message.
func Chat(prompt string) *droverv1.GenerateRequest {
	return Conversation([]*droverv1.ChatMessage{{Role: "user", Content: prompt}})
}

// Conversation makes a request of a conversation.
func Conversation(messages []*droverv1.ChatMessage) *droverv1.GenerateRequest {
	return &droverv1.GenerateRequest{Prompt: &droverv1.GenerateRequest_Chat{
		Chat: &droverv1.Chat{Messages: messages}}}
}

// Ask sends one request and collects its answer.
func Ask(
	ctx context.Context, client droverv1.CoordinatorServiceClient, req *droverv1.GenerateRequest,
) (*Answer, error) {
	return Stream(ctx, client, req, func(string) {})
}

// Stream is Ask that also calls each with the text as it comes.
func Stream(ctx context.Context, client droverv1.CoordinatorServiceClient,
	req *droverv1.GenerateRequest, each func(text string)) (*Answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream on every way out
	stream, err := client.Generate(ctx, req)
	if err != nil {
		return nil, err
	}
	a := &Answer{}
	var text strings.Builder
	for {
		r, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && a.Finished == nil:
			return nil, status.Error(codes.Unavailable, "the answer broke off")
		case errors.Is(err, io.EOF):
			a.Text = text.String()
			if r, ok := stream.(resumer); ok {
				a.Resumes = r.Resumes()
			}
			return a, nil
		case err != nil:
			return nil, err
		}
		switch e := r.Event.(type) {
		case *droverv1.GenerateResponse_Started:
			a.Started = e.Started
		case *droverv1.GenerateResponse_Delta:
			text.WriteString(e.Delta.Text)
			each(e.Delta.Text)
			a.Tokens = append(a.Tokens, e.Delta.TokenIds...)
			a.Logprobs = append(a.Logprobs, e.Delta.Logprobs...)
		case *droverv1.GenerateResponse_Finished:
			a.Finished = e.Finished
			if a.Reason, err = reasonName(e.Finished.Reason); err != nil {
				return nil, err
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
