package kernel

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"

	"drover/tensor"
)

// productTask multiplies in every piece, in a few calls of assembly, until it is stopped.
type productTask struct {
	m       *Matrix
	rows    []Activations // by thread
	y       []tensor.Rows
	did     []atomic.Int64 // pieces
	stopped atomic.Bool
}

// pieceCalls is the number of calls of assembly in a piece of a productTask.
const pieceCalls = 4

func newProductTask(t *testing.T, threads int) *productTask {
	r := rand.New(rand.NewPCG(21, 22))
	p := &productTask{m: randomMatrix(t, r, pieceCalls*PartOutputs, 5120, WeightsBF16),
		rows: make([]Activations, threads), y: make([]tensor.Rows, threads),
		did: make([]atomic.Int64, threads)}
	for i := range threads {
		p.rows[i].Prepare(randomRows(r, 1, p.m.K), p.m.format)
		p.y[i] = tensor.MakeRows(1, p.m.N)
	}
	return p
}

func (p *productTask) Do(thread, _ int) {
	if !p.stopped.Load() {
		p.m.MulPart(p.y[thread], &p.rows[thread], 0, p.m.N)
		p.did[thread].Add(1)
	}
}

// calls counts the calls of each thread since they were counted last.
func (p *productTask) calls() (all []int64) {
	for i := range p.did {
		all = append(all, p.did[i].Swap(0)*pieceCalls)
	}
	return all
}

// TestStopTheWorld checks that the world stops soon while all threads of a pool compute:
// none of them completes many calls meanwhile. Of many attempts the best counts, as
// others may take the processor of the goroutine that asks.
func TestStopTheWorld(t *testing.T) {
	const threads, mostCalls = 2, 50
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(threads + 2))
	p := NewPool(threads)
	defer p.Close()
	task := newProductTask(t, threads)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !task.stopped.Load() {
			p.Run(1000, task)
		}
	}()
	var stats runtime.MemStats
	best := int64(1 << 62)
	for attempt := 0; attempt < 100 && best >= mostCalls; attempt++ {
		for i := range task.did { // all compute
			for task.did[i].Load() == 0 {
				runtime.Gosched()
			}
		}
		task.calls()
		runtime.ReadMemStats(&stats) // it stops the world once
		calls := task.calls()
		best = min(best, max(calls[0], calls[1]))
	}
	if best >= mostCalls {
		t.Errorf("a thread completed %d calls while the world was to stop, want fewer than %d",
			best, mostCalls)
	}
	runtime.GC() // it stops the world several times
	task.stopped.Store(true)
	<-done
}
