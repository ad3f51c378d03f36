package main

import "fmt"

// Registers of neonFP8: sums from V0, a block's line in V16-V19, the even inputs of a quarter
// of it in V20, an input's weights in V21, scales in neonFP8Scales, a row's four inputs from
// V24, the mask in V31. R7 on are blocks, R11 on rows, R19 on blocks' scales.
const (
	neonFP8Even   = 20
	neonFP8Weight = 21
	neonFP8Bytes  = 17 * lineBytes
)

var neonFP8Scales = [4]int{22, 23, 28, 29}

// neonFP8 is the product of weights of e4m3. A step is 64 inputs: 16 lines of four inputs of
// 16 outputs, and a line of scales. An arithmetic shift of half words brings the code in each
// high byte to the bits of a bfloat16.
func neonFP8(a *neon, rows, blocks int) {
	shape := fmt.Sprintf("r%db%d", rows, blocks)
	a.begin(fmt.Sprintf("mulFP8%sNEON(y *float32, ldy int, w *byte, stride int, x *float32, ldx, "+
		"steps int)", shape), 56, "y", "ldy", "w", "stride", "x", "ldx", "steps")
	a.op("LSL $2, R1, R1")
	a.op("LSL $2, R5, R5")
	a.op("MOVD R2, R7")
	for b := 1; b < blocks; b++ {
		a.op("ADD R3, R%d, R%d", 6+b, 7+b)
	}
	for b := range blocks {
		a.op("ADD $%d, R%d, R%d", 16*lineBytes, 7+b, 19+b)
	}
	a.op("MOVD R4, R11")
	for r := 1; r < rows; r++ {
		a.op("ADD R5, R%d, R%d", 10+r, 11+r)
	}
	a.op("MOVD $0x87f00000, R15")
	a.op("VDUP R15, V31.S4")
	neonSums(a, "FLDPQ %[1]d(R15), (F%[2]d, F%[3]d)", rows, blocks)
	fmt.Fprintf(a, "\ngroupFP8%s:\n", shape)
	a.op("MOVD $16, R23")
	fmt.Fprintf(a, "\nlineFP8%s:\n", shape)
	for r := range rows {
		a.op("FMOVQ.P 16(R%d), F%d", 11+r, 24+r)
	}
	for b := range blocks {
		a.op("VLD1.P 64(R%d), [V16.B16, V17.B16, V18.B16, V19.B16]", 7+b)
		for q := 0; q < 4; q += 2 {
			a.op("FLDPQ %d(R%d), (F%d, F%d)", 16*q, 19+b, neonFP8Scales[q], neonFP8Scales[q+1])
		}
		for q := range 4 {
			neonFP8Quarter(a, rows, blocks, b, q)
		}
	}
	a.next(23, "lineFP8"+shape)
	for b := range blocks {
		a.op("ADD $%d, R%d, R%d", lineBytes, 7+b, 7+b)
		a.op("ADD $%d, R%d, R%d", neonFP8Bytes, 19+b, 19+b)
	}
	a.next(6, "groupFP8"+shape)
	neonSums(a, "FSTPQ (F%[2]d, F%[3]d), %[1]d(R15)", rows, blocks)
	a.op("RET")
}

// neonFP8Quarter adds four inputs of all rows to 4 of a block's 16 outputs.
func neonFP8Quarter(a *neon, rows, blocks, b, q int) {
	odd := 16 + q
	a.op("VSHL $8, V%d.H8, V%d.H8", odd, neonFP8Even)
	a.two(sshr8H4, "sshr v%d.8h, v%d.8h, #4", odd, odd)
	a.two(sshr8H4, "sshr v%d.8h, v%d.8h, #4", neonFP8Even, neonFP8Even)
	for input := range 4 {
		from, to := []int{neonFP8Even, odd}[input%2], neonFP8Weight
		if input < 2 {
			a.op("VSHL $16, V%d.S4, V%d.S4", from, to)
			from = to
		} else {
			to = from
		}
		a.op("VAND V31.B16, V%d.B16, V%d.B16", from, to)
		a.fmul(to, to, neonFP8Scales[q])
		for r := range rows {
			a.fmlaBy((r*blocks+b)*4+q, to, 24+r, input)
		}
	}
}
