package kernel_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"drover/internal/limits"
	"drover/kernel"
	"drover/tensor"
)

// BenchmarkIntegers measures products of integers on one thread and compares them, burst by
// burst, with the memory's rate and with that of exact dot products from registers:
//
//	go test ./kernel -run '^$' -bench Integers -benchtime 50x
//
// Weights are more than caches hold. An operation is a burst of products of some
// milliseconds; %limit is the fraction of what bounds it, memory or arithmetic.
func BenchmarkIntegers(b *testing.B) {
	m, err := limits.New(1, 160<<20, kernel.Instructions())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := m.Measure(); err != nil {
		b.Fatal(err)
	}
	for f := kernel.WeightsInt8; f <= kernel.WeightsInt4; f++ {
		for _, s := range [][2]int{{2048, 5120}, {1024, 8192}, {1024, 2048}} {
			all := manyMatrices(b, s[0], s[1], f)
			for _, rows := range []int{1, 2, 4, 8, 16, 32, 64, 128} {
				b.Run(fmt.Sprintf("%v/%dx%d/rows=%d", f, s[0], s[1], rows), func(b *testing.B) {
					compareWithLimits(b, m, all, rows)
				})
			}
		}
	}
}

// manyMatrices are matrices that caches do not hold together.
func manyMatrices(b *testing.B, n, k int, f kernel.Format) []*kernel.Matrix {
	var all []*kernel.Matrix
	for total := 0; total < 160<<20; total += kernel.MatrixBytes(n, k, f) {
		m, err := kernel.NewMatrix(n, k, f)
		if err != nil {
			b.Fatal(err)
		}
		w := m.Packed() // any bytes are weights, and every page is to be its own
		for i := range w {
			w[i] = 17
		}
		all = append(all, m)
	}
	return all
}

func compareWithLimits(b *testing.B, l *limits.Machine, all []*kernel.Matrix, rows int) {
	first := all[0]
	kind := limits.Int8
	if first.Format() == kernel.WeightsInt4 {
		kind = limits.Int4
	}
	r := rand.New(rand.NewPCG(35, 36))
	x, y := tensor.MakeRows(rows, first.K), tensor.MakeRows(rows, first.N)
	for i := range x.Data {
		x.Data[i] = float32(r.NormFloat64())
	}
	var a kernel.Activations
	a.Prepare(x, first.Format())
	a.Quantise(0, rows)
	var bytes, operations, read, dot []float64
	for next := 0; b.Loop(); {
		products, began := 0, time.Now()
		for ; time.Since(began) < 3*time.Millisecond; products++ {
			all[next].MulPart(y, &a, 0, first.N)
			next = (next + 1) % len(all)
		}
		rate := float64(products) / time.Since(began).Seconds() / 1e9
		bytes = append(bytes, rate*float64(first.Bytes()))
		operations = append(operations, rate*float64(2*rows*first.N*first.K))
		read = append(read, l.Burst(limits.Read, 1))
		dot = append(dot, l.Burst(kind, 1))
	}
	perByte := median(operations) / median(bytes)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(bytes), "GB/s")
	b.ReportMetric(median(operations), "GOP/s")
	b.ReportMetric(100*median(bytes)/min(median(read), median(dot)/perByte), "%limit")
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}
