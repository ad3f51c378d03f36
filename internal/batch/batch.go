// Package batch asks a coordinator the prompts of a file and writes the answers to another.
//
// Each line of the prompts is a JSON object with "prompt" or "messages", and each line of the
// answers belongs to one of them, in the same order. Any number of lines is in the files; in
// memory are only those in flight and the few that wait for an earlier one.
package batch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/internal/answer"
	droverv1 "drover/proto/drover/v1"
)

// Options says what to ask and where the answers go. Prompts and Out are required.
type Options struct {
	// Prompts is the file to read: one JSON object a line, blank lines ignored.
	Prompts string
	// Out is the file to write. If it exists, Run goes on where it ends: see Run.
	Out string
	// Concurrency is the number of requests in flight. 1 is slow, since nothing shares a
	// step; more than the coordinator admits only wait. Zero means 16, at most 1024.
	Concurrency int
	// Defaults holds for lines that do not say otherwise.
	Defaults Defaults
	// Progress, if not nil, is called after each line with the number of lines done and of
	// lines in all.
	Progress func(done, total int)
}

// Defaults are the sampling parameters of lines that have none of their own; nil and 0 leave
// the choice to the coordinator.
type Defaults struct {
	Seed        *uint64
	Temperature *float32
	MaxTokens   uint32
}

// Summary counts what Run did.
type Summary struct {
	// Lines is the number of answers in the file, Errors of those that hold an error.
	Lines, Errors int
	// Resumed is the number of lines that an earlier run had left.
	Resumed int
}

const maxConcurrency = 1024

func (o *Options) setDefaults() {
	if o.Concurrency == 0 {
		o.Concurrency = 16
	}
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
}

func (o *Options) validate() error {
	switch {
	case o.Prompts == "":
		return errors.New("no file of prompts given")
	case o.Out == "":
		return errors.New("no file for the answers given")
	case o.Concurrency < 0 || o.Concurrency > maxConcurrency:
		return fmt.Errorf("concurrency is %d, must be 1 to %d", o.Concurrency, maxConcurrency)
	}
	in, err := os.Stat(o.Prompts)
	if err != nil {
		return err
	}
	out, err := os.Stat(o.Out)
	if err == nil && os.SameFile(in, out) {
		return fmt.Errorf("%s holds the prompts and cannot take the answers", o.Out)
	}
	return nil
}

// Run asks every line of opts.Prompts and writes an answer line for each to opts.Out, in order.
//
// If opts.Out exists, its longest beginning of whole lines whose ids are those of the prompts is
// kept and the rest is cut off. It ends before the first answer that holds an error too, unless
// the prompt's line is still refused for the same reason: what failed for the time being is asked
// again, with what follows it.
//
// A line that cannot be read or answered gets an answer with its error; Run goes on. The error
// that Run returns is about the files, ctx, or a coordinator that is not there from the start.
// What was answered until then stays in opts.Out. Ids need not be unique, since answers are in
// order; a line without one has its number as id.
func Run(
	ctx context.Context, client droverv1.CoordinatorServiceClient, opts Options,
) (Summary, error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return Summary{}, err
	}
	if err := answer.Reachable(ctx, client); err != nil {
		return Summary{}, err
	}
	prompts, err := os.Open(opts.Prompts)
	if err != nil {
		return Summary{}, err
	}
	defer prompts.Close()
	total, err := countLines(prompts)
	if err != nil {
		return Summary{}, fmt.Errorf("read %s: %w", opts.Prompts, err)
	}
	out, err := os.OpenFile(opts.Out, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return Summary{}, err
	}
	in := NewLines(prompts)
	sum, err := resume(out, in)
	if err == nil {
		r := run{opts: opts, client: client, out: out, sum: sum, total: total}
		err = r.all(ctx, in)
		sum = r.sum
	}
	return sum, errors.Join(err, finish(out))
}

// finish brings the answers and their file's name to the disk.
func finish(out *os.File) error {
	err := errors.Join(out.Sync(), out.Close())
	dir, openErr := os.Open(filepath.Dir(out.Name()))
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	// Some file systems cannot sync a folder; the answers themselves are safe by now.
	_ = dir.Sync()
	return errors.Join(err, dir.Close())
}

// run is one Run under way.
type run struct {
	opts   Options
	client droverv1.CoordinatorServiceClient
	out    *os.File
	sum    Summary // written by the goroutine that writes answers
	total  int
	gone   atomic.Bool // the last line waited for the coordinator in vain: do not wait for each
}

// all asks the lines that are left. A bounded queue of answers to come, in order, holds back the
// reader when one slow answer keeps many finished ones from being written.
func (r *run) all(ctx context.Context, in *Lines) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pending := make(chan chan record, 4*r.opts.Concurrency)
	readErr := make(chan error, 1)
	go func() {
		readErr <- r.ask(ctx, in, pending)
		close(pending)
	}()
	err := r.write(ctx, pending)
	cancel(err)
	for range pending { // let the reader end
	}
	return errors.Join(err, <-readErr)
}

// ask reads prompts and starts a request for each, at most Concurrency at once. It returns when
// all of them have ended.
func (r *run) ask(ctx context.Context, in *Lines, pending chan<- chan record) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	free := make(chan struct{}, r.opts.Concurrency)
	for {
		l, ok, err := in.Next()
		if err != nil {
			return fmt.Errorf("read %s: %w", r.opts.Prompts, err)
		}
		if !ok {
			return nil
		}
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return nil // write reports it
		}
		slot := make(chan record, 1)
		wg.Go(func() {
			slot <- r.one(ctx, l)
			<-free
		})
		select {
		case pending <- slot:
		case <-ctx.Done():
			return nil
		}
	}
}

// write appends the answers in order until the last, an error, or the end of ctx.
func (r *run) write(ctx context.Context, pending <-chan chan record) error {
	r.opts.Progress(r.sum.Lines, r.total)
	for slot := range pending {
		a := <-slot
		if a.unfinished {
			return context.Cause(ctx)
		}
		text, err := a.line()
		if err != nil {
			return err
		}
		if _, err := r.out.Write(text); err != nil {
			return err // names the file
		}
		r.sum.Lines++
		if a.Error != "" {
			r.sum.Errors++
		}
		r.opts.Progress(r.sum.Lines, r.total)
	}
	return context.Cause(ctx)
}

// one asks one line.
func (r *run) one(ctx context.Context, l Line) record {
	p, err := parsePrompt(l)
	if err != nil {
		return record{ID: p.id, Tokens: []int32{}, Error: err.Error()}
	}
	ask := answer.AskPatiently
	if r.gone.Load() {
		ask = answer.Ask
	}
	res, err := ask(ctx, r.client, p.request(r.opts.Defaults))
	r.gone.Store(answer.MayComeBack(err))
	a := record{ID: p.id, Tokens: []int32{}}
	if err != nil {
		a.unfinished = ctx.Err() != nil
		a.Error = oneLine(err)
		return a
	}
	a.Text, a.Tokens, a.Reason = res.Text, append(a.Tokens, res.Tokens...), res.Reason
	return a
}

// oneLine is an error for a person: a coordinator's without gRPC's wrapping.
func oneLine(err error) string {
	s, ok := status.FromError(err)
	if !ok || s.Code() == codes.OK {
		return err.Error()
	}
	return s.Code().String() + ": " + s.Message()
}
