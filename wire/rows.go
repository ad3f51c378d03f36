package wire

import (
	"encoding/binary"
	"math"
)

// PutRows writes elements as little-endian bytes of the type into dst, which has
// exactly their size. To BF16 it rounds to the nearest, ties to even; elements
// that were rounded before lose nothing.
func PutRows(dst []byte, src []float32, t DType) {
	if len(dst) != len(src)*t.Size() {
		panic("wire: PutRows: sizes do not fit")
	}
	if t == BF16 {
		putBF16(dst, src)
		return
	}
	for len(src) >= 2 && len(dst) >= 8 {
		lo, hi := math.Float32bits(src[0]), math.Float32bits(src[1])
		binary.LittleEndian.PutUint64(dst, uint64(lo)|uint64(hi)<<32)
		src, dst = src[2:], dst[8:]
	}
	for i, v := range src {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

// TakeRows reads little-endian bytes of the type into dst; src has exactly its size.
func TakeRows(dst []float32, src []byte, t DType) {
	if len(src) != len(dst)*t.Size() {
		panic("wire: TakeRows: sizes do not fit")
	}
	if t == BF16 {
		takeBF16(dst, src)
		return
	}
	for len(dst) >= 2 && len(src) >= 8 {
		v := binary.LittleEndian.Uint64(src)
		dst[0] = math.Float32frombits(uint32(v))
		dst[1] = math.Float32frombits(uint32(v >> 32))
		dst, src = dst[2:], src[8:]
	}
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

// putBF16 takes four elements at a time. Rows were usually rounded before: then
// their lower halves are zero and the upper ones need no arithmetic.
func putBF16(dst []byte, src []float32) {
	for len(src) >= 4 && len(dst) >= 8 {
		s := (*[4]float32)(src)
		b0, b1 := math.Float32bits(s[0]), math.Float32bits(s[1])
		b2, b3 := math.Float32bits(s[2]), math.Float32bits(s[3])
		if (b0|b1|b2|b3)&0xffff != 0 {
			b0, b1 = roundBF16(s[0])<<16, roundBF16(s[1])<<16
			b2, b3 = roundBF16(s[2])<<16, roundBF16(s[3])<<16
		}
		v := uint64(b0>>16|b1) | uint64(b2>>16|b3)<<32
		binary.LittleEndian.PutUint64(dst, v)
		src, dst = src[4:], dst[8:]
	}
	for i, v := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], uint16(roundBF16(v)))
	}
}

func takeBF16(dst []float32, src []byte) {
	for len(dst) >= 4 && len(src) >= 8 {
		v := binary.LittleEndian.Uint64(src)
		d := (*[4]float32)(dst)
		d[0] = math.Float32frombits(uint32(v) << 16)
		d[1] = math.Float32frombits(uint32(v) & 0xffff0000)
		d[2] = math.Float32frombits(uint32(v>>32) << 16)
		d[3] = math.Float32frombits(uint32(v>>32) & 0xffff0000)
		dst, src = dst[4:], src[8:]
	}
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
}

// roundBF16 returns the upper half of v rounded to nearest even. A NaN stays a
// NaN: its quiet bit is set, so that rounding cannot carry it to infinity.
func roundBF16(v float32) uint32 {
	b := math.Float32bits(v)
	if b&0x7fffffff > 0x7f800000 {
		return b>>16 | 0x40
	}
	return (b + 0x7fff + b>>16&1) >> 16
}
