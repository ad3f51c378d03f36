//go:build cuda && linux

package cuda

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"drover/kernel"
	"drover/tensor"
)

// attendAlone has a device attend to a sequence's tokens, some at a time, from the first one on,
// each time after another sequence's, and returns the results.
func attendAlone(t *testing.T, d *Device, a *kernel.Attention, x [3]tensor.Rows,
	together []int) []float32 {
	t.Helper()
	tokens := x[0].N
	tiles := (tokens + kernel.KVTokens - 1) / kernel.KVTokens
	memory := must1(d.AllocateKV(a.KV, 2*tiles))(t)
	var tables [2][]int32
	for i := range tiles {
		tables[0], tables[1] = append(tables[0], int32(2*i+1)), append(tables[1], int32(2*i))
	}
	var out []float32
	for at, i := 0, 0; at < tokens; i++ {
		n := min(together[i%len(together)], tokens-at)
		// The other sequence has fewer tokens of the same numbers.
		other := min(n, 3)
		kv := &kernel.KV{Memory: memory, BlockTiles: 1, Tiles: 1, Sequences: []kernel.AttentionSequence{
			{Start: at, Count: other, Table: tables[1]}, {Start: at, Count: n, Table: tables[0]}}}
		var rows [3]kernel.Rows
		for j, r := range x {
			rows[j] = must1(d.Allocate(other+n, r.Dim))(t)
			d.Write(rows[j].Slice(0, other), r.Slice(at, at+other))
			d.Write(rows[j].Slice(other, other+n), r.Slice(at, at+n))
		}
		y := must1(d.Allocate(other+n, rows[0].Dim))(t)
		d.Attend(a, y, rows[0], rows[1], rows[2], kv)
		got := must1(d.Read(y))(t)
		out = append(out, got.Data[other*got.Dim:]...)
		at += n
	}
	return out
}

// TestAttendTensorAlone checks that a token's attention on tensor cores has the same bytes whatever
// is computed with it: all of a prompt, pieces of it, or a token at a time; and that no token
// knows of values behind it that are infinite or no numbers.
func TestAttendTensorAlone(t *testing.T) {
	d, tokens := openTensor(t), 150
	for i, s := range attendShapes {
		rng := rand.New(rand.NewPCG(71, uint64(i)))
		a := &kernel.Attention{Heads: s.heads, Chunk: s.chunk, Scale: float32(1 / math.Sqrt(float64(s.dim))),
			KV: kernel.KVLayout{Heads: s.kvHeads, HeadDim: s.dim, Precision: kernel.PrecisionBF16}}
		x := [3]tensor.Rows{randomRows(rng, tokens, s.heads*s.dim, false),
			randomRows(rng, tokens, s.kvHeads*s.dim, false), randomRows(rng, tokens, s.kvHeads*s.dim, false)}
		for j, v := range []float64{math.Inf(1), math.NaN()} {
			x[2].Row(tokens - 9 + 4*j)[j] = float32(v)
			x[1].Row(tokens - 3 + j)[j] = float32(v)
		}
		var want []float32
		n := counted(t, func() { want = attendAlone(t, d, a, x, []int{tokens}) }, "attend_tensor_bf16",
			"attend_bf16")
		if !slices.Equal(n, []int{1, 0}) {
			t.Fatalf("launched %v times", n)
		}
		dim := s.heads * s.dim
		if slices.ContainsFunc(want[:(tokens-9)*dim], func(v float32) bool { return v-v != 0 }) {
			t.Errorf("%+v: values that a token does not see show", s)
		}
		for _, together := range [][]int{{1}, {7, 64, 1, 3}, {16}} {
			got := attendAlone(t, d, a, x, together)
			if !sameBits(got, want) {
				t.Errorf("%+v: %v tokens at a time have other bytes than all of them", s, together)
			}
		}
	}
}
