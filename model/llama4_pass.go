package model

import (
	"context"

	"drover/kernel"
	"drover/moe"
)

// Forward runs one step: layer by layer, and in each layer micro-batch by micro-batch.
// While the rows of one micro-batch are at the experts, the next ones compute. A later
// micro-batch attends in a layer after the earlier ones have stored their keys and
// values there, so a prompt may be cut between two of them.
func (m *llama4) Forward(ctx context.Context, c *Cache, b *Batch) error {
	s := &m.cfg.spec
	if err := b.check(c, s); err != nil {
		return err
	}
	m.clock.start()
	passes := m.split(b)
	for _, p := range passes {
		if err := p.prepare(); err != nil {
			return err
		}
	}
	if err := m.run(ctx, c, passes); err != nil {
		return err
	}
	return m.finish(b, passes)
}

// run takes the passes through the layers.
func (m *llama4) run(ctx context.Context, c *Cache, passes []*llama4Pass) error {
	if len(passes) > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer func() {
			cancel()
			abandon(passes)
		}()
	}
	for i := range m.layers {
		for _, p := range passes {
			if err := p.layer(ctx, c, i); err != nil {
				return err
			}
		}
	}
	for _, p := range passes {
		if err := p.land(); err != nil {
			return err
		}
	}
	return nil
}

// split gives each micro-batch its pass.
func (m *llama4) split(b *Batch) []*llama4Pass {
	m.splits = b.split(m.splits)
	for len(m.passes) < len(m.splits) {
		m.passes = append(m.passes, m.newPass())
	}
	passes := m.passes[:len(m.splits)]
	for i, p := range passes {
		p.batch, p.alone = &m.splits[i], len(passes) == 1
	}
	return passes
}

// finish computes the logits that the passes of a batch ask for, all in one product.
func (m *llama4) finish(b *Batch, passes []*llama4Pass) error {
	first := &passes[0].step
	n := 0
	for _, p := range passes {
		n += p.pickRows(p.batch)
	}
	if err := first.sizeLogits(n, &m.cfg.spec); err != nil {
		return err
	}
	at := 0
	for _, p := range passes {
		p.gatherPicked(first.picked.Slice(at, at+len(p.pick)))
		at += len(p.pick)
	}
	return first.computeLogits(b, m.norm, m.cfg.eps, m.head)
}

// llama4Pass takes one micro-batch through the layers.
type llama4Pass struct {
	m     *llama4
	batch *Batch
	alone bool // the only one of its step

	step
	rope        rope
	temperature []float32   // of each token
	factors     kernel.Rows // the same in the device's memory, (tokens, 1)
	gates       kernel.Rows // (tokens, experts)
	routes      moe.Routes
	plan        *moe.Plan
	current     *llama4Layer // whose shared expert runs while rows are away
	shared      func()
	away        bool       // rows are at the experts
	back        chan error // what became of them
}

func (m *llama4) newPass() *llama4Pass {
	p := &llama4Pass{m: m, rope: m.cfg.rope, back: make(chan error, 1)}
	p.step = step{device: m.device, attend: m.attend, clock: &m.clock}
	p.plan = moe.NewPlan(m.device, m.cfg.spec.MoE.Experts, moe.ScaleInput, m.mode)
	p.shared = p.runShared
	return p
}

// prepare makes what all layers of a step need.
func (p *llama4Pass) prepare() error {
	cfg, b := p.m.cfg, p.batch
	err := p.begin(b, cfg.spec.Hidden, cfg.heads*cfg.headDim, cfg.kvHeads*cfg.headDim)
	if err != nil {
		return err
	}
	if err := p.rope.prepare(p.device, b); err != nil {
		return err
	}
	if cfg.tempTuning {
		p.temperature = p.temperature[:0]
		for i := range b.Sequences {
			seq := &b.Sequences[i]
			for pos := seq.Start; pos < seq.Start+seq.Count; pos++ {
				p.temperature = append(p.temperature, cfg.temperature(pos))
			}
		}
		if err := write(p.device, &p.factors, p.temperature, 1); err != nil {
			return err
		}
	}
	p.device.Embed(p.x, p.m.embed, b.Tokens)
	p.lap(&p.timings.Other)
	return nil
}

