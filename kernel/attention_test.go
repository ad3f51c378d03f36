package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"drover/tensor"
)

// testTiles are the tiles of a context, whose table says where each is.
type testTiles struct {
	memory []byte
	size   int
	table  []int32
}

func (k *testTiles) Tile(table []int32, i int) []byte {
	at := int(table[i]) * k.size
	return k.memory[at : at+k.size]
}

// newTestTiles makes tiles in random places for the rows of k and v, one for each
// position. What is not written holds bytes of fill.
func newTestTiles(r *rand.Rand, l KVLayout, k, v tensor.Rows, fill byte) *testTiles {
	n := (k.N + KVTokens - 1) / KVTokens
	tiles := &testTiles{make([]byte, n*l.TileBytes()), l.TileBytes(), nil}
	for i := range tiles.memory {
		tiles.memory[i] = fill
	}
	for _, i := range r.Perm(n) {
		tiles.table = append(tiles.table, int32(i))
	}
	for pos := range k.N {
		l.Put(tiles.Tile(tiles.table, pos/KVTokens), pos%KVTokens, k.Row(pos), v.Row(pos))
	}
	return tiles
}

// attentionCase is attention over random keys and values.
type attentionCase struct {
	Attention
	q, k, v tensor.Rows
	tiles   *testTiles
}

func newAttentionCase(seed uint64, a Attention, tokens int) *attentionCase {
	r := rand.New(rand.NewPCG(31, seed))
	n := a.KV.HeadDim
	c := &attentionCase{Attention: a, q: randomRows(r, tokens, a.Heads*n),
		k: randomRows(r, tokens, a.KV.Heads*n), v: randomRows(r, tokens, a.KV.Heads*n)}
	c.tiles = newTestTiles(r, a.KV, c.k, c.v, 0xff) // NaN in every precision
	return c
}

// run computes the queries of positions lo to hi in pieces of so many rows at most.
func (c *attentionCase) run(r *AttentionRun, lo, hi, rows int) tensor.Rows {
	out := tensor.MakeRows(hi-lo, c.q.Dim)
	for at := lo; at < hi; at += rows {
		end := min(at+rows, hi)
		seqs := []AttentionSequence{{Start: at, Count: end - at, Table: c.tiles.table}}
		n := r.Prepare(&c.Attention, out.Slice(at-lo, end-lo), c.q.Slice(at, end), seqs, c.tiles, 1)
		for i := range n {
			r.Do(0, i)
		}
	}
	return out
}

// direct is one head's attention, by direct softmax in float64.
func (c *attentionCase) direct(pos, head int) []float64 {
	n := c.KV.HeadDim
	q := c.q.Row(pos)[head*n : (head+1)*n]
	at := head / (c.Heads / c.KV.Heads) * n
	sum, out := 0.0, make([]float64, n)
	for t := c.from(pos); t <= pos; t++ {
		var score float64
		for d, v := range q {
			score += float64(v) * float64(c.k.Row(t)[at+d])
		}
		p := math.Exp(score * float64(c.Scale))
		sum += p
		for d := range out {
			out[d] += p * float64(c.v.Row(t)[at+d])
		}
	}
	for d := range out {
		out[d] /= sum
	}
	return out
}

// attentionCases are head sizes with and without tails, groups of 1 to 8 heads, chunks
// that do not end where tiles do, and contexts of one span and of several.
var attentionCases = []struct {
	heads, kvHeads, dim, chunk, tokens int
}{
	{4, 2, 12, 0, 50}, {4, 2, 12, 20, 50}, {4, 2, 12, 16, 50}, {2, 2, 16, 0, 70},
	{5, 1, 128, 0, 140}, {6, 2, 32, 0, 130}, {4, 1, 64, 100, 110}, {7, 1, 80, 77, 90},
	{6, 1, 2, 0, 90}, {8, 1, 96, 0, 70}, {1, 1, 5, 9, 40}, {10, 2, 128, 70, 80},
}

func forAttentionCases(f func(name string, c *attentionCase)) {
	for i, tc := range attentionCases {
		for p := PrecisionExact; p <= PrecisionInt8; p++ {
			a := Attention{Heads: tc.heads, KV: KVLayout{tc.kvHeads, tc.dim, p}, Chunk: tc.chunk,
				Scale: float32(1 / math.Sqrt(float64(tc.dim)))}
			f(fmt.Sprintf("%v %+v", p, tc), newAttentionCase(uint64(i), a, tc.tokens))
		}
	}
}

// TestAttention compares with direct softmax. Rounding keys and values to 8 bits of
// mantissa, or to 127 steps, moves scores and results by about as much; what is not
// rounded differs by what 8 bits of float32 sums lose.
func TestAttention(t *testing.T) {
	tolerance := map[Precision]float64{PrecisionExact: 1e-5, PrecisionBF16: 0.02, PrecisionInt8: 0.04}
	forAttentionCases(func(name string, c *attentionCase) {
		r := &AttentionRun{span: 64}
		out := c.run(r, 0, c.q.N, c.q.N)
		for i := range out.N {
			for head := range c.Heads {
				for j, want := range c.direct(i, head) {
					got := out.Row(i)[head*c.KV.HeadDim+j]
					if !(math.Abs(float64(got)-want) <= tolerance[c.KV.Precision]) {
						t.Fatalf("%s: row %d head %d element %d is %g, want %g", name, i, head, j, got, want)
					}
				}
			}
		}
	})
}

