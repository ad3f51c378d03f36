package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"drover/expertnode"
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
	m, err := role.OpenModel(dir, mode)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	l := &local{}
	experts, stop, err := l.experts(ctx, m, opts.Nodes)
	if err != nil {
		return Report{}, err
	}
	defer stop()
	if l.m, err = model.Open(m.Checkpoint, model.Options{Mode: mode}, experts); err != nil {
		return Report{}, err
	}
	if err := l.makeCache(); err != nil {
		return Report{}, err
	}
	rep = Report{Model: m.Name(), Mode: mode.String(), Where: "in process",
		CPUs: runtime.GOMAXPROCS(0)}
	if opts.Nodes > 0 {
		rep.Where = fmt.Sprintf("in process, %d expert nodes on loopback", opts.Nodes)
	}
	err = measure(ctx, l, &rep, opts)
	return rep, err
}

// maxNodes is more than anybody needs in one process.
const maxNodes = 64

// experts loads the experts, on n nodes or, for 0, here.
func (l *local) experts(
	ctx context.Context, m *role.Model, n int,
) (experts moe.Experts, stop func(), err error) {
	if n > 0 {
		ns, err := startNodes(ctx, m, n)
		if err != nil {
			return nil, nil, err
		}
		l.meter = ns.meter
		return ns, ns.Close, nil
	}
	host := expertnode.NewHost(m.Source, m.Mode, expertnode.HostOptions{})
	return host, func() {}, host.LoadAll(ctx)
}

// local is a model in this process.
type local struct {
	m     model.Model
	cache *model.Cache
	meter *meter // of computing on nodes; nil without them
	// Since the last share: the time in what was measured, and where the model spent it.
	busy  time.Duration
	spent model.Timings
	nodes time.Duration // part of spent.Experts in which a node computed
}

// blockTokens and pieceTokens are the engine's defaults: positions in a KV block, and tokens of
// one prompt in a step.
const (
	blockTokens = 16
	pieceTokens = 256
)

// makeCache makes a cache that all measurements use.
func (l *local) makeCache() (err error) {
	blocks := make([]int, len(l.m.Spec().KV))
	for g := range blocks {
		blocks[g] = max(maxBatch*blocksFor(decodePrompt+maxSteps), blocksFor(maxPrompt))
	}
	l.cache, err = l.m.NewCache(blocks, blockTokens)
	return err
}

func blocksFor(tokens int) int { return (tokens + blockTokens - 1) / blockTokens }

func (l *local) limits() (contextTokens, vocabulary int) {
	return l.m.Spec().MaxTokens, l.m.Spec().Vocabulary
}

func (l *local) prefill(ctx context.Context, prompt []int32) (time.Duration, error) {
	s := l.sequences(1, len(prompt))
	return l.timed(func() error { return l.fill(ctx, &s[0], prompt) })
}

func (l *local) decode(
	ctx context.Context, prompts [][]int32, steps int,
) (int, time.Duration, error) {
	seqs := l.sequences(len(prompts), len(prompts[0])+steps)
	for i := range seqs {
		if err := l.fill(ctx, &seqs[i], prompts[i]); err != nil {
			return 0, 0, err
		}
	}
	b := model.Batch{Tokens: make([]int32, len(seqs)), Sequences: seqs}
	took, err := l.timed(func() error {
		for step := range steps {
			for i := range seqs {
				seqs[i].Start, seqs[i].Count, seqs[i].Logits = len(prompts[i])+step, 1, 1
				b.Tokens[i] = prompts[i][step%len(prompts[i])]
			}
			if err := l.m.Forward(ctx, l.cache, &b); err != nil {
				return err
			}
		}
		return nil
	})
	return steps * len(seqs), took, err
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
		s.Start, s.Count, s.Logits = at, min(pieceTokens, len(prompt)-at), 0
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

// timed runs what is measured.
func (l *local) timed(do func() error) (time.Duration, error) {
	l.computing()
	before, begin := l.timings(), time.Now()
	err := do()
	took, after := time.Since(begin), l.timings()
	l.busy += took
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
