package role

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"drover/moe"
	"drover/router"
)

// nowhere are experts that compute nothing.
type nowhere struct{}

func (nowhere) Forward(context.Context, *moe.Batch, func()) error { return nil }

// TestMeter counts batches and measures nodes.
func TestMeter(t *testing.T) {
	m := newMeter(moe.Spec{Layers: []int{1, 3}, Experts: 4})
	e := metered{nowhere{}, m}
	if load := m.measure().Load; load[0][0] != load[0][1] || load[0][0] != load[1][0] {
		t.Errorf("nothing was counted, and experts differ: %v", load)
	}
	m.since = m.since.Add(-10 * time.Second)
	for range 100 {
		for _, b := range []moe.Batch{
			{Layer: 1, Experts: []int32{0, 3}, Counts: []int32{8, 16}},
			{Layer: 3, Experts: []int32{2}, Counts: []int32{1}},
			{Layer: 2, Experts: []int32{2}, Counts: []int32{1}},        // no MoE layer
			{Layer: 3, Experts: []int32{4, -1}, Counts: []int32{1, 1}}, // no such experts
			{Layer: 3, Experts: []int32{0, 1}, Counts: []int32{1}},     // refused
		} {
			if err := e.Forward(t.Context(), &b, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := m.sums()
	load := m.measure().Load
	if after := m.sums(); fmt.Sprint(before) != "[[200 0 0 300] [0 0 112.5 0]]" ||
		fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("sums are %v, after a measure %v", before, after)
	}
	near := func(got, want float64) bool { return math.Abs(got-want) < 0.1*want }
	if !near(load[0][0]/load[0][3], 2.0/3) || !near(load[1][2]/load[0][0], 1.125/2) ||
		load[1][0] > load[1][2]/10 {
		t.Errorf("measured %v", load)
	}
	m.observeNodes(map[string]router.NodeWork{"a": {Work: 100, Compute: time.Second}})
	m.observeNodes(map[string]router.NodeWork{"a": {Work: 400, Compute: 2 * time.Second},
		"b": {Work: 5, Compute: 0}})
	nodes := m.measure().Nodes
	if got := nodes["a"].Work / nodes["a"].Seconds; len(nodes) != 1 || got < 200 || got > 300 {
		t.Errorf("nodes %v", nodes)
	}
	m.observeNodes(map[string]router.NodeWork{"b": {Work: 5}})
	if nodes := m.measure().Nodes; len(nodes) != 0 {
		t.Errorf("a node that the router forgot is remembered: %v", nodes)
	}
}

func BenchmarkMeter(b *testing.B) {
	const experts = 64
	m := newMeter(moe.Spec{Layers: []int{1}, Experts: experts})
	batch := &moe.Batch{Layer: 1}
	for e := range int32(experts) {
		batch.Experts, batch.Counts = append(batch.Experts, e), append(batch.Counts, 2)
	}
	b.ReportAllocs()
	for b.Loop() {
		m.count(batch)
	}
}
