package scheduler

import (
	"fmt"
	"testing"
)

// BenchmarkStep measures one step of sequences that decode, finish and are replaced.
// In steady state a step does not allocate.
func BenchmarkStep(b *testing.B) {
	for _, n := range []int{1, 64, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, err := New(Options{Groups: []Group{{Blocks: 1 << 20}, {Blocks: 1 << 14, Chunk: 128}},
				MaxSequences: n})
			if err != nil {
				b.Fatal(err)
			}
			for id := range n {
				q := Sequence{ID: uint64(id), Prompt: make([]int32, 100), Limit: 1 << 24 / n}
				if err := s.Add(q); err != nil {
					b.Fatal(err)
				}
			}
			results := make([]Result, n)
			b.ReportAllocs()
			for b.Loop() {
				batch, ok := s.Next()
				if !ok {
					b.Fatal("nothing to run")
				}
				for i, p := range batch.Parts { // begin anew before the limit
					results[i].Finish = p.Start+len(p.Tokens) > 8000
				}
				s.Commit(batch, results[:len(batch.Parts)])
				for i, p := range batch.Parts {
					if results[i].Finish {
						q := Sequence{ID: p.ID, Prompt: make([]int32, 100), Limit: 1 << 24 / n}
						if err := s.Add(q); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
		})
	}
}
