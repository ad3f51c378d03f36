package kernel

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Buffer is zeroed memory outside the Go heap, aligned to a page. It is given back
// when nothing refers to the Buffer any more, so whoever works on Bytes keeps the
// Buffer alive.
type Buffer struct {
	b []byte
}

// NewBuffer allocates size bytes. Pages cost memory only once they are touched.
func NewBuffer(size int) (*Buffer, error) {
	if size < 0 {
		return nil, fmt.Errorf("allocate a buffer of %d bytes: size is negative", size)
	}
	if size == 0 {
		return &Buffer{}, nil
	}
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("allocate %d bytes outside the heap: %w", size, err)
	}
	if size >= hugeBytes {
		hugePages(b)
	}
	buf := &Buffer{b: b}
	runtime.AddCleanup(buf, func(b []byte) { _ = unix.Munmap(b) }, b)
	return buf, nil
}

// hugeBytes is the size from which a buffer asks for huge pages: streams of weights then
// miss the tables of pages less often.
const hugeBytes = 2 << 20

// Bytes returns the memory.
func (b *Buffer) Bytes() []byte { return b.b }
