package kernel

import (
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Buffer is zeroed memory outside the Go heap, aligned to a page. It is given back
// when nothing refers to the Buffer any more, so whoever works on Bytes keeps the
// Buffer alive.
type Buffer struct {
	b []byte
}

const (
	// regionBytes is the size of the regions from which buffers of smallestPart to
	// largestPart are cut, one behind the other: in huge pages, streams of weights miss the
	// tables of pages less often, and few matrices are whole huge pages. A smaller buffer
	// could keep a huge page that nothing else is in any more.
	regionBytes  = 64 << 20
	smallestPart = hugeBytes / 8
	largestPart  = regionBytes / 4
	// hugeBytes is a huge page.
	hugeBytes = 2 << 20
)

// region is the rest of the last region. A buffer gives its own part back, so nothing
// else is known of regions.
var region struct {
	sync.Mutex
	rest []byte
}

// NewBuffer allocates size bytes. Pages, which may be huge, cost memory only once they are
// touched.
func NewBuffer(size int) (*Buffer, error) {
	if size < 0 {
		return nil, fmt.Errorf("allocate a buffer of %d bytes: size is negative", size)
	}
	if size == 0 {
		return &Buffer{}, nil
	}
	take := mapBytes
	if smallestPart <= size && size <= largestPart {
		take = cutBytes
	}
	b, err := take(size)
	if err != nil {
		return nil, fmt.Errorf("allocate %d bytes outside the heap: %w", size, err)
	}
	buf := &Buffer{b: b}
	runtime.AddCleanup(buf, unmapBytes, b)
	return buf, nil
}

// cutBytes cuts a buffer's bytes from a region.
func cutBytes(size int) ([]byte, error) {
	page := unix.Getpagesize()
	part := (size + page - 1) / page * page
	region.Lock()
	defer region.Unlock()
	if len(region.rest) < part {
		b, err := mapBytes(regionBytes + hugeBytes)
		if err != nil {
			return nil, err
		}
		unmapBytes(region.rest)
		skip := -uintptr(unsafe.Pointer(&b[0])) % hugeBytes
		unmapBytes(b[:skip])
		region.rest = b[skip:]
	}
	b := region.rest[:size:size]
	region.rest = region.rest[part:]
	return b, nil
}

// mapBytes maps bytes of their own.
func mapBytes(size int) ([]byte, error) {
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	b := unsafe.Slice((*byte)(p), size)
	hugePages(b)
	return b, nil
}

// unmapBytes gives back bytes that begin at a page, with the whole of their last page.
func unmapBytes(b []byte) {
	if len(b) > 0 {
		_ = unix.MunmapPtr(unsafe.Pointer(&b[0]), uintptr(len(b)))
	}
}

// Bytes returns the memory.
func (b *Buffer) Bytes() []byte { return b.b }