// TestAttentionPieces asserts that queries in any pieces, and on any instruction set,
// give the bytes of plain Go with all queries at once.
func TestAttentionPieces(t *testing.T) {
	want := map[string][]float32{}
	withLevels(t, func(t *testing.T) {
		r := &AttentionRun{span: 64}
		forAttentionCases(func(name string, c *attentionCase) {
			if level == plainGo {
				want[name] = c.run(r, 0, c.q.N, c.q.N).Data
			}
			for _, rows := range []int{1, 3, 7, 24, 33, c.q.N} {
				if level == plainGo && rows != 3 {
					continue
				}
				compare(t, fmt.Sprintf("%s by %d", name, rows), c.run(r, 0, c.q.N, rows).Data, want[name])
			}
		})
	})
}

// TestAttentionBatch computes several sequences at once, on several threads, in any
// order of pieces.
func TestAttentionBatch(t *testing.T) {
	a := Attention{Heads: 10, KV: KVLayout{2, 32, PrecisionBF16}, Scale: 0.2}
	c := newAttentionCase(50, a, 400)
	single := c.run(&AttentionRun{span: 64}, 0, 400, 1)
	r := &AttentionRun{span: 64}
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(51, seed))
		var seqs []AttentionSequence
		var q, want []float32
		for range 1 + random.IntN(5) {
			start := random.IntN(400)
			n := 1 + random.IntN(min(400-start, 40))
			if random.IntN(2) == 0 {
				n = 1
			}
			seqs = append(seqs, AttentionSequence{Start: start, Count: n, Table: c.tiles.table})
			q = append(q, c.q.Slice(start, start+n).Data...)
			want = append(want, single.Slice(start, start+n).Data...)
		}
		in := tensor.Rows{Data: q, N: len(q) / c.q.Dim, Dim: c.q.Dim}
		out := tensor.MakeRows(in.N, in.Dim)
		n := r.Prepare(&a, out, in, seqs, c.tiles, 3)
		done := make(chan bool)
		order := random.Perm(n)
		for thread := range 3 {
			go func() {
				for _, i := range order[thread*n/3 : (thread+1)*n/3] {
					r.Do(thread, i)
				}
				done <- true
			}()
		}
		for range 3 {
			<-done
		}
		compare(t, fmt.Sprintf("batch %d", seed), out.Data, want)
	}
}

// TestAttentionIgnoresUnseen asserts that what a query does not see, be it of its own
// sequence or what a tile held before, changes no byte: neither NaN nor infinities.
func TestAttentionIgnoresUnseen(t *testing.T) {
	withLevels(t, func(t *testing.T) {
		for p := PrecisionExact; p <= PrecisionInt8; p++ {
			a := Attention{Heads: 6, KV: KVLayout{2, 48, p}, Chunk: 75, Scale: 0.2}
			c := newAttentionCase(60, a, 140)
			want := c.run(&AttentionRun{}, 0, 140, 140)
			for _, hide := range []int{1, 17, 64, 74, 75, 76, 100, 139} {
				for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1))} {
					l, spoiled := c.KV, *c
					tiles := *c.tiles
					tiles.memory = slices.Clone(tiles.memory)
					spoiled.tiles = &tiles
					row := slices.Repeat([]float32{bad}, c.k.Dim)
					l.Put(tiles.Tile(tiles.table, hide/KVTokens), hide%KVTokens, row, row)
					got := spoiled.run(&AttentionRun{}, 0, 140, 140)
					for i := range 140 {
						sees := hide <= i && c.from(i) <= hide
						if finite := Finite(got.Row(i)); finite == sees {
							t.Fatalf("%v: row %d with position %d spoiled: finite %t", p, i, hide, finite)
						}
						if !sees {
							compare(t, fmt.Sprintf("%v: row %d", p, i), got.Row(i), want.Row(i))
						}
					}
				}
			}
		}
	})
}

// TestAttentionExtremes compares instruction sets on keys, values and queries of all
// kinds: scores that overflow, vanish or are NaN.
func TestAttentionExtremes(t *testing.T) {
	want := map[string]tensor.Rows{}
	withLevels(t, func(t *testing.T) {
		for p := PrecisionExact; p <= PrecisionInt8; p++ {
			for few := range 40 {
				r := rand.New(rand.NewPCG(70, uint64(few)))
				c := newAttentionCase(70, Attention{Heads: 5, KV: KVLayout{1, 20, p}, Scale: 0.2}, 70)
				for _, x := range []tensor.Rows{c.q, c.k, c.v} {
					copy(x.Data, extremeRow(r, len(x.Data), few*few*2))
				}
				c.tiles = newTestTiles(r, c.KV, c.k, c.v, 0xff)
				name := fmt.Sprint(p, few)
				got := c.run(&AttentionRun{span: 64}, 0, 70, 11)
				if level == plainGo {
					want[name] = got
				}
				compare(t, name, got.Data, want[name].Data)
			}
		}
	})
}

// TestAttentionAllocates asserts that steady state allocates nothing.
func TestAttentionAllocates(t *testing.T) {
	c := newAttentionCase(80, Attention{Heads: 5, KV: KVLayout{1, 64, PrecisionInt8}, Scale: 0.1}, 200)
	r := &AttentionRun{span: 64}
	seqs := []AttentionSequence{{Start: 150, Count: 50, Table: c.tiles.table},
		{Start: 199, Count: 1, Table: c.tiles.table}}
	q := randomRows(rand.New(rand.NewPCG(81, 82)), 51, c.q.Dim)
	out := tensor.MakeRows(51, c.q.Dim)
	if n := leastAllocations(5, func() {
		for i := range r.Prepare(&c.Attention, out, q, seqs, c.tiles, 2) {
			r.Do(i%2, i)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
