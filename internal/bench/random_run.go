package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"drover/expertnode"
	"drover/internal/limits"
	"drover/internal/role"
	"drover/kernel"
	"drover/kernel/cuda"
	"drover/model"
	"drover/moe"
)

// RandomOptions says what to measure of a model with random weights.
type RandomOptions struct {
	// Options are those of a local model; its Weights are not used.
	Options
	// Shape is one of RandomShapes.
	Shape string
	// Layers is how many the model has. Zero means as many as the device has memory for, at most
	// all; a CPU has no memory of its own, and gets as few as there can be.
	Layers int
	// Device is what computes, as role.ParseDevice reads it: the model and each of its nodes.
	Device string
	// Within bounds the time after which no further measurement begins. Zero means an hour.
	Within time.Duration
}

// RandomReport is what was measured of a model with random weights.
type RandomReport struct {
	Report
	Device string `json:"device"`
	Shape  string `json:"shape"`
	// Layers is how many the model has, of WholeLayers; ExpertLayers have experts.
	Layers       int `json:"layers"`
	WholeLayers  int `json:"whole_layers"`
	ExpertLayers int `json:"expert_layers"`
	// Weights is the size of all packed weights.
	WeightBytes int64 `json:"weight_bytes"`
	// ReadGBps is what a GPU read from its memory at most, measured before the model was loaded.
	ReadGBps *Spread `json:"read_gbps,omitempty"`
	// Bounds are those of the runs that decode, in their order.
	Bounds []StepBound `json:"bounds"`
	// LeftOut names what the time did not suffice for.
	LeftOut []string `json:"left_out"`
}

// StepBound is what a decode step reads: all weights that it needs, each once, and keys and
// values.
type StepBound struct {
	Batch int   `json:"batch"`
	Bytes int64 `json:"bytes"`
	// TokensPerSecond is what reading that at ReadGBps allows, and Fraction the part of it that is
	// reached; absent without ReadGBps.
	TokensPerSecond float64 `json:"tokens_per_second,omitempty"`
	Fraction        float64 `json:"fraction,omitempty"`
}

// countedExperts counts the bytes of experts that batches need, while it is on.
type countedExperts struct {
	moe.Experts
	each         int64
	on           bool
	bytes, calls int64
}

func (c *countedExperts) Forward(ctx context.Context, b *moe.Batch, meanwhile func()) error {
	if c.on {
		c.calls++
		c.bytes += c.each * int64(len(b.Experts))
	}
	return c.Experts.Forward(ctx, b, meanwhile)
}

// take returns the mean of a call, and begins anew.
func (c *countedExperts) take() float64 {
	mean := float64(c.bytes) / float64(max(1, c.calls))
	c.bytes, c.calls = 0, 0
	return mean
}

// Random measures a model with random weights of a known shape in this process: its layers are
// alike, so that a few tell of all.
func Random(ctx context.Context, mode kernel.Mode, opts RandomOptions) (
	rep RandomReport, err error) {
	opts.setDefaults()
	if opts.Within <= 0 {
		opts.Within = time.Hour
	}
	deadline := time.Now().Add(opts.Within)
	shape, err := findShape(opts.Shape)
	if err == nil {
		err = errors.Join(opts.validate(), shape.checkLayers(opts.Layers))
	}
	if err != nil {
		return rep, err
	}
	if opts.Nodes < 0 || opts.Nodes > maxNodes {
		return rep, fmt.Errorf("number of nodes is %d, must be 0 to %d", opts.Nodes, maxNodes)
	}
	device, done, err := role.OpenDevice(opts.compute(), mode, nil)
	if err != nil {
		return rep, err
	}
	defer done()
	rep = RandomReport{Device: opts.Device, Shape: shape.name, WholeLayers: shape.layers,
		Bounds: []StepBound{}, LeftOut: []string{}}
	if rep.ReadGBps, err = readLimit(device, shape.name == "small"); err != nil {
		return rep, err
	}
	dir, remove, err := makeRandom(ctx, shape, opts.Layers, func(dir string) (int, error) {
		gpu, ok := device.(cuda.Accelerator)
		if !ok {
			return shape.step, nil
		}
		free, _, err := gpu.MemoryInfo()
		if err != nil {
			return 0, err
		}
		return shape.fitting(dir, mode, free, opts.mostPositions())
	})
	if err != nil {
		return rep, err
	}
	defer remove()
	how := model.Options{Mode: mode, Device: device,
		Store: &patternStore{made: map[kernel.Shape]*kernel.Matrix{}}}
	return rep, rep.run(ctx, dir, how, opts, deadline)
}

func (o *RandomOptions) compute() role.Compute {
	return role.Compute{Device: o.Device, Threads: o.Threads}
}

// readLimit measures a GPU's memory; nil for a CPU.
func readLimit(d kernel.Device, small bool) (*Spread, error) {
	gpu, ok := d.(cuda.Accelerator)
	if !ok {
		return nil, nil
	}
	var rates []float64
	for range limitSamples {
		rate, err := gpu.Measure(cuda.LimitRead, small)
		if err != nil {
			return nil, err
		}
		rates = append(rates, rate/1e9)
	}
	s := limits.SpreadOf(rates)
	return &s, nil
}

