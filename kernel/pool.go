package kernel

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Task is work that is cut into pieces which can be done in any order.
type Task interface {
	// Do does piece i. thread, below the pool's Threads, says whose scratch memory
	// it may use: no two calls at a time have the same.
	Do(thread, i int)
}

// PoolOptions describes a Pool.
type PoolOptions struct {
	// Threads is how many threads compute, the caller of Run among them. Zero means
	// one. More than the processors that the process may use wait for each other.
	Threads int
	// Pin keeps each thread but the caller's on a processor of its own, of those that
	// the process may use. Only for a process that has these processors for itself:
	// two processes that pin compute on the same ones while others are idle. It has
	// no effect where the system cannot pin threads.
	Pin bool
}

// Pool runs tasks on a fixed number of threads. A nil Pool has one, its caller.
//
// Nothing in a Pool waits for a thread to be scheduled: pieces are taken one by one by
// whoever is there, the caller of Run among them, so a thread that the system does not
// run delays others only by the piece that it has begun. When such waits show that more
// threads want to run than there are processors, tasks are the caller's alone for a
// time. A thread without work spins for some 20 µs, then sleeps in the kernel: it never
// passes through Go's scheduler, which takes 100 µs to hand over to a locked thread.
//
// A Pool knows nothing of NUMA. Memory belongs to the node of the thread that touches it
// first, for weights the one that packs or reads them, and any thread may get the piece
// that works on it. On a machine with several nodes run one process on each, bound to
// its processors and its memory.
type Pool struct {
	threads int
	running sync.Mutex // one task at a time; guards the fields below
	// For aloneFor ticks from aloneSince on tasks are the caller's alone.
	aloneSince, aloneFor int64

	// task and its pieces are read by all threads, and written while no piece is open.
	task   Task
	pieces int
	failed atomic.Pointer[PiecePanic] // the first

	closed atomic.Bool
	ended  sync.WaitGroup
	_      [lineBytes]byte
	left   atomic.Int64 // pieces that nobody has begun
	_      [lineBytes]byte
	open   atomic.Int64 // pieces that have not ended
	_      [lineBytes]byte
	work   gate // where threads wait for pieces
	done   gate // where the caller waits for the last piece
}

// PiecePanic is what Run panics with after a piece has panicked.
type PiecePanic struct {
	Thread, Piece int
	Value         any    // what the piece panicked with
	Stack         []byte // where
}

// Error describes the panic.
func (p *PiecePanic) Error() string {
	return fmt.Sprintf("piece %d panicked on thread %d: %v\n%s", p.Piece, p.Thread, p.Value, p.Stack)
}

// NewPool starts a pool of threads that are not pinned.
func NewPool(threads int) *Pool { return StartPool(PoolOptions{Threads: threads}) }

// StartPool starts a pool. Close ends it.
func StartPool(o PoolOptions) *Pool {
	p := &Pool{threads: max(o.Threads, 1)}
	var processors []int
	if o.Pin {
		processors = allowedProcessors()
	}
	for thread := 1; thread < p.threads; thread++ {
		processor := -1
		if len(processors) > 0 {
			processor = processors[thread%len(processors)]
		}
		p.ended.Add(1)
		go p.compute(thread, processor)
	}
	return p
}

// Threads is the number of threads, the caller of Run among them.
func (p *Pool) Threads() int {
	if p == nil {
		return 1
	}
	return p.threads
}

// Close ends the threads. A task that runs is completed before, and a later one is the
// caller's alone.
func (p *Pool) Close() {
	if p == nil {
		return
	}
	p.running.Lock()
	defer p.running.Unlock()
	p.closed.Store(true)
	p.work.open(p.threads)
	p.ended.Wait()
}

// Run does all n pieces of a task and returns when the last is done. Of two calls at a
// time the second waits, so a piece must not call Run of its own pool; only a nil Pool
// has nothing by which it could wait. After a panic in a piece the others are done, then
// Run panics with a *PiecePanic; a nil Pool lets the panic pass.
func (p *Pool) Run(n int, t Task) {
	if p == nil {
		for i := range n {
			t.Do(0, i)
		}
		return
	}
	p.running.Lock()
	defer p.running.Unlock()
	p.task, p.pieces = t, n
	p.open.Store(int64(n))
	if n <= 1 || p.alone() {
		for i := range n {
			p.piece(0, i)
		}
	} else {
		p.left.Store(int64(n)) // from here on others take part
		p.work.open(n - 1)
		begin := ticks()
		p.join(p.take(0), begin)
	}
	p.task = nil
	if f := p.failed.Swap(nil); f != nil {
		panic(f)
	}
}

