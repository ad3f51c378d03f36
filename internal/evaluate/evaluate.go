// Package evaluate measures how many questions of a file a model answers exactly.
//
// A question counts as answered if greedy generation gives the expected text, whole, and then
// ends by itself: no byte is trimmed, and text after the answer makes it wrong.
package evaluate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"drover/internal/answer"
	"drover/internal/batch"
	droverv1 "drover/proto/drover/v1"
)

// Options says what to ask. File is required.
type Options struct {
	// File holds the questions: a JSON object a line with "id", "task", "messages", "tools"
	// and "expected". Other fields are ignored.
	File string
	// Concurrency is the number of requests in flight. Zero means 16, at most 1024.
	Concurrency int
	// MaxTokens ends answers that do not end by themselves, and it must exceed the longest
	// expected answer. Zero means 512.
	MaxTokens uint32
	// Progress, if not nil, is called after each question with the number of questions done
	// and in all. Calls do not overlap.
	Progress func(done, total int)
}

// Result is the outcome of a Run.
type Result struct {
	// Accuracy is the share of N questions that were answered exactly, 0 if N is 0.
	Accuracy float64 `json:"accuracy"`
	// N is the number of questions asked, Correct the number answered exactly.
	N       int `json:"n"`
	Correct int `json:"correct"`
	// Tasks holds the same numbers for each task.
	Tasks map[string]Task `json:"tasks"`
	// Skipped is the number of questions with images, which are not asked and not in N.
	Skipped int `json:"skipped"`
	// Missed lists the questions that were not answered exactly, in the file's order.
	Missed []Miss `json:"missed"`
}

// Task is the outcome of the questions of one task.
type Task struct {
	Accuracy float64 `json:"accuracy"`
	N        int     `json:"n"`
	Correct  int     `json:"correct"`
}

// Miss is a question that was not answered exactly.
type Miss struct {
	ID       string `json:"id"`
	Expected string `json:"expected"`
	Answer   string `json:"answer"`
}

const maxConcurrency = 1024

func (o *Options) setDefaults() {
	if o.Concurrency == 0 {
		o.Concurrency = 16
	}
	if o.MaxTokens == 0 {
		o.MaxTokens = 512
	}
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
}

func (o *Options) validate() error {
	switch {
	case o.File == "":
		return errors.New("no file of questions given")
	case o.Concurrency < 0 || o.Concurrency > maxConcurrency:
		return fmt.Errorf("concurrency is %d, must be 1 to %d", o.Concurrency, maxConcurrency)
	}
	return nil
}

// question is a line of the file.
type question struct {
	ID       string          `json:"id"`
	Task     string          `json:"task"`
	Messages json.RawMessage `json:"messages"`
	Tools    json.RawMessage `json:"tools"`
	Expected *string         `json:"expected"`

	chat   *droverv1.Chat
	answer string
	exact  bool
}

// Run asks every question of the file once. A question that cannot be read or asked ends it with
// an error: a number over part of the questions would mean something else.
func Run(
	ctx context.Context, client droverv1.CoordinatorServiceClient, opts Options,
) (Result, error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return Result{}, err
	}
	questions, skipped, err := read(opts.File)
	if err != nil {
		return Result{}, err
	}
	if err := answer.Reachable(ctx, client); err != nil {
		return Result{}, err
	}
	if err := askAll(ctx, client, opts, questions); err != nil {
		return Result{}, err
	}
	res := tally(questions)
	res.Skipped = skipped
	return res, nil
}

// read reads the questions without images and counts the others.
func read(name string) (questions []question, skipped int, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	for lines := batch.NewLines(f); ; {
		l, ok, err := lines.Next()
		if err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", name, err)
		}
		if !ok {
			break
		}
		q, err := parse(l)
		switch {
		case errors.Is(err, batch.ErrImage):
			skipped++
		case err != nil:
			return nil, 0, fmt.Errorf("%s: line %d: %w", name, l.Number, err)
		default:
			questions = append(questions, q)
		}
	}
	if len(questions)+skipped == 0 {
		return nil, 0, fmt.Errorf("%s: holds no questions", name)
	}
	return questions, skipped, nil
}

func parse(l batch.Line) (question, error) {
	q := question{}
	if l.Text == nil {
		return q, errors.New("too long")
	}
	if err := json.Unmarshal(l.Text, &q); err != nil {
		return q, err
	}
	if q.Expected == nil {
		return q, errors.New(`field "expected": missing`)
	}
	if q.ID == "" {
		q.ID = fmt.Sprint(l.Number)
	}
	var err error
	q.chat, err = batch.ParseChat(q.Messages, q.Tools)
	return q, err
}

// askAll asks the questions, Concurrency at once, and stops at the first error.
func askAll(
	ctx context.Context, client droverv1.CoordinatorServiceClient, opts Options,
	questions []question,
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	opts.Progress(0, len(questions))
	next := make(chan *question)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards done, and keeps calls of Progress apart
	done := 0
	for range min(opts.Concurrency, len(questions)) {
		wg.Go(func() {
			for q := range next {
				if err := q.ask(ctx, client, opts.MaxTokens); err != nil {
					cancel(fmt.Errorf("ask %s: %w", q.ID, err))
					return
				}
				mu.Lock()
				done++
				opts.Progress(done, len(questions))
				mu.Unlock()
			}
		})
	}
feed:
	for i := range questions {
		select {
		case next <- &questions[i]:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

func (q *question) ask(
	ctx context.Context, client droverv1.CoordinatorServiceClient, maxTokens uint32,
) error {
	greedy := float32(0)
	a, err := answer.AskPatiently(ctx, client, &droverv1.GenerateRequest{
		Prompt:    &droverv1.GenerateRequest_Chat{Chat: q.chat},
		Sampling:  &droverv1.Sampling{Temperature: &greedy},
		MaxTokens: maxTokens,
	})
	if err != nil {
		return err
	}
	q.answer = a.Text
	q.exact = a.Text == *q.Expected && a.Reason == "stop"
	return nil
}

func tally(questions []question) Result {
	res := Result{Tasks: map[string]Task{}, Missed: []Miss{}}
	for _, q := range questions {
		t := res.Tasks[q.Task]
		t.N++
		res.N++
		if q.exact {
			t.Correct++
			res.Correct++
		} else {
			res.Missed = append(res.Missed, Miss{q.ID, *q.Expected, q.answer})
		}
		t.Accuracy = share(t.Correct, t.N)
		res.Tasks[q.Task] = t
	}
	res.Accuracy = share(res.Correct, res.N)
	return res
}

func share(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}
