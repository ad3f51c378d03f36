// Package limits measures what this machine can do at best: read memory, and multiply and add in
// float32 and in small integers. Speeds of kernels are told as fractions of these, measured in the
// same minutes.
//
// Every rate is work by the time that its thread ran, in bursts of some milliseconds, so that what
// else the machine does counts only where it takes memory bandwidth and caches. A loop in assembly
// runs for less than 200 µs at a time, so that the Go runtime can stop it.
package limits

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"drover/kernel"
)

// Kind is a limit.
type Kind int

const (
	// Read is the rate of reading memory that is in no cache, in GB/s.
	Read Kind = iota
	// FMA is the rate of float32 operations in fused multiply-adds from registers, in GFLOP/s.
	FMA
	// Int8 is the rate of operations in exact dot products of 8 bits by 8 bits from registers, two
	// for a product and its sum, in GOP/s.
	Int8
	// Int4 is Int8 with unsigned codes of 4 bits, one in a byte, by 8 bits.
	Int4
	kinds
)

// Spread is the range of several bursts, in billions a second.
type Spread struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

// Limit is the best of several ways to do a kind of work.
type Limit struct {
	Threads int `json:"threads"`
	// Class is the instruction set of the best way, one of Classes; go is plain Go, which is below
	// what the machine can do.
	Class string `json:"class"`
	// Way says how the best way goes.
	Way string `json:"way"`
	Spread
}

// Classes are the instruction sets, each with those before it.
func Classes() []string { return []string{"go", "avx2", "avx512", "avx512vnni"} }

// Limits are the machine's limits, each with one thread and with all.
type Limits struct {
	Read []Limit `json:"read_gbps"`
	FMA  []Limit `json:"fma_gflops"`
	Int8 []Limit `json:"int8_gops"`
	Int4 []Limit `json:"int4_gops"`
}

// BufferBytes is the memory that a Machine reads unless told otherwise: more than caches hold.
const BufferBytes = 512 << 20

const (
	// burst is how long each thread works in a burst.
	burst = 3 * time.Millisecond
	// tries is how many bursts of each way decide which is best.
	tries = 11
	// chunk is read in one call: less than 200 µs at 3 GB/s.
	chunk = 512 << 10
)

// Machine measures limits with a fixed number of threads at most. It is for one goroutine.
type Machine struct {
	threads int
	buf     *kernel.Buffer
	whole   [1]region // of one thread alone
	regions []region  // of all threads
	ways    [kinds][]way
	best    map[selector]way
}

type selector struct {
	kind    Kind
	threads int
}

// way is one way to do a kind of work. do does a piece of it for a thread whose part of the
// memory is r, and returns how much.
type way struct {
	class, name string
	do          func(r *region) float64
}

// region is one thread's part of the memory, with the place of its next read.
type region struct {
	b  []byte
	at int
	_  [64]byte // no two threads write to one cache line
}

// New makes a Machine that reads so many bytes of memory, which it allocates and touches. It uses
// no instructions beyond those of a class, all that there are for "".
func New(threads, bytes int, class string) (*Machine, error) {
	if threads < 1 {
		return nil, fmt.Errorf("measure limits with %d threads: must be at least 1", threads)
	}
	each := bytes / threads / chunk * chunk
	if each == 0 {
		return nil, fmt.Errorf("measure limits with %d threads on %d bytes: %d bytes are needed "+
			"for each", threads, bytes, chunk)
	}
	ways, err := waysUpTo(class)
	if err != nil {
		return nil, err
	}
	buf, err := kernel.NewBuffer(each * threads)
	if err != nil {
		return nil, err
	}
	m := &Machine{threads: threads, buf: buf, regions: make([]region, threads),
		ways: ways, best: map[selector]way{}}
	b := buf.Bytes()
	for at := 0; at < len(b); at += 4096 {
		b[at] = byte(at>>12) | 1 // every untouched page would be one page of zeros
	}
	m.whole[0].b = b
	for i := range m.regions {
		m.regions[i].b = b[i*each : (i+1)*each]
	}
	return m, nil
}

