// Package answer asks a coordinator for one answer and collects its stream.
package answer

import (
	"context"
	"errors"
	"io"
	"time"

	droverv1 "drover/proto/drover/v1"
)

// Answer is a finished answer.
type Answer struct {
	Text   string
	Tokens int
	// FirstToken and Total run from the request's arrival at the coordinator.
	FirstToken, Total time.Duration
	Reason            droverv1.FinishReason
}

// TokensPerSecond is the rate of tokens after the first.
func (a *Answer) TokensPerSecond() float64 {
	if a.Tokens < 2 || a.Total <= a.FirstToken {
		return 0
	}
	return float64(a.Tokens-1) / (a.Total - a.FirstToken).Seconds()
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

// Stream sends a request and calls each with the text as it comes.
func Stream(ctx context.Context, client droverv1.CoordinatorServiceClient,
	req *droverv1.GenerateRequest, each func(text string)) (*Answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Generate(ctx, req)
	if err != nil {
		return nil, err
	}
	a := &Answer{}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, err
		}
		if text := r.GetDelta().GetText(); text != "" {
			a.Text += text
			each(text)
		}
		if f := r.GetFinished(); f != nil {
			a.Tokens, a.Reason = int(f.TokenCount), f.Reason
			a.FirstToken = time.Duration(f.FirstTokenMicros) * time.Microsecond
			a.Total = time.Duration(f.TotalMicros) * time.Microsecond
		}
	}
}
