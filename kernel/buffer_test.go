package kernel

import (
	"bytes"
	"runtime"
	"testing"
	"unsafe"
)

// TestBuffersAreTheirOwn allocates buffers of sizes around those that are cut from regions,
// gives every other one back, and looks at what the others hold.
func TestBuffersAreTheirOwn(t *testing.T) {
	sizes := []int{1, 4097, smallestPart - 1, smallestPart, smallestPart + 1, 3<<20 + 5,
		largestPart, largestPart, largestPart - 4096, largestPart, largestPart + 1}
	var kept []*Buffer
	for i := range 2 * len(sizes) {
		size := sizes[i/2]
		buf, err := NewBuffer(size)
		if err != nil {
			t.Fatal(err)
		}
		b := buf.Bytes()
		if len(b) != size || cap(b) != size || uintptr(unsafe.Pointer(&b[0]))%4096 != 0 {
			t.Fatalf("a buffer of %d bytes: %d of %d at %p", size, len(b), cap(b), &b[0])
		}
		for at := 0; at < size; at += 4096 {
			if b[at] != 0 || b[size-1] != 0 {
				t.Fatalf("a buffer of %d bytes is not zeroed", size)
			}
		}
		for at := 0; at < size; at += 4096 {
			b[at] = byte(i + 1)
		}
		b[size-1] = byte(i + 1)
		if i%2 == 0 {
			kept = append(kept, buf)
		}
		buf, b = nil, nil
		runtime.GC()
	}
	for i, buf := range kept {
		b, want := buf.Bytes(), []byte{byte(2*i + 1)}
		for at := 0; at < len(b); at += 4096 {
			if !bytes.Equal(b[at:at+1], want) || b[len(b)-1] != want[0] {
				t.Fatalf("buffer %d of %d bytes changed at %d", i, len(b), at)
			}
		}
	}
}