// waysUpTo returns the ways of a class and of those before it.
func waysUpTo(class string) ([kinds][]way, error) {
	ways := [kinds][]way{readers(), multipliers(), integers(false), integers(true)}
	if class == "" {
		return ways, nil
	}
	last := slices.Index(Classes(), class)
	if last < 0 {
		return ways, fmt.Errorf("measure limits of instructions %q: known are %q", class, Classes())
	}
	for kind := range ways {
		ways[kind] = slices.DeleteFunc(ways[kind], func(w way) bool {
			return slices.Index(Classes(), w.class) > last
		})
	}
	return ways, nil
}

// Threads lists the numbers of threads that are measured: 1 and all.
func (m *Machine) Threads() []int {
	if m.threads == 1 {
		return []int{1}
	}
	return []int{1, m.threads}
}

// Measure tries all ways in turn and keeps the best of each kind.
func (m *Machine) Measure() (Limits, error) {
	var l Limits
	for _, n := range m.Threads() {
		for kind, into := range map[Kind]*[]Limit{
			Read: &l.Read, FMA: &l.FMA, Int8: &l.Int8, Int4: &l.Int4,
		} {
			best, err := m.measure(selector{kind, n})
			if err != nil {
				return Limits{}, err
			}
			*into = append(*into, best)
		}
	}
	return l, nil
}

func (m *Machine) measure(s selector) (Limit, error) {
	ways := m.ways[s.kind]
	rates := make([][]float64, len(ways))
	for range tries {
		for i, w := range ways {
			rates[i] = append(rates[i], m.burst(w, s.threads))
		}
	}
	var best Limit
	for i, w := range ways {
		if spread := SpreadOf(rates[i]); i == 0 || spread.Median > best.Median {
			best = Limit{s.threads, w.class, w.name, spread}
			m.best[s] = w
		}
	}
	if !(best.Min > 0) {
		return Limit{}, errors.New("measure limits: a burst took no time that could be measured")
	}
	return best, nil
}

// Burst measures one limit once more, in the way that Measure found best, in billions a second.
// Threads is one of Threads(), and Measure was called.
func (m *Machine) Burst(kind Kind, threads int) float64 {
	return m.burst(m.best[selector{kind, threads}], threads)
}

func (m *Machine) burst(w way, threads int) float64 {
	regions := m.regions
	if threads == 1 {
		regions = m.whole[:]
	}
	rate := Together(threads, burst, func(t int) float64 { return w.do(&regions[t]) })
	runtime.KeepAlive(m.buf)
	return rate / 1e9
}

// Together calls f on n threads, which begin at the same time, again and again until each has run
// for a time, at least once on each. It returns the sum of what f returned by the time that each
// thread ran, per second. f is told the number of its thread, from 0.
func Together(n int, atLeast time.Duration, f func(thread int) float64) float64 {
	if n == 1 {
		return alone(0, atLeast, f)
	}
	rates := make([]float64, n)
	var waiting atomic.Int32
	waiting.Store(int32(n))
	var done sync.WaitGroup
	for t := range n {
		done.Go(func() {
			waiting.Add(-1)
			for waiting.Load() > 0 {
				runtime.Gosched()
			}
			rates[t] = alone(t, atLeast, f)
		})
	}
	done.Wait()
	var sum float64
	for _, r := range rates {
		sum += r
	}
	return sum
}

func alone(thread int, atLeast time.Duration, f func(thread int) float64) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var work float64
	begin, left := threadTime(), max(atLeast, 1)
	for {
		// The time of day is cheap to read between short calls, the thread's clock is not.
		for start := time.Now(); ; {
			work += f(thread)
			if time.Since(start) >= left {
				break
			}
		}
		ran := threadTime() - begin
		if ran >= atLeast && ran > 0 {
			return work / ran.Seconds()
		}
		left = max(atLeast-ran, 1)
	}
}

// SpreadOf returns the range of some rates, at least one, which it sorts.
func SpreadOf(rates []float64) Spread {
	slices.Sort(rates)
	n := len(rates)
	return Spread{rates[0], (rates[(n-1)/2] + rates[n/2]) / 2, rates[n-1]}
}

// next returns a piece of a region that was not read for the longest time.
func (r *region) next(size int) []byte {
	if r.at+size > len(r.b) {
		r.at = 0
	}
	p := r.b[r.at : r.at+size]
	r.at += size
	return p
}
