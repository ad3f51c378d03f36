//go:build cuda && linux

package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"drover/kernel"
	"drover/tensor"
)

// attendCase is sequences whose keys and values are in tiles on the host and on the device.
type attendCase struct {
	*bench
	a      kernel.Attention
	kv     kernel.KV
	host   []byte
	memory *Memory
	tables [][]int32
	plan   attendPlan
	// tensor is whether products are on tensor cores, whose results are near those of the host.
	tensor bool
}

const (
	caseTiles  = 2 // of a layer in a block, which has two layers
	caseBlocks = 4
)

// newAttendCase makes tiles for sequences of so many tokens, full of NaNs.
func newAttendCase(b *bench, rng *rand.Rand, a kernel.Attention, tokens []int) *attendCase {
	c := &attendCase{bench: b, a: a, kv: kernel.KV{BlockTiles: caseBlocks, First: caseTiles,
		Tiles: caseTiles}}
	blocks := 0
	for _, n := range tokens {
		c.tables = append(c.tables, nil)
		blocks += (n + caseTiles*kernel.KVTokens - 1) / (caseTiles * kernel.KVTokens)
	}
	numbers := rng.Perm(blocks)
	for i, n := range tokens {
		for len(c.tables[i])*caseTiles*kernel.KVTokens < n {
			c.tables[i] = append(c.tables[i], int32(numbers[0]))
			numbers = numbers[1:]
		}
	}
	c.host = slices.Repeat([]byte{0xff}, blocks*caseBlocks*a.KV.TileBytes())
	c.memory = b.on(c.host)
	return c
}

// Tile returns a tile of the host.
func (c *attendCase) Tile(table []int32, i int) []byte {
	at := int(kvPlace(&c.kv, table, i*kernel.KVTokens)/kernel.KVTokens) * c.a.KV.TileBytes()
	return c.host[at : at+c.a.KV.TileBytes()]
}

// step adds tokens to sequences and compares tiles and results with the host's.
func (c *attendCase) step(q, k, v tensor.Rows, what string) {
	c.Helper()
	row := 0
	for _, s := range c.kv.Sequences {
		for pos := s.Start; pos < s.Start+s.Count; pos++ {
			c.a.KV.Put(c.Tile(s.Table, pos/kernel.KVTokens), pos%kernel.KVTokens, k.Row(row), v.Row(row))
			row++
		}
	}
	var run kernel.AttentionRun
	want := tensor.MakeRows(q.N, q.Dim)
	for i := range run.Prepare(&c.a, want, q, c.kv.Sequences, c, 1) {
		run.Do(0, i)
	}
	c.store(k, v)
	if got := c.read(c.memory, 0, len(c.host)); !slices.Equal(got, c.host) && !c.sameTiles(got) {
		c.Fatalf("%s: tiles differ", what)
	}
	if out := c.attend(q); c.tensor {
		c.near(out, want.Data, what)
	} else {
		c.same(out, want.Data, "%s", what)
	}
}

// near compares with the host: queries and exponentials have 16 bits of 24 at least, so that
// scores, of elements whose products are less than 8 together, are off by less than 8·2⁻¹⁷, and
// means of values of less than 4 by twice that part of them.
func (c *attendCase) near(out *Memory, want []float32, what string) {
	c.Helper()
	raw := c.read(out, 0, 4*len(want))
	for i, got := range unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(raw))), len(want)) {
		if off := math.Abs(float64(got) - float64(want[i])); !(off <= 8*4*2*0x1p-17) {
			c.Fatalf("%s: element %d is %g, want about %g", what, i, got, want[i])
		}
	}
}

func (c *attendCase) name() string {
	return map[kernel.Precision]string{kernel.PrecisionExact: "f32", kernel.PrecisionBF16: "bf16",
		kernel.PrecisionInt8: "int8"}[c.a.KV.Precision]
}

// sameTiles reports whether tiles differ in the bits of NaNs only, of scales in 8 bits.
func (c *attendCase) sameTiles(got []byte) bool {
	if c.a.KV.Precision != kernel.PrecisionInt8 {
		return false
	}
	for i := 0; i < len(got); i += 4 {
		g := *(*float32)(unsafe.Pointer(&got[i]))
		w := *(*float32)(unsafe.Pointer(&c.host[i]))
		if !slices.Equal(got[i:i+4], c.host[i:i+4]) && !(g != g && w != w) {
			return false
		}
	}
	return true
}

func (c *attendCase) store(k, v tensor.Rows) {
	c.plan.plan(&c.a, &c.kv)
	c.launch("attend_store_"+c.name(), Grid{ceil(c.plan.storeThreads(c.a.KV.Precision), 128), 1, 128},
		c.memory.At(0), c.on(bytesOf(k.Data)).At(0), c.on(bytesOf(v.Data)).At(0),
		c.on(memoryOf(c.plan.places)).At(0), uint64(k.N), uint64(c.a.KV.Heads), uint64(c.a.KV.HeadDim))
}

// attend computes the step that was stored.
func (c *attendCase) attend(q tensor.Rows) *Memory {
	p := &c.plan
	out, states := c.on(make([]byte, 4*len(q.Data))), c.on(make([]byte, max(4*p.stateFloats(), 4)))
	shape := c.on(memoryOf([]attendShape{p.shape}))
	name := "attend_" + c.name()
	if c.tensor {
		name = "attend_tensor_" + c.name()
	}
	c.launch(name, p.grid(), out.At(0), states.At(0), c.on(bytesOf(q.Data)).At(0),
		c.memory.At(0), c.on(memoryOf(p.tables)).At(0), c.on(memoryOf(p.pieces)).At(0), shape.At(0))
	if len(p.merges) > 0 {
		c.launch("attend_merge", Grid{ceil(p.mergeThreads(), 128), 1, 128}, out.At(0), states.At(0),
			c.on(memoryOf(p.merges)).At(0), shape.At(0), uint64(p.mergeThreads()))
	}
	return out
}