// run loads the model in dir and measures it.
func (rep *RandomReport) run(ctx context.Context, dir string, how model.Options,
	opts RandomOptions, deadline time.Time) (err error) {
	begun, cpu := time.Now(), limits.ProcessTime()
	m, err := role.OpenModel(dir, how)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	l := &local{pieceTokens: opts.PieceTokens}
	experts, stop, err := l.randomExperts(ctx, m, how, opts)
	if err != nil {
		return err
	}
	defer stop()
	l.counted = &countedExperts{Experts: experts, each: m.Source.Spec().ReplicaBytes}
	if l.m, err = model.Open(m.Checkpoint, how, l.counted); err != nil {
		return err
	}
	start := Start{Seconds: time.Since(begun).Seconds(),
		CPUSeconds: (limits.ProcessTime() - cpu).Seconds()}
	if err := l.makeCache(opts.Options); err != nil {
		return err
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(opts.Threads + 2)) // as in Local
	spec := l.m.Spec()
	rep.Report = Report{Model: opts.Shape + ", random", Mode: how.Mode.String(),
		Where: where(opts.Nodes, opts.Plaintext), CPUs: opts.Threads}
	rep.Layers, rep.ExpertLayers = spec.Layers, len(spec.MoE.Layers)
	rep.WeightBytes = model.PackedBytes(m.Checkpoint, how.Mode)
	err = rep.measure(ctx, l, opts, deadline)
	start.Memory = limits.MemoryInUse()
	rep.Start = &start
	return err
}

func where(nodes int, plaintext bool) string {
	if nodes > 0 {
		return fmt.Sprintf("in process, %d expert nodes on loopback, %s", nodes, transport(plaintext))
	}
	return "in process"
}

// randomExperts is experts, where each node has a device of its own.
func (l *local) randomExperts(ctx context.Context, m *role.Model, how model.Options,
	opts RandomOptions) (moe.Experts, func(), error) {
	if opts.Nodes == 0 {
		host := expertnode.NewHost(m.Source, m.Mode, expertnode.HostOptions{Device: m.Device})
		return host, func() {}, host.LoadAll(ctx)
	}
	ns, err := startNodesOn(ctx, m, opts.Nodes, opts.Plaintext, func() (hosting, error) {
		var on hosting
		var err error
		if on.device, on.done, err = role.OpenDevice(opts.compute(), m.Mode, nil); err != nil {
			return on, err
		}
		own := how
		own.Device = on.device
		if on.source, err = model.OpenExperts(m.Checkpoint, own); err != nil {
			on.done()
		}
		return on, err
	})
	if err != nil {
		return nil, nil, err
	}
	l.meter = ns.meter
	return ns, ns.Close, nil
}

// measure fills rep.Runs and rep.Bounds.
func (rep *RandomReport) measure(ctx context.Context, l *local, opts RandomOptions,
	deadline time.Time) error {
	repetitions, steps := 5, maxSteps
	if opts.Quick {
		repetitions, steps = 1, 8
	}
	contextTokens, vocabulary := l.limits()
	words := &vocabularyWalk{size: int32(vocabulary)}
	cells := opts.plan(contextTokens, maxSteps)
	for i, c := range cells {
		opts.Progress(i, len(cells))
		what := fmt.Sprintf("%s of %d × %d tokens", c.kind, c.batch, c.prompt)
		if !time.Now().Before(deadline) {
			rep.LeftOut = append(rep.LeftOut, what+": the time is up")
			continue
		}
		run, err := c.run(ctx, l, words, repetitions, steps)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		rep.Runs = append(rep.Runs, run)
		perCall := l.counted.take()
		if c.kind == "decode" {
			rep.Bounds = append(rep.Bounds, rep.bound(l.m.Spec(), run, perCall, steps))
		}
	}
	opts.Progress(len(cells), len(cells))
	return nil
}

// bound says what a step of a run reads, where a layer's experts are so many bytes.
func (rep *RandomReport) bound(s model.Spec, r Run, experts float64, steps int) StepBound {
	layers := float64(len(s.MoE.Layers))
	own := rep.WeightBytes - int64(len(s.MoE.Layers)*s.MoE.Experts)*s.MoE.ReplicaBytes
	bytes := float64(own) + layers*experts
	for _, g := range s.KV {
		positions := r.PromptTokens + steps/2
		if g.Chunk > 0 {
			positions = min(positions, g.Chunk)
		}
		bytes += float64(r.Batch * positions * g.RowBytes)
	}
	b := StepBound{Batch: r.Batch, Bytes: int64(bytes)}
	if rep.ReadGBps != nil {
		b.TokensPerSecond = float64(r.Batch) / (bytes / (rep.ReadGBps.Median * 1e9))
		b.Fraction = r.TokensPerSecond.Median / b.TokensPerSecond
	}
	return b
}

// Text is the report as a table for people.
func (rep RandomReport) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d layers of %s, %.1f GB of weights, on %s\n", rep.Layers, rep.WholeLayers,
		rep.Shape, float64(rep.WeightBytes)/1e9, rep.Device)
	b.WriteString(rep.Report.Text())
	for _, x := range rep.Bounds {
		fmt.Fprintf(&b, "a step of batch %d reads %.3f GB", x.Batch, float64(x.Bytes)/1e9)
		if x.TokensPerSecond > 0 {
			fmt.Fprintf(&b, ": at most %.0f tokens/s by memory, of which %.0f%% are reached",
				x.TokensPerSecond, 100*x.Fraction)
		}
		b.WriteByte('\n')
	}
	for _, x := range rep.LeftOut {
		fmt.Fprintf(&b, "not measured: %s\n", x)
	}
	return b.String()
}
