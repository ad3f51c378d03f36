//go:build cuda && linux

package cuda

import (
	"fmt"
	"math"
	"runtime"
	"slices"

	"drover/kernel"
	"drover/tensor"
)

// The problem of attention: queries of some tokens behind others, so that positions are more
// than go through together, in two groups of heads.
const (
	attendTestBefore = 256
	attendTestTokens = 21
)

var attendTest = kernel.Attention{Heads: 10, Scale: 0.5, KV: kernel.KVLayout{Heads: 2, HeadDim: 24,
	Precision: kernel.PrecisionBF16}}

// attendTestBound is how far from a CPU's an element may be, of values of at most 1: a score's
// products are less than 12 together, of numbers with 16 bits, and exponentials have as many.
const attendTestBound = 0x1p-11

// testAttention tests attention of a class of its own: a token must have the same bytes whatever
// is computed with it, and be near a CPU's. The device does all of it as it will later.
func (d *Device) testAttention() error {
	use := d.attends(kernel.PrecisionBF16)
	if use == attendKernelsOf[kernel.PrecisionBF16] {
		return nil
	}
	want, err := attendTestOn(kernel.NewCPU(nil), attendTestTokens)
	if err != nil {
		return err
	}
	all, err := attendTestOn(d, attendTestTokens)
	if err != nil {
		return fmt.Errorf("kernel %s: %w", kernelNames[use.attend], err)
	}
	some, err := attendTestOn(d, attendTestTokens-3, 1, 1, 1)
	if err != nil {
		return fmt.Errorf("kernel %s: %w", kernelNames[use.attend], err)
	}
	for i, w := range want.Data {
		if off := math.Abs(float64(all.Data[i]) - float64(w)); !(off <= attendTestBound) {
			err = fmt.Errorf("row %d, output %d is %v, must be %v or at most %.2g from it",
				i/want.Dim, i%want.Dim, all.Data[i], w, attendTestBound)
			return d.refused(use.attend, err)
		}
	}
	if err := differing(some.Data, all.Data, all.Dim); err != nil {
		return d.refused(use.attend, err)
	}
	return nil
}

// attendTestOn computes the problem on a device, so many tokens at a time.
func attendTestOn(d kernel.Device, together ...int) (tensor.Rows, error) {
	const tokens = attendTestBefore + attendTestTokens
	next, tiles := numbersOf(200), (tokens+kernel.KVTokens-1)/kernel.KVTokens
	var rows [3]kernel.Rows // of queries, keys and values
	for i, heads := range []int{attendTest.Heads, attendTest.KV.Heads, attendTest.KV.Heads} {
		x := tensor.MakeRows(tokens, heads*attendTest.KV.HeadDim)
		for j := range x.Data {
			x.Data[j] = next.rough() / 8
		}
		var err error
		if rows[i], err = d.Allocate(x.N, x.Dim); err != nil {
			return x, err
		}
		d.Write(rows[i], x)
	}
	memory, err := d.AllocateKV(attendTest.KV, tiles)
	if err != nil {
		return tensor.Rows{}, err
	}
	out, err := d.Allocate(tokens, rows[0].Dim)
	if err != nil {
		return tensor.Rows{}, err
	}
	table := make([]int32, tiles)
	for i := range table {
		table[i] = int32(tiles - 1 - i)
	}
	attend := func(a kernel.Attention, from, n int) {
		part := func(r kernel.Rows) kernel.Rows { return r.Slice(from, from+n) }
		d.Attend(&a, part(out), part(rows[0]), part(rows[1]), part(rows[2]),
			&kernel.KV{Memory: memory, BlockTiles: 1, Tiles: 1,
				Sequences: []kernel.AttentionSequence{{Start: from, Count: n, Table: table}}})
	}
	before := attendTest
	before.Chunk = kernel.KVTokens // their own results are nobody's
	attend(before, 0, attendTestBefore)
	at := attendTestBefore
	for _, n := range together {
		attend(attendTest, at, n)
		at += n
	}
	got, err := d.Read(out.Slice(attendTestBefore, tokens))
	got.Data = slices.Clone(got.Data)
	runtime.KeepAlive(out) // whose memory others would get
	return got, err
}
