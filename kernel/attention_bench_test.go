package kernel_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"drover/internal/limits"
	"drover/kernel"
	"drover/tensor"
)

// contexts are tiles of several contexts, one after the other.
type contexts struct {
	memory   []byte
	size, at int // of a tile; of the context in use
}

func (c *contexts) Tile(_ []int32, i int) []byte {
	return c.memory[c.at+i*c.size : c.at+(i+1)*c.size]
}

// contextBytes is the memory of keys and values: more than caches hold.
const contextBytes = 288 << 20

// BenchmarkAttention measures attention of the last rows of a context, in Maverick's
// shape, on one thread, between bursts of the machine's limits:
//
//	go test ./kernel -run xxx -bench Attention -benchtime 20x
//
// It reports the median share of the smaller limit: reading all keys and values once, or
// multiplying. One iteration is a burst of each.
func BenchmarkAttention(b *testing.B) {
	const heads, kvHeads, dim = 40, 8, 128
	machine, err := limits.New(1, 256<<20, kernel.Instructions())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := machine.Measure(); err != nil {
		b.Fatal(err)
	}
	buffer, err := kernel.NewBuffer(contextBytes)
	if err != nil {
		b.Fatal(err)
	}
	defer runtime.KeepAlive(buffer)
	r := rand.New(rand.NewPCG(1, 2))
	for p := kernel.PrecisionExact; p <= kernel.PrecisionInt8; p++ {
		a := kernel.Attention{Heads: heads, KV: kernel.KVLayout{Heads: kvHeads, HeadDim: dim, Precision: p},
			Scale: 0.088}
		fillTiles(r, a.KV, buffer.Bytes())
		for _, rows := range []int{1, 64} {
			for _, tokens := range []int{512, 8192, 32768, 65536} {
				if tokens/kernel.KVTokens*a.KV.TileBytes() > contextBytes {
					continue
				}
				b.Run(fmt.Sprintf("%v/rows=%d/context=%d", p, rows, tokens), func(b *testing.B) {
					measure(b, machine, &a, buffer.Bytes(), rows, tokens)
				})
			}
		}
	}
}

// fillTiles writes one tile and copies it.
func fillTiles(r *rand.Rand, l kernel.KVLayout, memory []byte) {
	n := l.Heads * l.HeadDim
	k, v := make([]float32, n), make([]float32, n)
	for at := range kernel.KVTokens {
		for i := range k {
			k[i], v[i] = float32(r.NormFloat64()), float32(r.NormFloat64())
		}
		l.Put(memory[:l.TileBytes()], at, k, v)
	}
	for at := l.TileBytes(); at < len(memory); {
		at += copy(memory[at:], memory[:at])
	}
}

func measure(b *testing.B, machine *limits.Machine, a *kernel.Attention, memory []byte,
	rows, tokens int) {
	q, out := tensor.MakeRows(rows, a.Heads*a.KV.HeadDim), tensor.MakeRows(rows, a.Heads*a.KV.HeadDim)
	for i := range q.Data {
		q.Data[i] = float32(i%13) - 6
	}
	tiles := &contexts{memory: memory, size: a.KV.TileBytes()}
	context := tokens / kernel.KVTokens * tiles.size
	seqs := []kernel.AttentionSequence{{Start: tokens - rows, Count: rows}}
	pairs := float64(rows) * (float64(tokens) - float64(rows-1)/2)
	flops := 4 * pairs * float64(a.Heads*a.KV.HeadDim)
	var run kernel.AttentionRun
	piece, pieces := 0, 0
	// A burst is at least 3 ms of pieces, as the limits' bursts are.
	burst := func() float64 {
		begin, done := time.Now(), 0.0
		for time.Since(begin) < 3*time.Millisecond {
			if piece == pieces {
				if tiles.at += context; tiles.at+context > len(memory) {
					tiles.at = 0
				}
				piece, pieces = 0, run.Prepare(a, out, q, seqs, tiles, 1)
			}
			run.Do(0, piece)
			piece++
			done += 1 / float64(pieces)
		}
		return done / time.Since(begin).Seconds()
	}
	burst()
	var shares, reads, fmas, rates []float64
	for range b.N {
		read := machine.Burst(limits.Read, 1) * 1e9 / float64(context)
		fma := machine.Burst(limits.FMA, 1) * 1e9 / flops
		rate := burst()
		shares = append(shares, rate/min(read, fma))
		reads, fmas, rates = append(reads, read), append(fmas, fma), append(rates, rate)
	}
	slices.Sort(shares)
	b.ReportMetric(shares[len(shares)/2], "share")
	best := slices.Max(rates)
	b.ReportMetric(best/min(slices.Max(reads), slices.Max(fmas)), "best-share")
	b.ReportMetric(best*flops/1e9, "best-GFLOP/s")
	b.ReportMetric(slices.Max(reads)*float64(context)/1e9, "read-GB/s")
	b.ReportMetric(slices.Max(fmas)*flops/1e9, "fma-GFLOP/s")
	b.ReportMetric(0, "ns/op")
}
