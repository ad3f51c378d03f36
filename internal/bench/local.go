package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"drover/expertnode"
	"drover/internal/limits"
	"drover/internal/role"
	"drover/kernel"
	"drover/model"
	"drover/moe"
)

// Local measures the model in dir in this process: the forward pass alone, without scheduling or
// sampling. Its experts are computed here, or with opts.Nodes on expert nodes behind gRPC.
func Local(
	ctx context.Context, dir string, mode kernel.Mode, opts Options,
) (rep Report, err error) {
	if opts.Nodes < 0 || opts.Nodes > maxNodes {
		return Report{}, fmt.Errorf("number of nodes is %d, must be 0 to %d", opts.Nodes, maxNodes)
	}
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return Report{}, err
	}
	begun, cpu := time.Now(), limits.ProcessTime()
	pool := kernel.NewPool(opts.Threads)
	defer pool.Close()
	how := opts.Weights.Options(mode, kernel.NewCPU(pool))
	m, err := role.OpenModel(dir, how)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	l := &local{pieceTokens: opts.PieceTokens}
	experts, stop, err := l.experts(ctx, m, pool, opts)
	if err != nil {
		return Report{}, err
	}
	defer stop()
	if l.m, err = model.Open(m.Checkpoint, how, experts); err != nil {
		return Report{}, err
	}
	start := Start{Seconds: time.Since(begun).Seconds(),
		CPUSeconds: (limits.ProcessTime() - cpu).Seconds()}
	if err := l.makeCache(opts); err != nil {
		return Report{}, err
	}
	// As a role has it, once it is loaded: room for the runtime beside the threads.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(opts.Threads + 2))
	rep = Report{Model: m.Name(), Mode: mode.String(), Where: where(opts.Nodes, opts.Plaintext),
		CPUs: opts.Threads}
	err = measure(ctx, l, &rep, opts)
	start.Memory = limits.MemoryInUse()
	rep.Start = &start
	return rep, err
}

// maxNodes is more than anybody needs in one process.
const maxNodes = 64

// experts loads the experts, on nodes or, without them, here.
func (l *local) experts(
	ctx context.Context, m *role.Model, pool *kernel.Pool, opts Options,
) (experts moe.Experts, stop func(), err error) {
	if opts.Nodes > 0 {
		ns, err := startNodes(ctx, m, pool, opts.Nodes, opts.Plaintext)
		if err != nil {
			return nil, nil, err
		}
		l.meter = ns.meter
		return ns, ns.Close, nil
	}
	host := expertnode.NewHost(m.Source, m.Mode, expertnode.HostOptions{Device: m.Device})
	return host, func() {}, host.LoadAll(ctx)
}

// local is a model in this process.
type local struct {
	m     model.Model
	cache *model.Cache
	meter *meter // of computing on nodes; nil without them
	// counted, if not nil, counts what measured steps read.
	counted *countedExperts
	// pieceTokens is how many tokens of a prompt a step runs.
	pieceTokens int
	// Since the last share: the time in what was measured, and where the model spent it.
	busy  time.Duration
	spent model.Timings
	nodes time.Duration // part of spent.Experts in which a node computed
}

// blockTokens is the engine's default: positions in a KV block.
const blockTokens = 16

// makeCache makes a cache that all measurements use.
func (l *local) makeCache(opts Options) (err error) {
	blocks := make([]int, len(l.m.Spec().KV))
	for g := range blocks {
		blocks[g] = 1
		for _, c := range opts.plan(l.m.Spec().MaxTokens, maxSteps) {
			blocks[g] = max(blocks[g], c.batch*blocksFor(c.prompt+maxSteps))
		}
	}
	l.cache, err = l.m.NewCache(blocks, blockTokens)
	return err
}

func blocksFor(tokens int) int { return (tokens + blockTokens - 1) / blockTokens }

func (l *local) limits() (contextTokens, vocabulary int) {
	return l.m.Spec().MaxTokens, l.m.Spec().Vocabulary
}

func (l *local) prefill(ctx context.Context, prompt []int32) (timing, error) {
	s := l.sequences(1, len(prompt))
	return l.timed(len(prompt), func() error { return l.fill(ctx, &s[0], prompt) })
}

