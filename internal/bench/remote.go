package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"
	"time"

	droverv1 "drover/proto/drover/v1"
)

// Remote measures a coordinator that is served elsewhere, as a client sees it: with scheduling,
// sampling and the network. Where names it in the report.
func Remote(
	ctx context.Context, client droverv1.CoordinatorServiceClient, where string, opts Options,
) (Report, error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return Report{}, err
	}
	d, err := client.Describe(ctx, &droverv1.DescribeRequest{})
	if err != nil {
		return Report{}, err
	}
	rep := Report{Model: d.Model, Mode: d.NumericMode, Where: where, CPUs: runtime.GOMAXPROCS(0)}
	err = measure(ctx, &remote{client: client, served: d}, &rep, opts)
	return rep, err
}

type remote struct {
	client droverv1.CoordinatorServiceClient
	served *droverv1.DescribeResponse
}

func (r *remote) limits() (contextTokens, vocabulary int) {
	return int(r.served.ContextTokens), int(r.served.VocabularySize)
}

// share is not seen from outside.
func (r *remote) share() *Share { return nil }

// prefill is the time to the first token, as the coordinator reports it.
func (r *remote) prefill(ctx context.Context, prompt []int32) (timing, error) {
	var took time.Duration
	err := r.generate(ctx, prompt, 1, func(e *droverv1.GenerateResponse) {
		if f := e.GetFinished(); f != nil {
			took = time.Duration(f.FirstTokenMicros) * time.Microsecond
		}
	})
	return timing{tokens: len(prompt), wall: took}, err
}

// run is one sequence's answer: when its first and last token came, by the coordinator's own
// clock from the moment that the request was sent, and how many tokens there were.
type run struct {
	first, last time.Time
	tokens      int
}

// decode measures while all sequences run: from the last one's first token to the first one's
// end. The coordinator tells these times, since a busy client reads late and many tokens at once.
//
// When they all run is up to the coordinator: on a busy machine a short one may end before
// the last one's first token, and then they run again.
func (r *remote) decode(ctx context.Context, prompts [][]int32, steps int) ([]timing, error) {
	const tries = 5
	for try := 1; ; try++ {
		runs, err := r.generateAll(ctx, prompts, 3*steps)
		if err != nil {
			return nil, err
		}
		n, window, err := together(runs)
		if err == nil || try == tries {
			return []timing{{tokens: n, wall: window}}, err
		}
	}
}

// generateAll generates so many tokens for each prompt, all at once.
func (r *remote) generateAll(ctx context.Context, prompts [][]int32, tokens int) ([]run, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	runs := make([]run, len(prompts))
	var wg sync.WaitGroup
	for i, p := range prompts {
		wg.Go(func() {
			sent := time.Now()
			err := r.generate(ctx, p, tokens, func(e *droverv1.GenerateResponse) {
				if f := e.GetFinished(); f != nil {
					runs[i] = run{sent.Add(time.Duration(f.FirstTokenMicros) * time.Microsecond),
						sent.Add(time.Duration(f.TotalMicros) * time.Microsecond), int(f.TokenCount)}
				}
			})
			if err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return runs, context.Cause(ctx)
}

// together counts the tokens of the time in which all runs were under way; within a run tokens
// come evenly.
func together(runs []run) (int, time.Duration, error) {
	from, to := runs[0].first, runs[0].last
	for _, r := range runs {
		if r.first.After(from) {
			from = r.first
		}
		if r.last.Before(to) {
			to = r.last
		}
	}
	window, tokens := to.Sub(from), 0.0
	for _, r := range runs {
		if whole := r.last.Sub(r.first); whole > 0 {
			tokens += float64(r.tokens-1) * float64(window) / float64(whole)
		}
	}
	if window <= 0 || tokens < 1 {
		return 0, 0, fmt.Errorf("%d sequences never ran together", len(runs))
	}
	return int(math.Round(tokens)), window, nil
}

// generate runs one request past any end token and calls event for each message.
func (r *remote) generate(
	ctx context.Context, prompt []int32, tokens int, event func(*droverv1.GenerateResponse),
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream on every way out
	zero := float32(0)
	stream, err := r.client.Generate(ctx, &droverv1.GenerateRequest{
		Prompt:    &droverv1.GenerateRequest_Tokens{Tokens: &droverv1.Tokens{Ids: prompt}},
		Sampling:  &droverv1.Sampling{Temperature: &zero},
		MaxTokens: uint32(tokens),
		IgnoreEos: true,
	})
	if err != nil {
		return err
	}
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		event(e)
	}
}
