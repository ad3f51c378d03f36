package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"drover/coordinator"
	"drover/internal/limits"
	"drover/internal/role"
	"drover/kernel"
	"drover/model"
	"drover/moe"
	"drover/router"
)

// OverlapOptions says what to measure of steps whose micro-batches compute and travel by
// turns.
type OverlapOptions struct {
	// Nodes is the number of expert nodes in this process, behind gRPC on loopback. Zero
	// means 2.
	Nodes int
	// Plaintext has rows travel in plain text instead of by mutual TLS.
	Plaintext bool
	// Threads is the number of threads that compute, nodes and model together. Zero means
	// all processors.
	Threads int
	// Weights says where packed weights are kept.
	Weights role.Weights
	// Batch is the number of sequences that decode, PromptTokens the length of their
	// prompts. Zero means 32 and 128.
	Batch, PromptTokens int
	// Steps is how many steps are measured of each setting. Zero means 48.
	Steps int
	// Delays are one-way times that are added between the model and its nodes. No delay is
	// always measured, too. Nil means 1 and 5 ms.
	Delays []time.Duration
	// Progress, if not nil, is called after each round with how many are done.
	Progress func(done, total int)
}

func (o *OverlapOptions) setDefaults() {
	base := Options{Threads: o.Threads, Progress: o.Progress}
	base.setDefaults()
	o.Threads, o.Progress = base.Threads, base.Progress
	for _, d := range []struct {
		value *int
		zero  int
	}{{&o.Nodes, 2}, {&o.Batch, 32}, {&o.PromptTokens, 128}, {&o.Steps, 48}} {
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	if o.Delays == nil {
		o.Delays = []time.Duration{time.Millisecond, 5 * time.Millisecond}
	}
	if !slices.Contains(o.Delays, 0) {
		o.Delays = append([]time.Duration{0}, o.Delays...)
	}
	slices.Sort(o.Delays)
}

func (o *OverlapOptions) validate() error {
	base := Options{Batches: []int{o.Batch}, PromptTokens: o.PromptTokens, Threads: o.Threads,
		PieceTokens: 1}
	if err := base.validate(); err != nil {
		return err
	}
	switch {
	case o.Nodes < 1 || o.Nodes > maxNodes:
		return fmt.Errorf("number of nodes is %d, must be 1 to %d", o.Nodes, maxNodes)
	case o.Steps < 1 || o.Steps > 1<<16:
		return fmt.Errorf("number of steps is %d, must be 1 to %d", o.Steps, 1<<16)
	case len(o.Delays) > 8:
		return fmt.Errorf("%d delays, at most 8", len(o.Delays))
	}
	for _, d := range o.Delays {
		if d < 0 || d > time.Second {
			return fmt.Errorf("a delay of %v: must be 0 to 1s", d)
		}
	}
	return nil
}

// OverlapReport is what was measured.
type OverlapReport struct {
	Model string `json:"model"`
	Mode  string `json:"mode"`
	CPUs  int    `json:"cpus"`
	Nodes int    `json:"nodes"`
	// Transport is how rows travelled: mutual TLS or plain text.
	Transport string `json:"transport"`
	// Batch is the number of sequences, Layers that of layers with routed experts.
	Batch  int          `json:"batch"`
	Layers int          `json:"layers"`
	Runs   []OverlapRun `json:"runs"`
}

// OverlapRun is one setting.
type OverlapRun struct {
	// DelayMillis is the one-way time that was added.
	DelayMillis  float64 `json:"delay_ms"`
	MicroBatches int     `json:"micro_batches"`
	// StepMillis are the times of steps, TokensPerSecond is from their median.
	StepMillis      Spread  `json:"step_ms"`
	TokensPerSecond float64 `json:"tokens_per_second"`
	// OneWayMillis is what a trip took, with the delay; HereMillis and ThereMillis are the
	// times for one micro-batch and layer, in the model and at a node.
	OneWayMillis float64 `json:"one_way_ms"`
	HereMillis   float64 `json:"here_ms"`
	ThereMillis  float64 `json:"there_ms"`
	// Hiding is how many micro-batches hide the network by the formula, from these times.
	Hiding int `json:"hiding_micro_batches"`
	// Hidden is the part of the added time that did not make a step longer than the same
	// number of micro-batches without delay: 1 - (difference of medians) / (2 * delay *
	// layers). Absent without delay.
	Hidden *float64 `json:"hidden,omitempty"`
}

// Overlap measures decode steps of the model in dir with its experts on nodes, cut into 1
// to coordinator.MaxMicroBatches micro-batches, with delays added. Settings take turns.
func Overlap(ctx context.Context, dir string, mode kernel.Mode, opts OverlapOptions) (
	rep OverlapReport, err error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return OverlapReport{}, err
	}
	pool := kernel.NewPool(opts.Threads)
	defer pool.Close()
	how := opts.Weights.Options(mode, kernel.NewCPU(pool))
	m, err := role.OpenModel(dir, how)
	if err != nil {
		return OverlapReport{}, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	ns, err := startNodes(ctx, m, pool, opts.Nodes, opts.Plaintext)
	if err != nil {
		return OverlapReport{}, err
	}
	defer ns.Close()
	w := &overlapWork{opts: opts}
	for _, d := range opts.Delays {
		r, err := ns.route(m, router.Options{Lanes: coordinator.MaxMicroBatches,
			DialOptions: []grpc.DialOption{grpc.WithContextDialer(delayedDialer(d))}})
		if err != nil {
			return OverlapReport{}, err
		}
		w.routers = append(w.routers, r)
	}
	if w.l.m, err = model.Open(m.Checkpoint, how, &w.experts); err != nil {
		return OverlapReport{}, err
	}
	rep = OverlapReport{Model: m.Name(), Mode: mode.String(), CPUs: opts.Threads,
		Nodes: opts.Nodes, Transport: transport(opts.Plaintext), Batch: opts.Batch,
		Layers: len(m.Spec.MoE.Layers)}
	rep.Runs, err = w.measure(ctx, rep.Layers)
	return rep, err
}

// switched computes experts by whichever Router was set last.
type switched struct{ at atomic.Pointer[router.Router] }

func (s *switched) Forward(ctx context.Context, b *moe.Batch, meanwhile func()) error {
	return s.at.Load().Forward(ctx, b, meanwhile)
}

// overlapWork measures the settings by turns.
type overlapWork struct {
	opts    OverlapOptions
	routers []*router.Router // by delay
	experts switched
	l       local
	seqs    []model.Sequence
	words   vocabularyWalk
}

// overlapSetting is one setting and what was measured of it.
type overlapSetting struct {
	delay, parts int
	steps        []float64 // milliseconds
	here         time.Duration
	network      router.Network
}

// measure runs the settings by turns, a few steps each, and forgets the first round.
func (w *overlapWork) measure(ctx context.Context, layers int) ([]OverlapRun, error) {
	const turn = 8 // steps
	rounds := (w.opts.Steps+turn-1)/turn + 1
	if err := w.fill(ctx, rounds*turn); err != nil {
		return nil, err
	}
	var settings []*overlapSetting
	for d := range w.opts.Delays {
		for parts := 1; parts <= coordinator.MaxMicroBatches; parts++ {
			settings = append(settings, &overlapSetting{delay: d, parts: parts})
		}
	}
	for round := range rounds {
		w.opts.Progress(round, rounds)
		for _, s := range settings {
			if err := w.run(ctx, s, round*turn, turn, layers); err != nil {
				return nil, err
			}
			if round == 0 {
				s.steps = s.steps[:0]
			}
		}
	}
	w.opts.Progress(rounds, rounds)
	return w.report(settings, layers), nil
}

// fill runs the prompts.
func (w *overlapWork) fill(ctx context.Context, steps int) error {
	spec := w.l.m.Spec()
	tokens := w.opts.PromptTokens + steps
	if tokens > spec.MaxTokens {
		return fmt.Errorf("prompts of %d tokens and %d steps exceed the context of %d",
			w.opts.PromptTokens, steps, spec.MaxTokens)
	}
	w.words.size, w.l.pieceTokens = int32(spec.Vocabulary), 256
	blocks := slices.Repeat([]int{w.opts.Batch * blocksFor(tokens)}, len(spec.KV))
	var err error
	if w.l.cache, err = w.l.m.NewCache(blocks, blockTokens); err != nil {
		return err
	}
	w.experts.at.Store(w.routers[0])
	w.seqs = w.l.sequences(w.opts.Batch, tokens)
	for i := range w.seqs {
		if err := w.l.fill(ctx, &w.seqs[i], w.words.next(w.opts.PromptTokens)); err != nil {
			return err
		}
	}
	return nil
}

// run measures one turn of a setting. All settings decode the same positions.
func (w *overlapWork) run(
	ctx context.Context, s *overlapSetting, first, steps, layers int,
) error {
	r := w.routers[s.delay]
	w.experts.at.Store(r)
	b := model.Batch{Sequences: w.seqs, MicroBatches: s.parts}
	before := w.l.timings()
	for step := range steps {
		b.Tokens = w.words.next(len(w.seqs))
		for i := range w.seqs {
			q := &w.seqs[i]
			q.Start, q.Count, q.Logits = w.opts.PromptTokens+first+step, 1, 1
		}
		begin := time.Now()
		if err := w.l.m.Forward(ctx, w.l.cache, &b); err != nil {
			return err
		}
		s.steps = append(s.steps, float64(time.Since(begin))/1e6)
	}
	after := w.l.timings()
	busy := after.Attention + after.Gate + after.Shared + after.Other -
		before.Attention - before.Gate - before.Shared - before.Other
	s.here, s.network = busy/time.Duration(steps*layers*s.parts), r.Network()
	return nil
}

// report computes the results.
func (w *overlapWork) report(settings []*overlapSetting, layers int) []OverlapRun {
	var runs []OverlapRun
	medians := map[int]float64{} // without delay, by micro-batches
	for _, s := range settings {
		delay := w.opts.Delays[s.delay]
		run := OverlapRun{DelayMillis: millis(delay), MicroBatches: s.parts,
			StepMillis:   limits.SpreadOf(s.steps),
			OneWayMillis: millis(s.network.OneWay), HereMillis: millis(s.here),
			ThereMillis: millis(s.network.Node),
			Hiding: coordinator.HidingMicroBatches(s.network.OneWay,
				max(s.here, s.network.Node))}
		run.TokensPerSecond = 1e3 * float64(w.opts.Batch) / run.StepMillis.Median
		if delay == 0 {
			medians[s.parts] = run.StepMillis.Median
		} else {
			added := run.StepMillis.Median - medians[s.parts]
			hidden := 1 - added/(2*millis(delay)*float64(layers))
			run.Hidden = &hidden
		}
		runs = append(runs, run)
	}
	return runs
}

func millis(d time.Duration) float64 { return float64(d) / 1e6 }

// Text is the report as a table for people.
func (r OverlapReport) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, mode %s, %d sequences, %d layers with experts on %d nodes, %s, %d CPUs\n",
		r.Model, r.Mode, r.Batch, r.Layers, r.Nodes, r.Transport, r.CPUs)
	fmt.Fprintf(&b, "%8s %7s  %26s %8s  %8s %8s %8s %7s %7s\n", "delay", "micro-", "step, ms",
		"tokens", "one way", "here", "there", "formula", "hidden")
	fmt.Fprintf(&b, "%8s %7s  %8s %8s %8s %8s  %8s %8s %8s %7s\n", "ms", "batches", "min",
		"median", "max", "/s", "ms", "ms", "ms", "says")
	for _, x := range r.Runs {
		fmt.Fprintf(&b, "%8.3g %7d  %8.2f %8.2f %8.2f %8.0f  %8.2f %8.2f %8.2f %7d", x.DelayMillis,
			x.MicroBatches, x.StepMillis.Min, x.StepMillis.Median, x.StepMillis.Max,
			x.TokensPerSecond, x.OneWayMillis, x.HereMillis, x.ThereMillis, x.Hiding)
		if x.Hidden != nil {
			fmt.Fprintf(&b, " %6.0f%%", 100**x.Hidden)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
