package coordinator

import (
	"time"

	"drover/model"
)

// pace measures what the choice of micro-batches needs; the engine's goroutine owns it.
type pace struct {
	overlap overlap
	network func() (oneWay, there time.Duration)
	timings func() model.Timings // nil if the model does not tell
	layers  int                  // with routed experts
	before  model.Timings

	chosen, hiding      int
	oneWay, here, there time.Duration
}

// paceWindow is over how many steps the time here forgets.
const paceWindow = 16

func newPace(m model.Model, o Options) pace {
	p := pace{network: o.Network, layers: len(m.Spec().MoE.Layers), chosen: 1, hiding: 1}
	p.overlap.most = o.MicroBatches
	if p.layers == 0 {
		p.overlap.most = 1
	}
	if t, ok := m.(interface{ Timings() model.Timings }); ok {
		p.timings = t.Timings
	}
	return p
}

// choose returns into how many micro-batches to cut a step of so many tokens.
func (p *pace) choose(tokens int) int {
	if p.overlap.most > 1 {
		p.oneWay, p.there = p.network()
		p.hiding = HidingMicroBatches(p.oneWay, max(p.here, p.there))
	}
	p.chosen = p.overlap.choose(tokens, p.hiding)
	return p.chosen
}

// observe takes in a step that went well and how long the model took.
func (p *pace) observe(b *model.Batch, took time.Duration) {
	for i := range b.Sequences {
		if b.Sequences[i].Trace != nil {
			return // the model does not cut such a batch
		}
	}
	p.overlap.observe(len(b.Tokens), p.chosen, took)
	if p.timings == nil || p.layers == 0 {
		return
	}
	t := p.timings()
	busy := t.Attention + t.Gate + t.Shared + t.Other
	busy -= p.before.Attention + p.before.Gate + p.before.Shared + p.before.Other
	p.before = t
	p.here += (busy/time.Duration(p.layers*p.chosen) - p.here) / paceWindow
}

// publish copies the measurements.
func (p *pace) publish(s *Stats) {
	s.MicroBatches, s.HidingMicroBatches = p.chosen, p.hiding
	s.OneWay, s.Here, s.There = p.oneWay, p.here, p.there
}
