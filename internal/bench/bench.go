// Package bench measures how fast a model runs: prefill and decode in tokens per second, and
// where the time goes.
package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"drover/internal/limits"
	"drover/internal/role"
)

// Options says what to measure. The zero value measures everything.
type Options struct {
	// Quick measures less of everything, for a look.
	Quick bool
	// Nodes puts the experts of a local model on so many expert nodes in this process, which
	// are reached through gRPC on loopback. Zero computes them without a wire.
	Nodes int
	// Plaintext has rows travel to these nodes in plain text instead of by mutual TLS.
	Plaintext bool
	// Threads is the number of threads that a local model computes with, once it is loaded. Zero
	// means all processors.
	Threads int
	// Weights says where a local model's packed weights are kept.
	Weights role.Weights
	// Batches are the numbers of sequences that decode together, Prompts the lengths of prompts
	// that are run alone. Nil means 1, 8, 32 and 16, 128, 512. What does not fit the context is
	// left out.
	Batches, Prompts []int
	// PromptTokens is the length of each prompt before decode, 128 if it is zero.
	PromptTokens int
	// PieceTokens is how many tokens of a prompt a local model runs in a step. Zero means the
	// engine's default, 256.
	PieceTokens int
	// Progress, if not nil, is called after each measurement with how many are done.
	Progress func(done, total int)
}

// Report is what was measured.
type Report struct {
	// Model and Mode are what ran, and Where says how it was reached.
	Model string `json:"model"`
	Mode  string `json:"mode"`
	Where string `json:"where"`
	// CPUs is the number of threads that a local model computes with, or else of processors that
	// this process may use.
	CPUs int   `json:"cpus"`
	Runs []Run `json:"runs"`
	// Start is what it cost to make a local model ready.
	Start *Start `json:"start,omitempty"`
}

// Start is the cost of a local model in this process.
type Start struct {
	// Seconds is the time until it was loaded, CPUSeconds that of all threads together.
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"`
	// Memory is what the process held after the measurements.
	limits.Memory
}

// Run is one measurement, repeated.
type Run struct {
	// Kind is "prefill" or "decode".
	Kind string `json:"kind"`
	// Batch is the number of sequences, PromptTokens the length of each one's prompt.
	Batch        int `json:"batch"`
	PromptTokens int `json:"prompt_tokens"`
	// TokensPerSecond counts the tokens of all sequences. A local model's decode has a sample
	// for each step, all else one for each repetition.
	TokensPerSecond Spread `json:"tokens_per_second"`
	// TokensPerCPUSecond is by the CPU time of all threads of a local model's process.
	TokensPerCPUSecond *Spread `json:"tokens_per_cpu_second,omitempty"`
	// Share is the part of the time spent in each place, summing to 1; absent where it cannot
	// be seen from outside.
	Share *Share `json:"share,omitempty"`
}

// Spread is the range of repeated measurements.
type Spread = limits.Spread

// Share is where time went. Experts is waiting for experts beyond the shared expert's time while
// they are computed, Wire the rest of that waiting; without nodes nothing crosses a wire.
type Share struct {
	Attention float64 `json:"attention"`
	Gate      float64 `json:"gate"`
	Shared    float64 `json:"shared_experts"`
	Experts   float64 `json:"experts"`
	Wire      float64 `json:"wire"`
	Head      float64 `json:"head"`
	Other     float64 `json:"other"`
	Idle      float64 `json:"idle"`
}

// subject is a model to measure.
type subject interface {
	// limits tells the longest sequence and the size of the vocabulary.
	limits() (contextTokens, vocabulary int)
	// prefill runs one prompt and returns the time to its first token.
	prefill(ctx context.Context, prompt []int32) (timing, error)
	// decode runs the prompts and then generates steps tokens for each; it returns how many
	// tokens were generated in which times, all sequences running.
	decode(ctx context.Context, prompts [][]int32, steps int) ([]timing, error)
	// share tells where the time of the calls since the last one went, nil if unknown.
	share() *Share
}

// timing is a number of tokens and the time that they took; cpu is 0 where it is unknown.
type timing struct {
	tokens    int
	wall, cpu time.Duration
}

// cell is one measurement to make.
type cell struct {
	kind          string
	batch, prompt int
}

// The largest measurements.
const (
	maxBatch        = 512
	maxPromptTokens = 1 << 20
	maxSteps        = 32
)

func (o *Options) setDefaults() {
	if o.Batches == nil {
		o.Batches = []int{1, 8, 32}
	}
	if o.Prompts == nil {
		o.Prompts = []int{16, 128, 512}
	}
	if o.PromptTokens == 0 {
		o.PromptTokens = 128
	}
	if o.Threads == 0 {
		o.Threads = limits.Processors()
	}
	if o.PieceTokens == 0 {
		o.PieceTokens = 256
	}
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
}

func (o *Options) validate() error {
	for _, n := range o.Batches {
		if n < 1 || n > maxBatch {
			return fmt.Errorf("a batch of %d sequences: must be 1 to %d", n, maxBatch)
		}
	}
	for _, n := range slices.Concat(o.Prompts, []int{o.PromptTokens, o.PieceTokens}) {
		if n < 1 || n > maxPromptTokens {
			return fmt.Errorf("a prompt or piece of %d tokens: must be 1 to %d", n, maxPromptTokens)
		}
	}
	if o.Threads < 0 || o.Threads > maxThreads {
		return fmt.Errorf("%d threads: must be 1 to %d", o.Threads, maxThreads)
	}
	return nil
}

