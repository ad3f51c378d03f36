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

// operationTest is an operation with fixed operands, as any device does it, and the kernels that
// it uses on a GPU, beside those of products.
type operationTest struct {
	kernels []kernelID
	run     func(d kernel.Device) (kernel.Rows, error)
}

// operationRows and operationDim are the shape of what operations are tested with.
const operationRows, operationDim = 5, 72

// operationTests are all operations on rows. Those that write to their operand are given a copy.
var operationTests = []operationTest{
	{[]kernelID{embedRows}, embedTest},
	{[]kernelID{normSums, normFactors, normApply}, func(d kernel.Device) (kernel.Rows, error) {
		x, weight, err := testPair(d, operationRows, 1)
		if err == nil {
			d.Norm(x, x, weight, 1e-5)
		}
		return x, err
	}},
	{[]kernelID{rotateRows}, func(d kernel.Device) (kernel.Rows, error) {
		x, angles, err := testPair(d, operationRows, 2*operationRows)
		if err == nil {
			// Any numbers do. A row of angles is as wide as half a head.
			angles = angles.Split(operationDim / 8)
			cos, sin := angles.Slice(0, operationRows), angles.Slice(operationRows, 2*operationRows)
			d.Rotate(x, cos, sin, kernel.RotaryPairs)
			d.Rotate(x, sin, cos, kernel.RotaryHalves)
		}
		return x, err
	}},
	{[]kernelID{addRows, scaleRows}, func(d kernel.Device) (kernel.Rows, error) {
		x, y, err := testPair(d, operationRows, operationRows)
		if err == nil {
			d.ScaleRows(x, y.Split(1).Slice(0, operationRows))
			d.Add(x, y)
		}
		return x, err
	}},
	{[]kernelID{gatherRows}, func(d kernel.Device) (kernel.Rows, error) {
		x, y, err := testPair(d, operationRows, operationRows)
		if err == nil {
			d.Gather(y, x, testPick, tensor.BF16)
		}
		return y, err
	}},
	{[]kernelID{scatterRows}, func(d kernel.Device) (kernel.Rows, error) {
		x, y, err := testPair(d, operationRows, operationRows)
		if err == nil {
			d.Scatter(x, y, testPick)
		}
		return x, err
	}},
	{[]kernelID{swigluRows}, swigluTest},
}

// testPick picks rows, one of them twice and one not at all.
var testPick = kernel.Picks{Rows: []int32{3, 0, 3, 4, 1}, Weights: []float32{0.3, 2, -1.7, 1, 0.9}}

// testRows are rows of fixed numbers on a device.
func testRows(d kernel.Device, seed uint64, rows int) (kernel.Rows, error) {
	x, next := tensor.MakeRows(rows, operationDim), numbersOf(seed)
	for i := range x.Data {
		x.Data[i] = next.rough()
	}
	on, err := d.Allocate(x.N, x.Dim)
	if err == nil {
		d.Write(on, x)
	}
	return on, err
}

func testPair(d kernel.Device, rows, more int) (x, y kernel.Rows, err error) {
	if x, err = testRows(d, 300, rows); err == nil {
		y, err = testRows(d, 301, more)
	}
	return x, y, err
}

func embedTest(d kernel.Device) (kernel.Rows, error) {
	const words = 7
	data, next := make([]byte, 2*words*operationDim), numbersOf(302)
	for i := range words * operationDim {
		h := tensor.Float32ToBF16(next.rough())
		data[2*i], data[2*i+1] = byte(h), byte(h>>8)
	}
	table, err := d.UploadTable(kernel.TableBytes{Data: data, DType: tensor.BF16, Rows: words,
		Dim: operationDim})
	if err != nil {
		return kernel.Rows{}, err
	}
	x, err := d.Allocate(operationRows, operationDim)
	if err == nil {
		d.Embed(x, table, []int32{6, 0, 3, 3, 1})
	}
	return x, err
}

// swigluTest goes through a network whose last matrix changes nothing.
func swigluTest(d kernel.Device) (y kernel.Rows, err error) {
	gateUp := testShape{operationRows, 2 * operationDim, operationDim}
	up, err := gateUp.weights(kernel.WeightsF32, true, false)
	if err != nil {
		return y, err
	}
	down, err := kernel.NewMatrix(operationDim, operationDim, kernel.WeightsF32)
	for i := 0; i < operationDim && err == nil; i++ {
		one := make([]float32, operationDim)
		one[i] = 1
		err = down.SetRow(i, one)
	}
	if err != nil {
		return y, err
	}
	part := kernel.FeedForwardPart{To: operationRows}
	if part.GateUp, err = d.Upload(up); err != nil {
		return y, err
	}
	if part.Down, err = d.Upload(down); err != nil {
		return y, err
	}
	x, y, err := testPair(d, operationRows, operationRows)
	if err == nil {
		d.FeedForward(y, x, []kernel.FeedForwardPart{part})
	}
	return y, err
}