// take does pieces that nobody has begun until there are none, and counts them. Whoever
// has taken a piece off the count holds its task, as Run does not return before: so a
// thread that wakes late, in whatever task, cannot do wrong.
func (p *Pool) take(thread int) (did int64) {
	for {
		left := p.left.Load()
		if left == 0 {
			return did
		}
		if p.left.CompareAndSwap(left, left-1) {
			p.piece(thread, p.pieces-int(left))
			did++
		}
	}
}

func (p *Pool) piece(thread, i int) {
	defer p.end(thread, i)
	p.task.Do(thread, i)
}

// end counts a piece as done, also if it panicked.
func (p *Pool) end(thread, i int) {
	if v := recover(); v != nil {
		p.failed.CompareAndSwap(nil, &PiecePanic{thread, i, v, debug.Stack()})
	}
	if p.open.Add(-1) == 0 {
		p.done.open(1)
	}
}

// Bounds of waiting, in ticks.
const (
	// spinTicks is how long a thread spins before it sleeps: about what it takes to
	// wake it, so that spinning costs at most twice the better choice.
	spinTicks = 20 * ticksPerMicrosecond
	// lateTicks and latePieces, in pieces of average length, are what the caller waits
	// for others' last pieces while all threads have processors; beyond it one of
	// them had to make room for somebody.
	lateTicks  = 500 * ticksPerMicrosecond
	latePieces = 4
	// aloneFactor is how many times as long as such a wait tasks are then the caller's
	// alone: so waiting cannot cost more than a part in aloneFactor of the time.
	aloneFactor = 4
)

// join waits for the pieces that others have begun; did is how many the caller itself
// has done since begin.
func (p *Pool) join(did, begin int64) {
	if p.open.Load() == 0 {
		return
	}
	idle := ticks()
	for p.open.Load() != 0 {
		if passed(idle, relax(), spinTicks) {
			p.done.wait(func() bool { return p.open.Load() == 0 })
		}
	}
	now := ticks()
	if waited := now - idle; did > 0 && waited > lateTicks+latePieces*(idle-begin)/did {
		p.aloneSince, p.aloneFor = now, aloneFactor*waited
	}
}

// alone reports whether the caller computes without the others.
func (p *Pool) alone() bool {
	if p.threads == 1 || p.closed.Load() {
		return true
	}
	if p.aloneFor != 0 && passed(p.aloneSince, ticks(), p.aloneFor) {
		p.aloneFor = 0
	}
	return p.aloneFor != 0
}

// passed reports whether n ticks have passed between two readings. A counter that goes
// back, as when a virtual machine moves, counts as that: nobody waits for it to catch up.
func passed(from, to, n int64) bool { return uint64(to-from) >= uint64(n) }

// compute is a thread of the pool, on a processor unless that is negative. The thread
// ends with it, as it is not unlocked: it may be pinned.
func (p *Pool) compute(thread, processor int) {
	defer p.ended.Done()
	runtime.LockOSThread()
	if processor >= 0 {
		pinThread(processor)
	}
	for !p.closed.Load() {
		p.take(thread)
		p.rest()
	}
}

// rest returns when there may be pieces to take, or the pool is closed.
func (p *Pool) rest() {
	for begin := ticks(); !passed(begin, relax(), spinTicks); {
		if p.busy() {
			return
		}
	}
	p.work.wait(p.busy)
}

func (p *Pool) busy() bool { return p.left.Load() != 0 || p.closed.Load() }

// gate is where threads sleep until a condition holds. Whoever makes it hold opens the
// gate afterwards.
type gate struct {
	sleepers atomic.Int32
	sleep    sleep
}

// wait sleeps unless the condition holds. It may return though it does not.
func (g *gate) wait(holds func() bool) {
	g.sleepers.Add(1)
	turn := g.sleep.turn()
	if !holds() {
		g.sleep.wait(turn)
	}
	g.sleepers.Add(-1)
}

// open wakes up to n sleepers. If it sees none, one that comes now sees the condition.
func (g *gate) open(n int) {
	if g.sleepers.Load() > 0 {
		g.sleep.wake(n)
	}
}
