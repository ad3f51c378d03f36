package limits

import "encoding/binary"

// plainRead reads memory in plain Go. The sum is kept, so that the reading is not left out.
func plainRead(r *region) float64 {
	p := r.next(chunk)
	var s [4]uint64
	for ; len(p) >= 32; p = p[32:] {
		s[0] += binary.LittleEndian.Uint64(p)
		s[1] += binary.LittleEndian.Uint64(p[8:])
		s[2] += binary.LittleEndian.Uint64(p[16:])
		s[3] += binary.LittleEndian.Uint64(p[24:])
	}
	keep(float32(s[0] + s[1] + s[2] + s[3]))
	return chunk
}

// plainFMA multiplies and adds in eight chains in plain Go.
func plainFMA(*region) float64 {
	const n = 8 << 10
	a, b := float32(1), float32(0.5)
	var s0, s1, s2, s3, s4, s5, s6, s7 float32
	for range n {
		s0 += a * b
		s1 += s0 * b
		s2 += a * b
		s3 += s2 * b
		s4 += a * b
		s5 += s4 * b
		s6 += a * b
		s7 += s6 * b
		a += b
	}
	keep(s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7)
	return n * 17
}

// plainDot multiplies and adds small integers in eight chains in plain Go.
func plainDot(*region) float64 {
	const n = 8 << 10
	w, x := int32(3), int32(5)
	var s0, s1, s2, s3, s4, s5, s6, s7 int32
	for range n {
		s0 += w * x
		s1 += s0 * x
		s2 += w * s1
		s3 += s2 * x
		s4 += w * s3
		s5 += s4 * x
		s6 += w * s5
		s7 += s6 * x
		w++
	}
	keep(float32(s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7))
	return n * 17
}

// keep uses a value as far as the compiler can tell.
//
//go:noinline
func keep(float32) {}
