package bench

import (
	"context"
	"errors"
	"runtime"
	"time"

	"drover/expertnode"
	"drover/internal/role"
	"drover/kernel"
	"drover/model"
)

// Local measures the model in dir in this process: the forward pass alone, with all experts
// here, without scheduling or sampling.
func Local(ctx context.Context, dir string, mode kernel.Mode, opts Options) (Report, error) {
	m, err := role.OpenModel(dir, mode)
	if err != nil {
		return Report{}, err
	}
	host := expertnode.NewHost(m.Source, mode, expertnode.HostOptions{})
	if err := host.LoadAll(ctx); err != nil {
		return Report{}, errors.Join(err, m.Close())
	}
	loaded, err := model.Open(m.Checkpoint, mode, host)
	if err != nil {
		return Report{}, errors.Join(err, m.Close())
	}
	rep := Report{Model: m.Name(), Mode: mode.String(), Where: "in process",
		CPUs: runtime.GOMAXPROCS(0)}
	l, err := newLocal(loaded)
	if err == nil {
		err = measure(ctx, l, &rep, opts)
	}
	return rep, errors.Join(err, m.Close())
}

// local is a model in this process.
type local struct {
	m     model.Model
	cache *model.Cache
	// Since the last share: the time in what was measured, and where the model spent it.
	busy  time.Duration
	spent model.Timings
}

// blockTokens and pieceTokens are the engine's defaults: positions in a KV block, and tokens of
// one prompt in a step.
const (
	blockTokens = 16
	pieceTokens = 256
)

func newLocal(m model.Model) (*local, error) {
	blocks := make([]int, len(m.Spec().KV))
	for g := range blocks {
		blocks[g] = max(maxBatch*blocksFor(decodePrompt+maxSteps), blocksFor(maxPrompt))
	}
	cache, err := m.NewCache(blocks, blockTokens)
	return &local{m: m, cache: cache}, err
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
	before, begin := l.timings(), time.Now()
	err := do()
	took, after := time.Since(begin), l.timings()
	l.busy += took
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

func (l *local) share() *Share {
	t, busy := l.spent, l.busy
	l.spent, l.busy = model.Timings{}, 0
	if t == (model.Timings{}) || busy <= 0 {
		return nil
	}
	part := func(d time.Duration) float64 { return float64(d) / float64(busy) }
	s := &Share{
		Attention: part(t.Attention), Gate: part(t.Gate), Shared: part(t.Shared),
		Experts: part(t.Experts), Head: part(t.Head), Other: part(t.Other),
	}
	s.Idle = max(0, 1-s.Attention-s.Gate-s.Shared-s.Experts-s.Head-s.Other)
	return s
}
