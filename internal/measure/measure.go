// Package measure counts how often values fall into ranges: without locks and without
// allocations, so that it may stand on the way of every token. It knows nothing of who
// reads the counts.
package measure

import (
	"math"
	"sync/atomic"
	"time"
)

// Histogram counts values by ranges. It is safe for concurrent use.
type Histogram struct {
	bounds []float64       // ascending; fixed
	counts []atomic.Uint64 // of values up to each bound and above the one before; then the rest
	sum    atomic.Uint64   // the bits of a float64
}

// New returns a Histogram with these upper bounds, which must ascend.
func New(bounds ...float64) *Histogram {
	for i := 1; i < len(bounds); i++ {
		if !(bounds[i] > bounds[i-1]) {
			panic("measure: bounds must ascend")
		}
	}
	return &Histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

// Powers returns count bounds from first on, each factor times the one before.
func Powers(first, factor float64, count int) []float64 {
	bounds := make([]float64, count)
	for i := range bounds {
		bounds[i] = first * math.Pow(factor, float64(i))
	}
	return bounds
}

// Observe counts a value.
func (h *Histogram) Observe(value float64) {
	i := 0
	for i < len(h.bounds) && value > h.bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+value)) {
			return
		}
	}
}

// ObserveTime counts a time in seconds; what a clock makes negative is 0.
func (h *Histogram) ObserveTime(d time.Duration) { h.Observe(max(d, 0).Seconds()) }

// Counts are what a Histogram had counted at one moment.
type Counts struct {
	// Bounds are the ranges' upper bounds, the last range has none; UpTo holds how many
	// values are at most each bound, and Count how many there are.
	Bounds []float64
	UpTo   []uint64
	Count  uint64
	// Sum is that of all values. Values that are counted meanwhile may be in it and not in
	// Count.
	Sum float64
}

// Counts returns what was counted so far.
func (h *Histogram) Counts() Counts {
	c := Counts{Bounds: h.bounds, UpTo: make([]uint64, len(h.bounds)),
		Sum: math.Float64frombits(h.sum.Load())}
	for i := range h.counts {
		c.Count += h.counts[i].Load()
		if i < len(c.UpTo) {
			c.UpTo[i] = c.Count
		}
	}
	return c
}
