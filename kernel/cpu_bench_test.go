package kernel

import (
	"fmt"
	"testing"

	"drover/tensor"
)

// BenchmarkCPUMul multiplies one row, on one thread and on two, with matrices whose
// products take from microseconds to a millisecond: where two threads begin to gain is
// what cuts.forkNanos stands for.
func BenchmarkCPUMul(b *testing.B) {
	for _, size := range [][2]int{{256, 512}, {512, 1024}, {1024, 1024}, {2048, 2048}, {5120, 5120}} {
		m, err := NewMatrix(size[0], size[1], WeightsBF16)
		if err != nil {
			b.Fatal(err)
		}
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%dx%d/threads=%d", m.N, m.K, threads), func(b *testing.B) {
				pool := NewPool(threads)
				defer pool.Close()
				d := NewCPU(pool)
				d.cuts.forkNanos = 0
				benchmarkMul(b, d, m)
			})
		}
	}
}

func benchmarkMul(b *testing.B, d *CPU, m *Matrix) {
	x, err := d.Allocate(1, m.K)
	if err != nil {
		b.Fatal(err)
	}
	y, err := d.Allocate(1, m.N)
	if err != nil {
		b.Fatal(err)
	}
	d.Write(x, tensor.MakeRows(1, m.K))
	products := []Product{{Y: y, W: m}}
	b.ReportAllocs()
	for b.Loop() {
		d.Mul(x, products)
	}
}

// BenchmarkCPUFeedForward runs one row through each of several experts of Llama 4's
// size, whose weights do not fit into any cache.
func BenchmarkCPUFeedForward(b *testing.B) {
	const hidden, width, experts = 5120, 8192, 4
	for _, f := range []Format{WeightsBF16, WeightsInt4} {
		var parts []FeedForwardPart
		for i := range experts {
			gateUp, err := NewMatrix(2*width, hidden, f)
			if err != nil {
				b.Fatal(err)
			}
			down, err := NewMatrix(hidden, width, f)
			if err != nil {
				b.Fatal(err)
			}
			clear(gateUp.w) // pages that were never written to share one page of zeros
			clear(down.w)
			parts = append(parts, FeedForwardPart{GateUp: gateUp, Down: down, From: i, To: i + 1})
		}
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%v/threads=%d", f, threads), func(b *testing.B) {
				pool := NewPool(threads)
				defer pool.Close()
				benchmarkFeedForward(b, NewCPU(pool), hidden, parts)
			})
		}
	}
}

func benchmarkFeedForward(b *testing.B, d *CPU, hidden int, parts []FeedForwardPart) {
	x, err := d.Allocate(len(parts), hidden)
	if err != nil {
		b.Fatal(err)
	}
	y, err := d.Allocate(len(parts), hidden)
	if err != nil {
		b.Fatal(err)
	}
	d.Write(x, tensor.MakeRows(x.N, hidden))
	b.ReportAllocs()
	bytes := 0
	for _, p := range parts {
		bytes += p.GateUp.Bytes() + p.Down.Bytes()
	}
	b.SetBytes(int64(bytes))
	for b.Loop() {
		d.FeedForward(y, x, parts)
	}
}

// BenchmarkCPUOverhead adds rows that are so short that the call is what takes time.
func BenchmarkCPUOverhead(b *testing.B) {
	d := NewCPU(nil)
	x, err := d.Allocate(1, 64)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		d.Add(x, x)
	}
}