// testOperations compares what operations make here with what they make on a CPU.
func (d *Device) testOperations() error {
	cpu := kernel.NewCPU(nil)
	for _, t := range operationTests {
		want, err := resultOf(cpu, t.run)
		if err != nil {
			return err
		}
		got, err := resultOf(d, t.run)
		if err != nil {
			return fmt.Errorf("kernel %s: %w", namesOf(t.kernels), err)
		}
		if wrong := differing(got.Data, want.Data, want.Dim); wrong != nil {
			return d.refused(wrong, t.kernels...)
		}
	}
	for p := kernel.PrecisionExact; p <= kernel.PrecisionInt8; p++ {
		if err := d.testAttention(cpu, p); err != nil {
			return err
		}
	}
	return nil
}

// resultOf is what an operation makes on a device, in memory of its own.
func resultOf(d kernel.Device, run func(d kernel.Device) (kernel.Rows, error)) (tensor.Rows,
	error) {
	rows, err := run(d)
	if err != nil {
		return tensor.Rows{}, err
	}
	got, err := d.Read(rows)
	got.Data = slices.Clone(got.Data)
	runtime.KeepAlive(rows) // whose memory others would get
	return got, err
}

// The problem of attention: queries of some tokens behind others, so that positions are more
// than go through together.
const (
	attendTestBefore = 256
	attendTestTokens = 6
)

// attendTestBound is how far attention of a class of its own may be from a CPU's, of values of
// at most 1: a score's products are less than 12 together, of numbers with 16 bits, and
// exponentials have as many.
const attendTestBound = 0x1p-11

// testAttention tests attention over keys and values of a precision. A token must have the same
// bytes whatever is computed with it.
func (d *Device) testAttention(cpu kernel.Device, p kernel.Precision) error {
	run := func(on kernel.Device, together ...int) (tensor.Rows, error) {
		return resultOf(on, func(on kernel.Device) (kernel.Rows, error) {
			return attendTest(on, p, together)
		})
	}
	want, err := run(cpu, attendTestTokens)
	if err != nil {
		return err
	}
	use := d.attends(p)
	var got [2]tensor.Rows // of all tokens together, and of some alone
	for i, together := range [][]int{{attendTestTokens}, {attendTestTokens - 2, 1, 1}} {
		if got[i], err = run(d, together...); err != nil {
			return fmt.Errorf("kernel %s: %w", namesOf([]kernelID{use.store, use.attend}), err)
		}
	}
	bound := 0.0
	if slices.Contains(tensorOnly, use.attend) {
		bound = attendTestBound
	}
	for i, w := range want.Data {
		if off := math.Abs(float64(got[0].Data[i]) - float64(w)); !(off <= bound) {
			return d.refused(fmt.Errorf("row %d, output %d is %v, must be %v or at most %.2g from it",
				i/want.Dim, i%want.Dim, got[0].Data[i], w, bound), use.store, use.attend)
		}
	}
	if wrong := differing(got[1].Data, got[0].Data, want.Dim); wrong != nil {
		return d.refused(wrong, use.store, use.attend)
	}
	if bound > 0 {
		d.round(got[0].Data)
	}
	return nil
}

// attendTest queues the problem of attention, so many tokens at a time.
func attendTest(d kernel.Device, p kernel.Precision, together []int) (out kernel.Rows, err error) {
	const tokens = attendTestBefore + attendTestTokens
	a := kernel.Attention{Heads: operationDim / 12, Scale: 0.5, KV: kernel.KVLayout{
		Heads: operationDim / 36, HeadDim: 12, Precision: p}}
	var rows [3]kernel.Rows // of queries, keys and values
	for i := range rows {
		heads := a.KV.Heads
		if i == 0 {
			heads = a.Heads
		}
		if rows[i], err = attendTestRows(d, uint64(i), tokens, heads*a.KV.HeadDim); err != nil {
			return out, err
		}
	}
	tiles := (tokens + kernel.KVTokens - 1) / kernel.KVTokens
	memory, err := d.AllocateKV(a.KV, tiles)
	if err != nil {
		return out, err
	}
	if out, err = d.Allocate(tokens, rows[0].Dim); err != nil {
		return out, err
	}
	table := make([]int32, tiles)
	for i := range table {
		table[i] = int32(tiles - 1 - i)
	}
	at := 0
	attend := func(a kernel.Attention, n int) {
		part := func(r kernel.Rows) kernel.Rows { return r.Slice(at, at+n) }
		d.Attend(&a, part(out), part(rows[0]), part(rows[1]), part(rows[2]),
			&kernel.KV{Memory: memory, BlockTiles: 1, Tiles: 1,
				Sequences: []kernel.AttentionSequence{{Start: at, Count: n, Table: table}}})
		at += n
	}
	before := a
	before.Chunk = kernel.KVTokens // their own results are nobody's
	attend(before, attendTestBefore)
	for _, n := range together {
		attend(a, n)
	}
	return out.Slice(attendTestBefore, tokens), nil
}

// attendTestRows are rows of numbers of at most 1.
func attendTestRows(d kernel.Device, seed uint64, n, dim int) (kernel.Rows, error) {
	x, next := tensor.MakeRows(n, dim), numbersOf(400+seed)
	for i := range x.Data {
		x.Data[i] = next.rough() / 8
	}
	on, err := d.Allocate(n, dim)
	if err == nil {
		d.Write(on, x)
	}
	return on, err
}