func (l *local) decode(ctx context.Context, prompts [][]int32, steps int) ([]timing, error) {
	seqs := l.sequences(len(prompts), len(prompts[0])+steps)
	for i := range seqs {
		if err := l.fill(ctx, &seqs[i], prompts[i]); err != nil {
			return nil, err
		}
	}
	words := vocabularyWalk{size: int32(l.m.Spec().Vocabulary), state: uint64(prompts[0][0])}
	b := model.Batch{Sequences: seqs}
	var timings []timing
	for step := range steps {
		b.Tokens = words.next(len(seqs))
		for i := range seqs {
			seqs[i].Start, seqs[i].Count, seqs[i].Logits = len(prompts[i])+step, 1, 1
		}
		t, err := l.timed(len(seqs), func() error { return l.m.Forward(ctx, l.cache, &b) })
		if err != nil {
			return nil, err
		}
		timings = append(timings, t)
	}
	return timings, nil
}

// sequences gives each of n sequences its blocks.
func (l *local) sequences(n, tokens int) []model.Sequence {
	each := blocksFor(tokens)
	seqs := make([]model.Sequence, n)
	for i := range seqs {
		table := make([]int32, each)
		for j := range table {
			table[j] = int32(i*each + j)
		}
		for range l.m.Spec().KV {
			seqs[i].Tables = append(seqs[i].Tables, table)
		}
	}
	return seqs
}

// fill runs a prompt in pieces, as the engine does.
func (l *local) fill(ctx context.Context, s *model.Sequence, prompt []int32) error {
	for at := 0; at < len(prompt); at += s.Count {
		s.Start, s.Count, s.Logits = at, min(l.pieceTokens, len(prompt)-at), 0
		if at+s.Count == len(prompt) {
			s.Logits = 1
		}
		b := model.Batch{Tokens: prompt[at : at+s.Count], Sequences: []model.Sequence{*s}}
		if err := l.m.Forward(ctx, l.cache, &b); err != nil {
			return err
		}
	}
	return nil
}

// timed runs what is measured, with so many tokens.
func (l *local) timed(tokens int, do func() error) (timing, error) {
	l.computing()
	if l.counted != nil {
		l.counted.on = true
		defer func() { l.counted.on = false }()
	}
	before, cpu, begin := l.timings(), limits.ProcessTime(), time.Now()
	err := do()
	took := timing{tokens, time.Since(begin), limits.ProcessTime() - cpu}
	after := l.timings()
	l.busy += took.wall
	l.nodes += l.computing()
	l.spent.Attention += after.Attention - before.Attention
	l.spent.Gate += after.Gate - before.Gate
	l.spent.Shared += after.Shared - before.Shared
	l.spent.Experts += after.Experts - before.Experts
	l.spent.Head += after.Head - before.Head
	l.spent.Other += after.Other - before.Other
	return took, err
}

// timings is zero for a model that does not tell.
func (l *local) timings() model.Timings {
	if t, ok := l.m.(interface{ Timings() model.Timings }); ok {
		return t.Timings()
	}
	return model.Timings{}
}

// computing is the time since the last call in which a node computed and the model waited.
func (l *local) computing() time.Duration {
	if l.meter == nil {
		return 0
	}
	return l.meter.taken()
}

func (l *local) share() *Share {
	t, busy, wire := l.spent, l.busy, time.Duration(0)
	if l.meter != nil {
		wire = max(0, t.Experts-l.nodes)
	}
	l.spent, l.busy, l.nodes = model.Timings{}, 0, 0
	if t == (model.Timings{}) || busy <= 0 {
		return nil
	}
	part := func(d time.Duration) float64 { return float64(d) / float64(busy) }
	s := &Share{
		Attention: part(t.Attention), Gate: part(t.Gate), Shared: part(t.Shared),
		Experts: part(t.Experts - wire), Wire: part(wire), Head: part(t.Head), Other: part(t.Other),
	}
	s.Idle = max(0, 1-s.Attention-s.Gate-s.Shared-s.Experts-s.Wire-s.Head-s.Other)
	return s
}
