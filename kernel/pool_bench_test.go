package kernel

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// spinTask works for a number of turns of a loop in each piece, and notes how long the
// pieces of each thread took.
type spinTask struct {
	turns int
	busy  [16][8]int64 // ticks by thread, each on a line of its own
}

func (s *spinTask) Do(thread, _ int) {
	begin := ticks()
	s.busy[thread][1] = int64(spinTurns(s.turns)) // kept, so that it is computed
	s.busy[thread][0] += ticks() - begin
}

//go:noinline
func spinTurns(n int) (x uint64) {
	for i := range n {
		x = x*6364136223846793005 + uint64(i)
	}
	return x
}

// turnsIn returns how many turns take some time while nothing else runs.
func turnsIn(d time.Duration) int {
	const turns = 100_000
	best := time.Hour
	for range 50 {
		begin := time.Now()
		_ = spinTurns(turns)
		best = min(best, time.Since(begin))
	}
	return int(turns * d / best)
}

// ticksIn returns how many ticks a microsecond has.
func ticksIn() float64 {
	began, begin := time.Now(), ticks()
	for time.Since(began) < 5*time.Millisecond {
		relax()
	}
	return float64(ticks()-begin) * 1000 / float64(time.Since(began))
}

// BenchmarkPoolOverhead measures what Run costs beyond an even share of the work on each
// thread, some 30 µs in pieces of some 10 µs. %shared is in how many runs all threads
// took part: fewer where others want the processors, or threads wake too late.
func BenchmarkPoolOverhead(b *testing.B) {
	restore := runtime.GOMAXPROCS(runtime.NumCPU() + 2)
	defer runtime.GOMAXPROCS(restore)
	for _, pin := range []bool{true, false} {
		for _, sleep := range []bool{false, true} {
			b.Run(fmt.Sprintf("pin=%v/asleep=%v", pin, sleep), func(b *testing.B) {
				p := StartPool(PoolOptions{Threads: runtime.NumCPU(), Pin: pin})
				defer p.Close()
				if all := allowedProcessors(); pin && len(all) > 0 {
					runtime.LockOSThread() // for good: the thread ends with the benchmark
					pinThread(all[0])
				}
				measureOverhead(b, p, sleep)
			})
		}
	}
}

func measureOverhead(b *testing.B, p *Pool, sleep bool) {
	task := &spinTask{turns: turnsIn(10 * time.Microsecond)}
	perMicrosecond := ticksIn()
	over, shared := make([]float64, 0, b.N), 0
	for b.Loop() {
		for sleep && int(p.work.sleepers.Load()) < p.threads-1 {
			runtime.Gosched()
		}
		for begin := ticks(); sleep && !passed(begin, relax(), 30*ticksPerMicrosecond); {
			continue // they are about to
		}
		p.aloneFor = 0
		clear(task.busy[:])
		begin := ticks()
		p.Run(3*p.threads, task)
		took := ticks() - begin
		work, threads := int64(0), 0
		for _, busy := range task.busy {
			work += busy[0]
			if busy[0] > 0 {
				threads++
			}
		}
		if threads == p.threads {
			shared++
		}
		over = append(over, float64(took-work/int64(p.threads))/perMicrosecond)
	}
	slices.Sort(over)
	b.ReportMetric(over[0], "min-µs")
	b.ReportMetric(over[len(over)/2], "median-µs")
	b.ReportMetric(over[len(over)*9/10], "p90-µs")
	b.ReportMetric(100*float64(shared)/float64(len(over)), "%shared")
}

// BenchmarkPoolCrowded measures tasks of some 300 µs of work by one and by two threads in
// turn, while 0, 2 and 8 busy threads want the processors too. speedup is the tasks
// of two in a second over those of one: it must not fall below one.
func BenchmarkPoolCrowded(b *testing.B) {
	for _, others := range []int{0, 2, 8} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			restore := runtime.GOMAXPROCS(runtime.NumCPU() + 2 + others)
			defer runtime.GOMAXPROCS(restore)
			pools := []*Pool{NewPool(1), NewPool(2)}
			task := &spinTask{turns: turnsIn(10 * time.Microsecond)}
			var stop atomic.Bool
			var crowd sync.WaitGroup
			for range others {
				crowd.Go(func() {
					runtime.LockOSThread()
					for !stop.Load() {
						_ = spinTurns(1000)
					}
				})
			}
			var did [2]float64
			for b.Loop() {
				for i, p := range pools {
					// Long enough that the system runs each of the others several times.
					begin, n := time.Now(), 0
					for ; time.Since(begin) < 300*time.Millisecond; n++ {
						p.Run(32, task)
					}
					did[i] += float64(n) / time.Since(begin).Seconds()
				}
			}
			stop.Store(true)
			crowd.Wait()
			pools[1].Close()
			b.ReportMetric(did[0]/float64(b.N), "tasks/s-by-1")
			b.ReportMetric(did[1]/float64(b.N), "tasks/s-by-2")
			b.ReportMetric(did[1]/did[0], "speedup")
		})
	}
}
