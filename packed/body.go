package packed

import (
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"sync"

	"drover/kernel"
)

// Body is the packed weights of a piece as one run of bytes, as they stand in a file after
// its header: each matrix from a multiple of a page on, with zeros between.
type Body struct {
	matrices []*kernel.Matrix // kept alive, since they own the memory
	offsets  []int
	size     int
	content  func() [32]byte
}

// NewBody returns the body of a piece's matrices, which it keeps in memory.
func NewBody(matrices []*kernel.Matrix) *Body {
	b := &Body{matrices: matrices}
	for _, m := range matrices {
		b.offsets = append(b.offsets, b.size)
		b.size += wholePages(m.Bytes())
	}
	b.content = sync.OnceValue(b.sum)
	return b
}

// Size is the size in bytes.
func (b *Body) Size() int64 { return int64(b.size) }

// Content is the SHA-256 of the body. The first call reads all of it.
func (b *Body) Content() [32]byte { return b.content() }

// sum hashes a little at a time: the hash has no point at which the collector could stop
// its thread.
func (b *Body) sum() [32]byte {
	const step = 64 << 10
	h, buf := sha256.New(), make([]byte, step)
	for at := 0; at < b.size; at += step {
		n, _ := b.ReadAt(buf[:min(step, b.size-at)], int64(at)) // always all
		h.Write(buf[:n])
	}
	return [32]byte(h.Sum(nil))
}

// ReadAt implements io.ReaderAt.
func (b *Body) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(b.size) {
		return 0, fmt.Errorf("read packed weights at %d: there are %d bytes", off, b.size)
	}
	from, n := int(off), min(len(p), b.size-int(off))
	to := p[:n]
	clear(to)
	for i, m := range b.matrices {
		w, at := m.Packed(), b.offsets[i]
		if lo, hi := max(from, at), min(from+n, at+len(w)); lo < hi {
			copy(to[lo-from:hi-from], w[lo-at:hi-at])
		}
	}
	runtime.KeepAlive(b) // the memory of w is the matrices'
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
