//go:build cuda && linux

package cuda

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"drover/kernel"
)

// gateReference is moe.SigmoidTopK for one row, by sorting: this package may not import
// moe. NaNs are not compared.
func gateReference(logits []float32, k int) (experts []int32, weights []float32) {
	for i := range logits {
		experts = append(experts, int32(i))
	}
	slices.SortStableFunc(experts, func(a, b int32) int { return cmp.Compare(logits[b], logits[a]) })
	experts = experts[:k]
	for _, e := range experts {
		weights = append(weights, logits[e])
	}
	kernel.Sigmoid(weights, weights)
	return experts, weights
}

// fewValues are logits of which many are equal, of both signs of zero.
func fewValues(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.IntN(9)-4) * []float32{1, -1, 1e30}[rng.IntN(3)]
	}
	return x
}

func (b *bench) sameInts(m *Memory, want []int32, what string) {
	b.Helper()
	raw := b.read(m, 0, 4*len(want))
	got := unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(raw))), len(want))
	if !slices.Equal(got, want) {
		b.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestGateTopK(t *testing.T) {
	b := newBench(t)
	rng := rand.New(rand.NewPCG(23, 24))
	for _, s := range [][3]int{{1, 1, 1}, {5, 16, 1}, {130, 128, 1}, {3, 128, 8}, {2, 7, 7}} {
		rows, count, k := s[0], s[1], s[2]
		for range 5 {
			logits := fewValues(rng, rows*count)
			logits[0] = float32(math.Inf(1 - 2*rng.IntN(2)))
			var experts []int32
			var weights []float32
			for i := range rows {
				e, w := gateReference(logits[i*count:(i+1)*count], k)
				experts, weights = append(experts, e...), append(weights, w...)
			}
			de, dw := b.on(make([]byte, 4*rows*k)), b.on(make([]byte, 4*rows*k))
			b.launch("gate_topk", Grid{ceil(rows, 64), 1, 64}, de.At(0), dw.At(0),
				b.on(bytesOf(logits)).At(0), uint64(rows), uint64(count), uint64(k))
			b.sameInts(de, experts, "experts")
			b.same(dw, weights, "weights of %d of %d experts", k, count)
		}
	}
}

// sampleTopK runs the launches that choose the k best of each row.
func (b *bench) sampleTopK(logits []float32, rows, k int) (tokens, values *Memory) {
	b.Helper()
	count := len(logits) / rows
	in, name := b.on(bytesOf(logits)), "sample_topk"
	for {
		blocks := chooseBlocks(count)
		best := b.on(make([]byte, 8*rows*blocks*k))
		b.launch(name, Grid{uint32(blocks), uint32(rows), chooseThreads}, best.At(0), in.At(0),
			uint64(count), uint64(k))
		in, name, count = best, "sample_merge", blocks*k
		if blocks == 1 {
			break
		}
	}
	tokens, values = b.on(make([]byte, 4*rows*k)), b.on(make([]byte, 4*rows*k))
	b.launch("sample_read", Grid{ceil(rows*k, 128), 1, 128}, tokens.At(0), values.At(0), in.At(0),
		uint64(rows*k))
	return tokens, values
}

func testSampleTopK(t *testing.T) {
	b := newBench(t)
	rng := rand.New(rand.NewPCG(25, 26))
	for i, s := range [][3]int{{1, 1, 1}, {2, 100, 7}, {1, 2049, 64}, {1, 9000, maxSampleTop}} {
		rows, count, k := s[0], s[1], s[2]
		logits := fewValues(rng, rows*count)
		if i%2 == 1 {
			logits = numbers(rng, rows*count, true)
		}
		var tokens []int32
		var values []float32
		for r := range rows {
			row := logits[r*count : (r+1)*count]
			var all []int32
			for j := range row {
				all = append(all, int32(j))
				if row[j] == 0 {
					row[j] = 0 // a negative zero is not told apart
				}
			}
			slices.SortStableFunc(all, func(x, y int32) int { return cmp.Compare(row[y], row[x]) })
			for _, token := range all[:k] {
				tokens, values = append(tokens, token), append(values, row[token])
			}
		}
		dt, dv := b.sampleTopK(logits, rows, k)
		b.sameInts(dt, tokens, "tokens")
		b.same(dv, values, "%d best of %d logits", k, count)
	}
}

// TestSampleTopK compares with sorting, with threads in order.
func TestSampleTopK(t *testing.T) { testSampleTopK(t) }

func TestSampleTopKReverse(t *testing.T) {
	if with(t, "STANDIN", "reverse") {
		testSampleTopK(t)
	}
}

func TestSampleTopKShuffle(t *testing.T) {
	if with(t, "STANDIN", "shuffle") {
		testSampleTopK(t)
	}
}