// layer takes in what the experts of the layer before computed, runs layer i and, if
// it has routed experts, leaves with the rows on their way.
func (p *llama4Pass) layer(ctx context.Context, c *Cache, i int) error {
	if err := p.land(); err != nil {
		return err
	}
	d, cfg, layer := p.device, p.m.cfg, &p.m.layers[i]
	d.Norm(p.h, p.x, layer.inputNorm, cfg.eps)
	p.attention(c, i)
	d.Add(p.x, p.out)
	p.lap(&p.timings.Attention)

	d.Norm(p.h, p.x, layer.postNorm, cfg.eps)
	if layer.dense == nil {
		return p.mixture(ctx, i)
	}
	p.feedForward(layer.dense)
	d.Add(p.x, p.out)
	p.lap(&p.timings.Other)
	return nil
}

// attention sets p.out to layer i's attention for the rows of p.h.
func (p *llama4Pass) attention(c *Cache, i int) {
	layer, cfg := &p.m.layers[i], p.m.cfg
	p.project(&layer.attention)
	p.attend.Chunk = cfg.chunk
	switch {
	case !cfg.noRope[i]:
		p.rotate(p.q)
		p.rotate(p.k)
	case cfg.tempTuning:
		p.device.ScaleRows(p.q, p.factors)
		p.attend.Chunk = 0
	default:
		p.attend.Chunk = 0
	}
	p.attendAll(c, p.batch, i, layer.o)
}

// rotate rotates queries or keys by their positions, and then divides each head by its
// root mean square, without a weight.
func (p *llama4Pass) rotate(x kernel.Rows) {
	d, cfg := p.device, p.m.cfg
	d.Rotate(x, p.rope.cos, p.rope.sin, kernel.RotaryPairs)
	if cfg.qkNorm {
		heads := x.Split(cfg.headDim)
		d.Norm(heads, heads, kernel.Rows{}, cfg.eps)
	}
}

// mixture sends the rows of p.h to the experts that the gate chooses, whose inputs it
// scales, and sets p.out to the shared expert's output meanwhile; land adds the rest.
func (p *llama4Pass) mixture(ctx context.Context, i int) error {
	s := &p.m.cfg.spec.MoE
	p.current = &p.m.layers[i]
	if err := kernel.Resize(p.device, &p.gates, p.h.N, s.Experts); err != nil {
		return err
	}
	p.multiply(p.gates, p.h, p.current.gate)
	p.plan.Start(p.h)
	logits, err := p.device.Read(p.gates)
	if err != nil {
		return err
	}
	moe.SigmoidTopK(logits, s.TopK, &p.routes)
	p.batch.trace(i, &p.routes)
	if err := p.plan.Gather(i, p.h, &p.routes); err != nil {
		return err
	}
	p.lap(&p.timings.Gate)
	p.away = true
	if p.alone {
		p.back <- p.m.experts.Forward(ctx, &p.plan.Batch, p.shared)
		return p.land()
	}
	go func() { p.back <- p.m.experts.Forward(ctx, &p.plan.Batch, nil) }()
	p.runShared()
	return nil
}

func (p *llama4Pass) runShared() {
	p.lap(&p.timings.Experts)
	p.feedForward(p.current.shared)
	p.lap(&p.timings.Shared)
}

// land waits for the rows that are away, if any, and adds them to the residual stream.
func (p *llama4Pass) land() error {
	if !p.away {
		return nil
	}
	err := <-p.back
	p.away = false
	p.lap(&p.timings.Experts)
	if err != nil {
		return err
	}
	if err := p.plan.Combine(p.out); err != nil {
		return err
	}
	p.device.Add(p.x, p.out)
	p.lap(&p.timings.Gate)
	return nil
}

// abandon waits until no rows are away any more.
func abandon(passes []*llama4Pass) {
	for _, p := range passes {
		if p.away {
			<-p.back
			p.away = false
		}
	}
}
