package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
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
func (r *remote) prefill(ctx context.Context, prompt []int32) (time.Duration, error) {
	var took time.Duration
	err := r.generate(ctx, prompt, 1, func(e *droverv1.GenerateResponse) {
		if f := e.GetFinished(); f != nil {
			took = time.Duration(f.FirstTokenMicros) * time.Microsecond
		}
	})
	return took, err
}

// arrivals notes when tokens came.
type arrivals struct {
	mu    sync.Mutex // guards the fields below
	left  int        // sequences without a token
	all   time.Time  // when the last of them had one
	count int        // tokens since then, until the first sequence ended
	last  time.Time
	ended bool
}

func (a *arrivals) token(n int, first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if first {
		if a.left--; a.left == 0 {
			a.all, a.last = now, now
		}
		return
	}
	if a.left == 0 && !a.ended {
		a.count += n
		a.last = now
	}
}

func (a *arrivals) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
}

// decode counts the tokens that come while all sequences run: from the last one's first token to
// the first one's end.
func (r *remote) decode(
	ctx context.Context, prompts [][]int32, steps int,
) (int, time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := &arrivals{left: len(prompts)}
	var wg sync.WaitGroup
	for _, p := range prompts {
		wg.Go(func() {
			first := true
			err := r.generate(ctx, p, 3*steps, func(e *droverv1.GenerateResponse) {
				if d := e.GetDelta(); d != nil && len(d.TokenIds) > 0 {
					a.token(len(d.TokenIds), first)
					first = false
				}
			})
			a.end()
			if err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, 0, err
	}
	if a.count == 0 {
		return 0, 0, fmt.Errorf("%d sequences never ran together", len(prompts))
	}
	return a.count, a.last.Sub(a.all), nil
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