func randomRows(rng *rand.Rand, n, dim int, extreme bool) tensor.Rows {
	return tensor.Rows{Data: numbers(rng, n*dim, extreme), N: n, Dim: dim}
}

// attendShapes are head sizes with and without tails, groups of 1 to 17 heads, and chunks
// that do not end where tiles do.
var attendShapes = []struct{ heads, kvHeads, dim, chunk int }{
	{6, 2, 20, 0}, {4, 2, 12, 20}, {5, 1, 128, 0}, {2, 2, 16, 48}, {17, 1, 5, 0}, {3, 1, 131, 30},
}

// steps are tokens of each of three sequences in turn.
var attendCounts = [][]int{{40, 1, 0}, {1, 1, 100}, {17, 3, 64}, {1, 1, 1}, {0, 70, 1}}

func testAttend(t *testing.T, shapes int) {
	for p := kernel.PrecisionExact; p <= kernel.PrecisionInt8; p++ {
		testAttendOf(t, shapes, p, false)
	}
	testAttendOf(t, shapes, kernel.PrecisionBF16, true)
}

// testAttendOf compares attention over keys and values of a precision with package kernel.
func testAttendOf(t *testing.T, shapes int, p kernel.Precision, tensor bool) {
	b := newBench(t)
	for i, s := range attendShapes[:shapes] {
		rng := rand.New(rand.NewPCG(17, uint64(i)))
		a := kernel.Attention{Heads: s.heads, Chunk: s.chunk,
			Scale: float32(1 / math.Sqrt(float64(s.dim))),
			KV:    kernel.KVLayout{Heads: s.kvHeads, HeadDim: s.dim, Precision: p}}
		c := newAttendCase(b, rng, a, []int{59, 76, 166})
		c.tensor = tensor
		var lengths [3]int
		for step, counts := range attendCounts {
			c.kv.Sequences = nil
			n := 0
			for j, count := range counts {
				if count > 0 {
					c.kv.Sequences = append(c.kv.Sequences, kernel.AttentionSequence{
						Start: lengths[j], Count: count, Table: c.tables[j]})
				}
				lengths[j] += count
				n += count
			}
			dim := s.kvHeads * s.dim
			extreme := i == 0 && step > 2 && !tensor
			c.step(randomRows(rng, n, s.heads*s.dim, extreme), randomRows(rng, n, dim, extreme),
				randomRows(rng, n, dim, extreme), fmt.Sprintf("%v %+v, step %d", p, s, step))
		}
	}
}

// TestAttend compares with package kernel, with threads in order.
func TestAttend(t *testing.T) {
	needStandIn(t)
	testAttend(t, len(attendShapes))
}

// TestAttendReverse and TestAttendShuffle run a block's threads, and blocks, in other orders
// between barriers: what they do must not show.
func TestAttendReverse(t *testing.T) {
	if with(t, "STANDIN", "reverse") {
		testAttend(t, 2)
	}
}

func TestAttendShuffle(t *testing.T) {
	if with(t, "STANDIN", "shuffle") {
		testAttend(t, 2)
	}
}

// TestAttendSpans has contexts of several spans: of few queries, whose spans are pieces of
// their own and are merged, and of many, which go from span to span. Queries on both
// sides of a span's end see different spans.
func TestAttendSpans(t *testing.T) {
	for p := kernel.PrecisionExact; p <= kernel.PrecisionInt8; p++ {
		testAttendSpans(t, p, false)
	}
	testAttendSpans(t, kernel.PrecisionBF16, true)
}

func testAttendSpans(t *testing.T, p kernel.Precision, tensor bool) {
	b := newBench(t)
	for _, chunk := range []int{0, 5000} {
		rng := rand.New(rand.NewPCG(19, uint64(p)))
		a := kernel.Attention{Heads: 2, Chunk: chunk, Scale: 0.5,
			KV: kernel.KVLayout{Heads: 1, HeadDim: 4, Precision: p}}
		const tokens = 2*attendSpan + 40
		c := newAttendCase(b, rng, a, []int{tokens})
		c.tensor = tensor
		q, k, v := randomRows(rng, tokens, 8, false), randomRows(rng, tokens, 4, false),
			randomRows(rng, tokens, 4, false)
		c.kv.Sequences = []kernel.AttentionSequence{{Count: tokens, Table: c.tables[0]}}
		for pos := range tokens {
			a.KV.Put(c.Tile(c.tables[0], pos/kernel.KVTokens), pos%kernel.KVTokens, k.Row(pos), v.Row(pos))
		}
		c.memory = b.on(c.host)
		for _, part := range [][2]int{{attendSpan - 2, 4}, {2*attendSpan - 1, 1}, {2 * attendSpan, 1},
			{2*attendSpan - 10, 50}, {2*attendSpan - 3, 4}} {
			lo, hi := part[0], part[0]+part[1]
			c.kv.Sequences = []kernel.AttentionSequence{{Start: lo, Count: part[1], Table: c.tables[0]}}
			c.step(q.Slice(lo, hi), k.Slice(lo, hi), v.Slice(lo, hi),
				fmt.Sprintf("%v, chunk %d, queries %d to %d", p, chunk, lo, hi))
			if merges := len(c.plan.merges) > 0; chunk == 0 && merges != (part[1] <= attendFew) {
				t.Errorf("%d queries: merges %t", part[1], merges)
			}
		}
	}
}
