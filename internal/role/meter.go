package role

import (
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"drover/cluster"
	"drover/moe"
	"drover/placement"
	"drover/router"
)

// meter counts the work of each expert on its way to others that compute it, and keeps a
// moving average for the planner.
type meter struct {
	layers []int // the model's MoE layers
	since  time.Time

	mu    sync.Mutex  // guards the fields below; Forward holds it while it counts a batch
	work  [][]float64 // by position of the layer and expert, since the last measure
	past  [][]float64 // the same, before that
	tally placement.Tally
	last  map[string]router.NodeWork // as of the last measure
	nodes map[string]cluster.NodeWork
	from  func() map[string]router.NodeWork
}

func newMeter(spec moe.Spec) *meter {
	m := &meter{layers: spec.Layers, since: time.Now(), last: map[string]router.NodeWork{},
		nodes: map[string]cluster.NodeWork{}}
	m.work, m.past = make([][]float64, len(spec.Layers)), make([][]float64, len(spec.Layers))
	for l := range m.work {
		m.work[l], m.past[l] = make([]float64, spec.Experts), make([]float64, spec.Experts)
	}
	return m
}

// sums is the work of each expert since the start, by position of the layer.
func (m *meter) sums() [][]float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([][]float64, len(m.work))
	for l, work := range m.work {
		out[l] = slices.Clone(m.past[l])
		for e, w := range work {
			out[l][e] += w
		}
	}
	return out
}

// over returns the router's experts, counted.
func (m *meter) over(r *router.Router) moe.Experts {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.from = r.WorkByNode
	return metered{r, m}
}

// metered are experts whose work a meter counts.
type metered struct {
	moe.Experts
	meter *meter
}

// Forward implements moe.Experts.
func (e metered) Forward(ctx context.Context, b *moe.Batch, meanwhile func()) error {
	e.meter.count(b)
	return e.Experts.Forward(ctx, b, meanwhile)
}

// count notes a batch. It takes nanoseconds for each expert, and allocates nothing.
func (m *meter) count(b *moe.Batch) {
	l, ok := slices.BinarySearch(m.layers, b.Layer)
	if !ok || len(b.Experts) != len(b.Counts) {
		return // the experts refuse it
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	work := m.work[l]
	for i, e := range b.Experts {
		if int(e) < len(work) && e >= 0 {
			work[e] += placement.Work(1, float64(b.Counts[i]))
		}
	}
}

// nodesHalf is the half-life, in seconds of computing, of what is remembered of a node.
const nodesHalf = 10

// measure implements cluster.PlannerOptions.Measure.
func (m *meter) measure() cluster.Measured {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.tally.Observe(m.work, now.Sub(m.since).Seconds())
	m.since = now
	for l, work := range m.work {
		for e, w := range work {
			m.past[l][e] += w
		}
		clear(work)
	}
	if m.from != nil {
		m.observeNodes(m.from())
	}
	out := cluster.Measured{Load: m.tally.Rates(), Nodes: map[string]cluster.NodeWork{}}
	for id, n := range m.nodes {
		out.Nodes[id] = n
	}
	return out
}

// observeNodes adds what nodes have done since the last time. Nodes that the router knows
// but that have done nothing since stay as they were; those that it forgot are forgotten.
func (m *meter) observeNodes(now map[string]router.NodeWork) {
	for id, n := range now {
		was := m.last[id]
		seconds := (n.Compute - was.Compute).Seconds()
		if n.Work <= was.Work || seconds <= 0 {
			continue
		}
		had, keep := m.nodes[id], math.Exp2(-seconds/nodesHalf)
		m.nodes[id] = cluster.NodeWork{Work: had.Work*keep + float64(n.Work-was.Work),
			Seconds: had.Seconds*keep + seconds}
	}
	maps.DeleteFunc(m.nodes, func(id string, _ cluster.NodeWork) bool {
		_, known := now[id]
		return !known
	})
	m.last = now
}
