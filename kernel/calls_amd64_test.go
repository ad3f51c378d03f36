package kernel

import (
	"fmt"
	"runtime"
	"testing"
	"unsafe"

	"drover/tensor"
)

// A call of assembly cannot be preempted, so everything that stops the world waits for
// it: it must not last longer than some 200 µs, also where a thread gets little of the
// machine. Rates of 3.3 GB/s and 6 multiply-adds of floats, or 32 of integers, in a
// nanosecond are about an eighth of what one thread of the machines that this was
// measured on reads and computes. Products of integers cannot be cut along the inputs:
// the longest rows need 5.6 GB/s.
const (
	callNanos           = 200_000
	mostBytes           = callNanos * 33 / 10
	mostIntegerBytes    = callNanos * 56 / 10
	mostProducts        = callNanos * 6
	mostIntegerProducts = callNanos * 32
)

// recorder replaces the tiles of all instruction sets by ones that only note what they
// are asked for.
type recorder struct {
	bytes, products, all int // the most of a call, and the products of all calls
}

func (c *recorder) note(bytes, products int) {
	c.bytes, c.products = max(c.bytes, bytes), max(c.products, products)
	c.all += products
}

// record replaces the tiles until the test ends.
func record(t *testing.T) *recorder {
	c := &recorder{}
	type step struct{ inputs, bytes int }
	floats := map[step][][]tile{
		{1, lineBytes}:          {tilesF32AVX512, tilesF32AVX2, edgesF32AVX2},
		{2, lineBytes}:          {tilesBF16AVX512, tilesBF16AVX2, edgesBF16AVX2},
		{groupInputs, fp8Bytes}: {tilesFP8AVX512, tilesFP8AVX2, edgesFP8AVX2},
	}
	for one, tables := range floats {
		for _, table := range tables {
			kept := append([]tile{}, table...)
			t.Cleanup(func() { copy(table, kept) })
			for i, of := range kept {
				table[i].mul = func(_ *float32, _ int, _ *byte, _ int, _ *float32, _, steps int, _ *byte) {
					c.note(of.blocks*steps*one.bytes, of.rows*of.blocks*blockRows*steps*one.inputs)
				}
			}
		}
	}
	integers := map[int][][]integerTile{
		int8Bytes: {tilesInt8AVX2, tilesInt8VNNI, severalInt8VNNI},
		int4Bytes: {tilesInt4AVX2, tilesInt4VNNI, severalInt4VNNI},
	}
	for size, tables := range integers {
		for _, table := range tables {
			kept := append([]integerTile{}, table...)
			t.Cleanup(func() { copy(table, kept) })
			for i, of := range kept {
				table[i].mul = func(_ *float32, _, _ int, _ *byte, _ int, _ *int32, groups, _ int,
					_ *byte, _, _ int) {
					c.note(of.blocks*groups*size, of.rows*of.blocks*blockRows*groups*groupInputs)
				}
			}
		}
	}
	return c
}

// TestCallsAreShort computes the largest call of assembly in products of Llama 4
// Maverick's largest shapes, for every instruction set that this machine has.
func TestCallsAreShort(t *testing.T) {
	best := level
	defer func() { level = best }()
	c := record(t)
	for level = avx2; level <= best; level++ {
		for f := WeightsF32; f <= lastFormat; f++ {
			for _, shape := range [][2]int{{16384, 5120}, {5120, 8192}, {5120, 16384}, {202048, 5120}} {
				name := fmt.Sprintf("%s/%v/%d×%d", instructionNames[level], f, shape[0], shape[1])
				t.Run(name, func(t *testing.T) { c.checkShape(t, shape[0], shape[1], f) })
			}
		}
	}
}