// measure fills rep.Runs.
func measure(ctx context.Context, s subject, rep *Report, opts Options) error {
	repetitions, steps := 5, maxSteps
	if opts.Quick {
		repetitions, steps = 2, 8
	}
	contextTokens, vocabulary := s.limits()
	if vocabulary < 2 {
		return fmt.Errorf("the model has a vocabulary of %d", vocabulary)
	}
	cells := opts.plan(contextTokens, steps)
	if len(cells) == 0 {
		return fmt.Errorf("a context of %d tokens is too short to measure", contextTokens)
	}
	words := &vocabularyWalk{size: int32(vocabulary)}
	for i, c := range cells {
		opts.Progress(i, len(cells))
		run, err := c.run(ctx, s, words, repetitions, steps)
		if err != nil {
			return fmt.Errorf("%s of %d × %d tokens: %w", c.kind, c.batch, c.prompt, err)
		}
		rep.Runs = append(rep.Runs, run)
	}
	opts.Progress(len(cells), len(cells))
	return nil
}

// plan lists the cells that fit the context.
func (o *Options) plan(contextTokens, steps int) []cell {
	var cells []cell
	for _, n := range o.Prompts {
		if n+1 <= contextTokens {
			cells = append(cells, cell{"prefill", 1, n})
		}
	}
	prompt := min(o.PromptTokens, contextTokens-steps-1)
	if prompt < 1 {
		return cells
	}
	for _, b := range o.Batches {
		cells = append(cells, cell{"decode", b, prompt})
	}
	return cells
}

// run measures one cell, after one repetition that does not count.
func (c cell) run(
	ctx context.Context, s subject, words *vocabularyWalk, repetitions, steps int,
) (Run, error) {
	var rates, cpuRates []float64
	for i := range repetitions + 1 {
		timings, err := c.once(ctx, s, words, steps)
		if err != nil {
			return Run{}, err
		}
		if i == 0 {
			s.share() // forget the warm-up
			continue
		}
		for _, t := range timings {
			if t.wall <= 0 {
				return Run{}, errors.New("took no time that could be measured")
			}
			rates = append(rates, float64(t.tokens)/t.wall.Seconds())
			if t.cpu > 0 {
				cpuRates = append(cpuRates, float64(t.tokens)/t.cpu.Seconds())
			}
		}
	}
	r := Run{Kind: c.kind, Batch: c.batch, PromptTokens: c.prompt,
		TokensPerSecond: limits.SpreadOf(rates), Share: s.share()}
	if len(cpuRates) > 0 {
		spread := limits.SpreadOf(cpuRates)
		r.TokensPerCPUSecond = &spread
	}
	return r, nil
}

func (c cell) once(
	ctx context.Context, s subject, words *vocabularyWalk, steps int,
) ([]timing, error) {
	if c.kind == "prefill" {
		t, err := s.prefill(ctx, words.next(c.prompt))
		return []timing{t}, err
	}
	prompts := make([][]int32, c.batch)
	for i := range prompts {
		prompts[i] = words.next(c.prompt)
	}
	return s.decode(ctx, prompts, steps)
}

// vocabularyWalk makes prompts that differ from each other and visit many experts; the same ones
// in every process.
type vocabularyWalk struct {
	size  int32
	state uint64
}

func (w *vocabularyWalk) next(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		w.state = w.state*6364136223846793005 + 1442695040888963407
		ids[i] = int32((w.state >> 33) % uint64(w.size))
	}
	return ids
}

// Text is the report as a table for people.
func (r Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, mode %s, %s, %d CPUs\n", r.Model, r.Mode, r.Where, r.CPUs)
	if s := r.Start; s != nil {
		fmt.Fprintf(&b, "loaded in %.1f s with %.1f s of CPU time; at most %d MiB in memory, at the end "+
			"%d MiB and %d MiB of files\n", s.Seconds, s.CPUSeconds, s.PeakBytes>>20,
			s.AnonymousBytes>>20, s.FileBytes>>20)
	}
	fmt.Fprintf(&b, "%-8s %5s %6s  %10s %10s %10s", "", "batch", "prompt",
		"min tok/s", "median", "max")
	if len(r.Runs) > 0 && r.Runs[0].Share != nil {
		fmt.Fprintf(&b, "  attention experts shared  gate  head other  wire  idle")
	}
	b.WriteByte('\n')
	for _, run := range r.Runs {
		t := run.TokensPerSecond
		fmt.Fprintf(&b, "%-8s %5d %6d  %10.0f %10.0f %10.0f", run.Kind, run.Batch,
			run.PromptTokens, t.Min, t.Median, t.Max)
		if s := run.Share; s != nil {
			fmt.Fprintf(&b, "  %8.0f%% %6.0f%% %5.0f%% %4.0f%% %4.0f%% %4.0f%% %4.0f%% %4.0f%%",
				100*s.Attention, 100*s.Experts, 100*s.Shared, 100*s.Gate, 100*s.Head,
				100*s.Other, 100*s.Wire, 100*s.Idle)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
