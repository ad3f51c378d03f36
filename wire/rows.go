package wire

import (
	"encoding/binary"
	"math"
	"unsafe"
)

// PutRows writes elements as little-endian bytes of the type into dst, which has
// exactly their size. To BF16 it rounds to the nearest, ties to even; elements
// that were rounded before lose nothing.
func PutRows(dst []byte, src []float32, t DType) {
	if len(dst) != len(src)*t.Size() {
		panic("wire: PutRows: sizes do not fit")
	}
	switch {
	case t == BF16 && littleEndian:
		putBF16(dst, src)
	case t == BF16:
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], roundBF16(v))
		}
	case littleEndian:
		copy(dst, memory(src))
	default:
		for i, v := range src {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
		}
	}
}

// TakeRows reads little-endian bytes of the type into dst; src has exactly its size.
func TakeRows(dst []float32, src []byte, t DType) {
	if len(src) != len(dst)*t.Size() {
		panic("wire: TakeRows: sizes do not fit")
	}
	switch {
	case t == BF16 && littleEndian:
		takeBF16(dst, src)
	case t == BF16:
		for i := range dst {
			dst[i] = widenBF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case littleEndian:
		copy(memory(dst), src)
	default:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	}
}

// littleEndian tells whether elements lie in memory as they travel. The loops
// below then move 8 bytes at a time.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// memory returns the bytes of elements as they lie in memory.
func memory(s []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), 4*len(s))
}

// words returns the n first 8-byte words at p. The platforms that take the fast
// loops load them from any address.
func words[T byte | float32](s []T, n int) []uint64 {
	if n == 0 {
		return nil // the pointer would reach past the elements
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(s))), n)
}

// lowHalves are the bits of two neighbours that rounding to BF16 clears.
const lowHalves = 0x0000ffff_0000ffff

// putBF16 takes four elements at a time. Rows were usually rounded before: then
// their lower halves are zero and the upper ones need no arithmetic.
func putBF16(dst []byte, src []float32) {
	out := words(dst, len(src)/4)
	in := words(src, 2*len(out))
	for i := range out {
		a, b := in[2*i], in[2*i+1]
		if (a|b)&lowHalves != 0 {
			a, b = roundPair(a), roundPair(b)
		}
		a, b = a>>16|a>>32&0xffff0000, b>>16|b>>32&0xffff0000
		out[i] = uint64(uint32(a)) | b<<32
	}
	for i := 4 * len(out); i < len(src); i++ {
		binary.LittleEndian.PutUint16(dst[2*i:], roundBF16(src[i]))
	}
}

// roundPair rounds two neighbours in place.
func roundPair(v uint64) uint64 {
	lo := uint64(roundBF16(math.Float32frombits(uint32(v))))
	hi := uint64(roundBF16(math.Float32frombits(uint32(v >> 32))))
	return lo<<16 | hi<<48
}

func takeBF16(dst []float32, src []byte) {
	in := words(src, len(dst)/4)
	out := words(dst, 2*len(in))
	for i, v := range in {
		out[2*i] = v<<16&0xffff0000 | v<<32&(0xffff<<48)
		out[2*i+1] = v>>16&0xffff0000 | v&(0xffff<<48)
	}
	for i := 4 * len(in); i < len(dst); i++ {
		dst[i] = widenBF16(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

// roundBF16 returns the upper half of v rounded to nearest even. A NaN stays a
// NaN: where bits are lost its quiet bit is set, so that it cannot become infinity.
func roundBF16(v float32) uint16 {
	b := math.Float32bits(v)
	if b&0xffff != 0 && b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

func widenBF16(v uint16) float32 { return math.Float32frombits(uint32(v) << 16) }