// checkShape multiplies the first outputs, and the last without their last block.
func (c *recorder) checkShape(t *testing.T, n, k int, f Format) {
	n -= blockRows
	m, err := NewMatrix(n, k, f) // nobody touches its memory
	if err != nil {
		t.Fatal(err)
	}
	for _, rows := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 33, 64, 512} {
		*c = recorder{}
		outputs := 3 * PartOutputs
		buf, err := NewBuffer(rows * n * 4)
		if err != nil {
			t.Fatal(err)
		}
		y := unsafe.Slice((*float32)(unsafe.Pointer(&buf.Bytes()[0])), rows*n)
		var a Activations
		a.Prepare(tensor.MakeRows(rows, k), f)
		last := n - n%PartOutputs
		for _, part := range [][2]int{{0, outputs}, {last, n}} {
			m.MulPart(tensor.Rows{Data: y, N: rows, Dim: n}, &a, part[0], part[1])
		}
		runtime.KeepAlive(buf)
		if want := rows * k * (outputs + n - last); c.all < want {
			t.Errorf("%d rows: calls of %d multiply-adds in all, want %d", rows, c.all, want)
		}
		bytes, products := mostBytes, mostProducts
		if f.Integer() {
			bytes, products = mostIntegerBytes, mostIntegerProducts
		}
		if c.bytes > bytes || c.products > products {
			t.Errorf("%d rows: a call reads %d bytes of weights and does %d multiply-adds, "+
				"want at most %d and %d", rows, c.bytes, c.products, bytes, products)
		}
	}
}

// recordAttention replaces the products with keys and values of all instruction sets.
func recordAttention(t *testing.T) *recorder {
	c := &recorder{}
	for _, table := range [][]kvKernels{kvAVX512[:], kvFewAVX512[:], kvAVX2[:]} {
		kept := append([]kvKernels{}, table...)
		t.Cleanup(func() { copy(table, kept) })
		for i, of := range kept {
			for n := range of.keys {
				note := func(sums int, p *kvProduct) {
					length := 0
					for _, steps := range p.steps[:p.runs] {
						length += steps
					}
					c.note(0, p.groups*(n+1)*sums*length)
				}
				table[i].keys[n] = func(p *kvProduct) { note(p.parts*KVTokens, p) }
				table[i].values[n] = func(p *kvProduct) { note(p.parts*of.elements, p) }
			}
		}
	}
	return c
}

// TestAttentionCallsAreShort is TestCallsAreShort for keys and values, with heads of up to
// four times Llama 4 Maverick's size: for larger ones a call is one group of rows.
func TestAttentionCallsAreShort(t *testing.T) {
	best := level
	defer func() { level = best }()
	c := recordAttention(t)
	for level = avx2; level <= best; level++ {
		for p := PrecisionExact; p <= PrecisionInt8; p++ {
			for _, dim := range []int{1, 16, 80, 128, 512} {
				for _, group := range []int{1, 5, 6, 7, 16} {
					c.checkAttention(t, Attention{Heads: group, KV: KVLayout{1, dim, p}, Scale: 1})
				}
			}
		}
	}
}

func (c *recorder) checkAttention(t *testing.T, a Attention) {
	const tokens = 300
	buf, err := NewBuffer(a.KV.TileBytes())
	if err != nil {
		t.Fatal(err)
	}
	tiles := &testTiles{buf.Bytes(), a.KV.TileBytes(), make([]int32, tokens/KVTokens+1)}
	for _, rows := range []int{1, 3, 16, 17, tokens} {
		*c = recorder{}
		var run AttentionRun
		x := tensor.MakeRows(rows, a.Heads*a.KV.HeadDim)
		seqs := []AttentionSequence{{Start: tokens - rows, Count: rows, Table: tiles.table}}
		for i := range run.Prepare(&a, x, x, seqs, tiles, 1) {
			run.Do(0, i)
		}
		pairs := rows*tokens - rows*(rows-1)/2
		if want := pairs * x.Dim * 2; c.all < want || c.products > mostProducts {
			t.Errorf("%s, %+v: %d rows: calls of %d multiply-adds in all, want %d; of at most %d, "+
				"want %d", instructionNames[level], a, rows, c.all, want, c.products, mostProducts)
		}
	}
	runtime.KeepAlive(buf)
}
