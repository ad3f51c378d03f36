package load

import (
	"math"
	"time"
)

// Histogram counts times in buckets that are 1 % wide, from a microsecond to six hours, in a
// fixed amount of memory. Its quantiles are within 0.5 % of the true ones; its largest time is
// exact, and so is its mean. The zero value is empty.
type Histogram struct {
	buckets [bucketCount]uint64
	count   uint64
	sum     float64 // of seconds
	largest time.Duration
}

// Bucket 0 holds what is shorter than a microsecond, and counts as no time at all; the last one
// holds what is longer than all others hold.
const (
	bucketCount  = 2400
	bucketGrowth = 1.01
)

// Add counts one time.
func (h *Histogram) Add(d time.Duration) {
	i := 0
	if d >= time.Microsecond {
		micros := float64(d) / float64(time.Microsecond)
		i = min(1+int(math.Log(micros)/math.Log(bucketGrowth)), bucketCount-1)
	}
	h.buckets[i]++
	h.count++
	h.sum += d.Seconds()
	h.largest = max(h.largest, d)
}

// Quantile returns the smallest time that at least the part q of all are not above.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := max(1, uint64(math.Ceil(q*float64(h.count))))
	for i, n := range h.buckets {
		if n < rank {
			rank -= n
			continue
		}
		if i == 0 {
			return 0
		}
		middle := math.Pow(bucketGrowth, float64(i)-0.5) * float64(time.Microsecond)
		return min(time.Duration(middle), h.largest)
	}
	return h.largest
}

// Quantiles is a histogram in a few numbers: milliseconds, and how many there were.
type Quantiles struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// Quantiles returns all zero for an empty histogram.
func (h *Histogram) Quantiles() Quantiles {
	if h.count == 0 {
		return Quantiles{}
	}
	return Quantiles{
		Count: h.count, Mean: 1000 * h.sum / float64(h.count), P50: Milliseconds(h.Quantile(0.5)),
		P90: Milliseconds(h.Quantile(0.9)), P99: Milliseconds(h.Quantile(0.99)),
		Max: Milliseconds(h.largest),
	}
}

// Milliseconds is a time as reports show it, in steps of a microsecond.
func Milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}
