//go:build cuda && linux

package cuda

import (
	"errors"
	"math/bits"
	"runtime"
	"sync"
	"time"
)

const (
	// smallestPiece is the size that pieces are multiples of.
	smallestPiece = 512
	// largestKept is the size up to which pieces are kept for the next use, mostKept how much
	// of them altogether.
	largestKept, mostKept = 256 << 20, 512 << 20
)

// pool lends pieces of one kind of memory and keeps some that came back: the driver needs
// long to allocate, and waits for all work of the device when memory is given back to it.
// It is safe for concurrent use.
type pool[T comparable] struct {
	allocate func(size int) (T, error)
	release  func(T) error

	mu     sync.Mutex // guards the fields below
	lent   map[T]int  // sizes
	free   map[int][]T
	kept   int // bytes in free
	closed bool
}

func newPool[T comparable](allocate func(int) (T, error), release func(T) error) *pool[T] {
	return &pool[T]{allocate: allocate, release: release, lent: make(map[T]int),
		free: make(map[int][]T)}
}

// sizeClass rounds a size up, by a quarter at most, so that pieces can be used again.
func sizeClass(size int) int {
	if size > largestKept {
		return exactSize(size)
	}
	step := max(1<<bits.Len(uint(size-1))/8, smallestPiece)
	return (size + step - 1) / step * step
}

// exactSize rounds a size up by little.
func exactSize(size int) int { return (size + smallestPiece - 1) / smallestPiece * smallestPiece }

// take lends a piece of at least size bytes, which may have been used before: the work that
// uses it must come after, in the same stream.
func (p *pool[T]) take(size int) (T, error) {
	size = sizeClass(size)
	p.mu.Lock()
	if have := p.free[size]; len(have) > 0 {
		t := have[len(have)-1]
		p.free[size], p.kept = have[:len(have)-1], p.kept-size
		p.lent[t] = size
		p.mu.Unlock()
		return t, nil
	}
	p.mu.Unlock()
	return p.fresh(size)
}

// fresh lends a piece of the size, which no work that is queued uses.
func (p *pool[T]) fresh(size int) (T, error) {
	size = exactSize(size)
	t, err := p.allocate(size)
	// What nothing refers to any more may still be lent, until the collector sees it.
	for tries := 0; errors.Is(err, ErrMemory) && tries < collections; tries++ {
		collect()
		p.trim()
		t, err = p.allocate(size)
	}
	if err != nil {
		return t, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent[t] = size
	return t, nil
}

// give takes a piece back, behind the work that uses it.
func (p *pool[T]) give(t T) {
	p.mu.Lock()
	size, lent := p.lent[t]
	delete(p.lent, t)
	keep := size <= largestKept && size == sizeClass(size) && p.kept+size <= mostKept && !p.closed
	if lent && keep {
		p.free[size], p.kept = append(p.free[size], t), p.kept+size
	}
	p.mu.Unlock()
	if lent && !keep {
		_ = p.release(t) // of a device that is lost nothing is to be had
	}
}

// trim gives the driver what is kept.
func (p *pool[T]) trim() {
	p.mu.Lock()
	var all []T
	for _, have := range p.free {
		all = append(all, have...)
	}
	clear(p.free)
	p.kept = 0
	p.mu.Unlock()
	for _, t := range all {
		_ = p.release(t) // of a device that is lost nothing is to be had
	}
}

// close gives the driver everything, also what is lent.
func (p *pool[T]) close() {
	p.trim()
	p.mu.Lock()
	p.closed = true
	all := p.lent
	p.lent = make(map[T]int)
	p.mu.Unlock()
	for t := range all {
		_ = p.release(t) // of a device that is lost nothing is to be had
	}
}

// collections is how often memory that does not suffice is looked for among garbage.
const collections = 3

// collect runs the collector, and waits a moment for what it finds to be given back.
func collect() {
	done := make(chan struct{})
	s := new(*int) // with a pointer in it: without one it may share its block with others
	runtime.AddCleanup(s, func(done chan struct{}) { close(done) }, done)
	s = nil
	runtime.GC()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
	runtime.GC() // which waits for the sweep of the first
}
