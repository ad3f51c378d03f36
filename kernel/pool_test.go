package kernel

import (
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// countingTask counts the calls of each piece, and panics in one.
type countingTask struct {
	t       *testing.T
	threads int
	busy    []atomic.Int32 // by thread
	calls   []atomic.Int32 // by piece
	panics  int            // the piece that panics, none if negative
}

func newCountingTask(t *testing.T, threads, pieces int) *countingTask {
	return &countingTask{t: t, threads: threads, busy: make([]atomic.Int32, threads),
		calls: make([]atomic.Int32, pieces), panics: -1}
}

func (c *countingTask) Do(thread, i int) {
	if thread < 0 || thread >= c.threads || c.busy[thread].Add(1) != 1 {
		c.t.Errorf("piece %d: thread %d is out of range, or in use by two", i, thread)
		return
	}
	defer c.busy[thread].Add(-1)
	c.calls[i].Add(1)
	if i == c.panics {
		panic(errBoom)
	}
	if i%3 == 0 {
		runtime.Gosched()
	}
}

var errBoom = errors.New("boom")

// check fails unless every piece was done once, and sets all counts back.
func (c *countingTask) check() {
	c.t.Helper()
	for i := range c.calls {
		if n := c.calls[i].Swap(0); n != 1 {
			c.t.Fatalf("piece %d of %d was done %d times", i, len(c.calls), n)
		}
	}
}

func TestPoolRun(t *testing.T) {
	for _, threads := range []int{0, 1, 2, 3, 8} {
		p := NewPool(threads)
		for _, n := range []int{0, 1, 2, 3, 7, 100} {
			task := newCountingTask(t, p.Threads(), n)
			for range 50 {
				p.Run(n, task)
				task.check()
			}
		}
		if want := max(threads, 1); p.Threads() != want {
			t.Errorf("Threads() = %d, want %d", p.Threads(), want)
		}
		p.Close()
	}
	var none *Pool
	task := newCountingTask(t, none.Threads(), 5)
	none.Run(5, task)
	task.check()
	none.Close()
}

// gatherTask waits in every piece until several threads have come.
type gatherTask struct {
	threads int64
	come    atomic.Int64
}

func (g *gatherTask) Do(int, int) {
	for g.come.Add(1); g.come.Load() < g.threads; {
		runtime.Gosched()
	}
}

// gather runs a task that ends only if all threads take part.
func gather(p *Pool) {
	p.aloneFor = 0 // whatever waits on a busy machine there were before
	p.Run(p.threads, &gatherTask{threads: int64(p.threads)})
}

// TestPoolThreads checks that pieces run at a time, also after the threads slept.
func TestPoolThreads(t *testing.T) {
	const threads = 4
	p := NewPool(threads)
	defer p.Close()
	for range 20 {
		gather(p)
		for p.work.sleepers.Load() < threads-1 {
			runtime.Gosched()
		}
	}
}

func TestPoolTwoCallers(t *testing.T) {
	p := NewPool(3)
	defer p.Close()
	busy := make([]atomic.Int32, 3)
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			task := newCountingTask(t, 3, 9)
			task.busy = busy // a thread of two callers' tasks would be noticed too
			for range 200 {
				p.Run(9, task)
				task.check()
				p.Run(1, task)
				task.calls[0].Store(0)
			}
		})
	}
	callers.Wait()
}

func TestPoolPanic(t *testing.T) {
	p := NewPool(3)
	defer p.Close()
	for i := range 60 {
		n := 1 + i%20
		task := newCountingTask(t, 3, n)
		task.panics = i % n
		got := catch(func() { p.Run(n, task) })
		failed, ok := got.(*PiecePanic)
		if !ok || failed.Value != errBoom || failed.Piece != task.panics ||
			!strings.Contains(failed.Error(), "countingTask") {
			t.Fatalf("Run panicked with %v, want piece %d's panic and stack", got, task.panics)
		}
		task.check()
		task.panics = -1
		p.Run(n, task)
		task.check()
	}
	gather(p) // all threads live
}

func catch(f func()) (v any) {
	defer func() { v = recover() }()
	f()
	return nil
}

func TestPoolClose(t *testing.T) {
	p := NewPool(4)
	task := newCountingTask(t, 4, 20)
	p.Run(20, task)
	task.check()
	before := runtime.NumGoroutine()
	p.Close()
	p.Close()
	// Close has waited for the last deferred call of the threads' goroutines.
	for runtime.NumGoroutine() > before-3 {
		runtime.Gosched()
	}
	p.Run(20, task)
	task.check()
}

func TestPoolAllocatesNothing(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	task := newCountingTask(t, 2, 8)
	for _, sleep := range []bool{false, true} {
		if n := leastAllocations(50, func() {
			for sleep && p.work.sleepers.Load() == 0 {
				runtime.Gosched()
			}
			p.Run(8, task)
		}); n != 0 {
			t.Errorf("Run allocates %v times; threads asleep before: %v", n, sleep)
		}
	}
}

// lateTask does nothing, or keeps others than the caller for long after the caller has
// done all else.
type lateTask struct {
	p    *Pool
	late bool
	did  [2]atomic.Int32 // by thread
}

func (l *lateTask) Do(thread, _ int) {
	l.did[thread].Add(1)
	if !l.late {
		return
	}
	if thread == 0 { // the other must begin a piece
		for l.did[1].Load() == 0 {
			runtime.Gosched()
		}
		return
	}
	for l.p.left.Load() != 0 {
		runtime.Gosched()
	}
	for begin := ticks(); !passed(begin, relax(), 4*lateTicks); {
		runtime.Gosched()
	}
}

// TestPoolAlone checks that the caller computes alone after it has waited for a thread
// that others displaced, and not for ever.
func TestPoolAlone(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	for p.aloneFor == 0 {
		p.Run(1000, &lateTask{p: p, late: true})
	}
	if p.aloneFor < aloneFactor*lateTicks {
		t.Errorf("alone for %d ticks, want at least %d", p.aloneFor, aloneFactor*lateTicks)
	}
	// Since long ago: processors whose counters differ do not seem to go back.
	p.aloneSince, p.aloneFor = ticks()-1<<40, 1<<60
	task := &lateTask{p: p}
	p.Run(100, task)
	if a, b := task.did[0].Load(), task.did[1].Load(); a != 100 || b != 0 {
		t.Errorf("the caller did %d pieces and another thread %d, want 100 and 0", a, b)
	}
	// Only asked, without a task: on a busy machine one may make the caller alone again.
	p.aloneSince = ticks() + 1<<40 // as if the counter had gone back
	if p.alone() || p.aloneFor != 0 {
		t.Error("still alone after the time has passed")
	}
}
