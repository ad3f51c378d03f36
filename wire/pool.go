package wire

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

// Pool recycles buffers in classes of powers of two. Unlike gRPC's it does not
// clear them, since every byte of a frame is written before it is read. The zero
// Pool is ready; it is safe for concurrent use and must not be copied.
type Pool struct {
	classes [maxClass - minClass + 1]sync.Pool
}

const (
	minClass = 11 // 2 KiB: gRPC does not recycle buffers of 1 KiB or less
	maxClass = 23 // 8 MiB: the largest frame
)

var _ mem.BufferPool = (*Pool)(nil)

func classOf(length int) int {
	return max(bits.Len(uint(max(length, 1)-1)), minClass)
}

// Get returns a buffer of the length; its content is arbitrary.
func (p *Pool) Get(length int) *[]byte {
	class := classOf(length)
	if class > maxClass {
		b := make([]byte, length)
		return &b
	}
	if b, ok := p.classes[class-minClass].Get().(*[]byte); ok {
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length, 1<<class)
	return &b
}

// Put takes a buffer back. It is no longer the caller's.
func (p *Pool) Put(b *[]byte) {
	class := classOf(cap(*b))
	if class > maxClass || cap(*b) != 1<<class {
		return
	}
	p.classes[class-minClass].Put(b)
}

// NewBuffer returns a buffer of the length with one reference, and its bytes to
// write before it is sent.
func (p *Pool) NewBuffer(length int) (mem.Buffer, []byte) {
	b := p.Get(length)
	bytes := *b
	return mem.NewBuffer(b, p), bytes
}
