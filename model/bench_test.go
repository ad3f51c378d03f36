package model_test

import (
	"fmt"
	"testing"

	"drover/checkpoint"
	"drover/kernel"
	"drover/model"
)

// BenchmarkDecode runs one decode step of the demo model with its experts in
// process, at several batch sizes. Steady state allocates nothing.
func BenchmarkDecode(b *testing.B) {
	ck, err := checkpoint.Open("../models/tiny-maverick")
	if err != nil {
		b.Fatal(err)
	}
	defer ck.Close()
	src, err := model.OpenExperts(ck, model.Options{Mode: kernel.BF16})
	if err != nil {
		b.Fatal(err)
	}
	l := newLocal(kernel.BF16, kernel.NewCPU(nil))
	for _, layer := range src.Spec().Layers {
		for e := range src.Spec().Experts {
			if l.experts[[2]int{layer, e}], err = src.Load(layer, e); err != nil {
				b.Fatal(err)
			}
		}
	}
	m, err := model.Open(ck, model.Options{Mode: kernel.BF16}, l)
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) { decode(b, m, n) })
	}
}

func decode(b *testing.B, m model.Model, n int) {
	const context, blockTokens = 128, 16
	const blocks = context / blockTokens
	var counts []int
	for range m.Spec().KV {
		counts = append(counts, n*blocks)
	}
	cache, err := m.NewCache(counts, blockTokens)
	if err != nil {
		b.Fatal(err)
	}
	batch := model.Batch{}
	for i := range n {
		seq := model.Sequence{Start: context - 1, Count: 1, Logits: 1}
		for range m.Spec().KV {
			var table []int32
			for j := range blocks {
				table = append(table, int32(i*blocks+j))
			}
			seq.Tables = append(seq.Tables, table)
		}
		batch.Tokens = append(batch.Tokens, int32(100+i))
		batch.Sequences = append(batch.Sequences, seq)
	}
	if err := m.Forward(b.Context(), cache, &batch); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Forward(b.Context(), cache, &batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}
