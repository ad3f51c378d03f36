package model

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestSplit checks that micro-batches are the batch: the same tokens in the same order,
// at the same positions of the same sequences, the same ones asking for logits.
func TestSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := &Batch{MicroBatches: rapid.IntRange(0, 9).Draw(t, "micro-batches")}
		for range rapid.IntRange(1, 8).Draw(t, "sequences") {
			s := Sequence{Start: rapid.IntRange(0, 50).Draw(t, "start"),
				Count:  rapid.IntRange(1, 20).Draw(t, "count"),
				Tables: [][]int32{{int32(len(b.Sequences))}}}
			s.Logits = rapid.IntRange(0, s.Count).Draw(t, "logits")
			for range s.Count {
				b.Tokens = append(b.Tokens, int32(len(b.Tokens)))
			}
			b.Sequences = append(b.Sequences, s)
		}
		want, tokens := rowsOf(b), slices.Clone(b.Tokens)
		parts := b.split(nil)
		parts = b.split(parts) // in used memory
		if n := min(max(b.MicroBatches, 1), len(b.Tokens)); len(parts) != n {
			t.Fatalf("%d parts, want %d", len(parts), n)
		}
		var got []splitRow
		var gotTokens []int32
		for i := range parts {
			got = append(got, rowsOf(&parts[i])...)
			gotTokens = append(gotTokens, parts[i].Tokens...)
			if d := len(parts[i].Tokens) - len(b.Tokens)/len(parts); d < 0 || d > 1 {
				t.Errorf("part %d of %d has %d of %d tokens", i, len(parts),
					len(parts[i].Tokens), len(b.Tokens))
			}
		}
		if !slices.Equal(got, want) || !slices.Equal(gotTokens, tokens) {
			t.Errorf("parts %v\nof tokens %v\nwant %v", got, gotTokens, want)
		}
	})
}

// splitRow is what must not change for a token.
type splitRow struct {
	table    int32
	position int
	logits   bool
}

func rowsOf(b *Batch) (rows []splitRow) {
	for _, s := range b.Sequences {
		for i := range s.Count {
			rows = append(rows, splitRow{s.Tables[0][0], s.Start + i, i >= s.Count-s.Logits})
		}
	}
	return rows
}

// TestSplitTraced checks that a batch with a trace stays whole.
func TestSplitTraced(t *testing.T) {
	b := &Batch{MicroBatches: 2, Tokens: make([]int32, 4), Sequences: []Sequence{
		{Count: 2}, {Count: 2, Trace: func(int, []int32, []float32) {}}}}
	if parts := b.split(nil); len(parts) != 1 || len(parts[0].Sequences) != 2 {
		t.Errorf("%d parts", len(parts))
	}
}
