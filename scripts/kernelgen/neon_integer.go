package main

import "fmt"

// neonIntegers is the products of integers: of four rows at most by dot products of four
// bytes, of two without, by products of 16 bits that are added in pairs.
//
// Registers: R7 is the scales of a group of the panel, R8 and R9 a block's weights and
// outputs, R10 counts blocks. V0 and on hold a group's codes, four for each row.
func neonIntegerFile() string {
	a := neonHead("// Sums of codes are exact; sums over groups are one chain for each output (K1).\n")
	for _, bits := range []int{8, 4} {
		for rows := 1; rows <= 4; rows++ {
			neonInteger(a, bits, rows, true)
		}
		for rows := 1; rows <= 2; rows++ {
			neonInteger(a, bits, rows, false)
		}
	}
	return a.String()
}

func neonInteger(a *neon, bits, rows int, dot bool) {
	set := "NEON"
	if dot {
		set = "DOT"
	}
	name, block, words := fmt.Sprintf("Int%dr%d%s", bits, rows, set), 17*lineBytes, groupInputs/4+2
	if bits == 4 {
		block, words = 9*lineBytes, groupInputs/4+3
	}
	a.begin(fmt.Sprintf("mul%s(y *float32, ldy int, w *byte, stride int, x *int32, groups, "+
		"blocks int)", name), 56, "y", "ldy", "w", "stride", "x", "groups", "blocks")
	a.op("LSL $2, R1, R1")
	a.op("VMOVI $%d, V31.B16", map[int]int{8: 128, 4: 15}[bits])
	fmt.Fprintf(a, "\ngroup%s:\n", name)
	a.op("MOVD R4, R7")
	for r := range rows {
		a.op("VLD1.P 64(R7), [V%d.B16, V%d.B16, V%d.B16, V%d.B16]", 4*r, 4*r+1, 4*r+2, 4*r+3)
	}
	a.op("MOVD R2, R8")
	a.op("MOVD R0, R9")
	a.op("MOVD R6, R10")
	fmt.Fprintf(a, "\nblock%s:\n", name)
	switch {
	case bits == 8 && dot:
		neonInt8Dot(a, rows)
	case bits == 8:
		neonInt8Wide(a, rows)
	default:
		neonInt4(a, rows, dot)
	}
	a.op("ADD R3, R8, R8")
	a.op("ADD $64, R9, R9")
	a.next(10, "block"+name)
	a.op("ADD $%d, R2, R2", block)
	a.op("ADD $%d, R4, R4", rows*words*4)
	a.next(5, "group"+name)
	a.op("RET")
}

// neonInt8Dot takes 8 outputs at a time. Stored codes become signed by their top bit.
func neonInt8Dot(a *neon, rows int) {
	for half := range 2 {
		for i := range 2 * rows {
			a.op("VEOR V%d.B16, V%d.B16, V%d.B16", 16+i, 16+i, 16+i)
		}
		for line := range 16 {
			a.op("FLDPQ %d(R8), (F24, F25)", line*lineBytes+half*32)
			a.op("VEOR V31.B16, V24.B16, V24.B16")
			a.op("VEOR V31.B16, V25.B16, V25.B16")
			for r := range rows {
				a.sdotBy(16+2*r, 24, 4*r+line/4, line%4)
				a.sdotBy(17+2*r, 25, 4*r+line/4, line%4)
			}
		}
		a.op("FMOVQ %d(R8), F24", 16*lineBytes+half*32)
		a.op("FMOVQ %d(R8), F25", 16*lineBytes+half*32+16)
		a.op("MOVD R9, R11")
		for r := range rows {
			for q := range 2 {
				a.scvtf(16 + 2*r + q)
				a.fmul(16+2*r+q, 16+2*r+q, 24+q)
				neonAdd(a, r, 16+2*r+q, 2*half+q)
			}
			neonNextRow(a, r, rows)
		}
	}
}

// neonAdd adds a row's sums of a group, times the row's scale, to four outputs.
func neonAdd(a *neon, row, sum, quad int) {
	a.op("FMOVS %d(R7), F26", 4*row)
	a.op("FMOVQ %d(R11), F27", 16*quad)
	a.fmlaBy(27, sum, 26, 0)
	a.op("FMOVQ F27, %d(R11)", 16*quad)
}

func neonNextRow(a *neon, row, rows int) {
	if row+1 < rows {
		a.op("ADD R1, R11, R11")
	}
}

// neonInt8Wide takes 4 outputs at a time. Two products of 8 bits fit in 16; the sums of
// outputs 0 and 1 are in V16 for a row, of 2 and 3 in the next register, in two parts.
func neonInt8Wide(a *neon, rows int) {
	for quad := range 4 {
		for i := range 2 * rows {
			a.op("VEOR V%d.B16, V%d.B16, V%d.B16", 16+i, 16+i, 16+i)
		}
		for line := 0; line < 16; line += 2 {
			a.op("FMOVQ %d(R8), F24", line*lineBytes+quad*16)
			a.op("FMOVQ %d(R8), F25", (line+1)*lineBytes+quad*16)
			a.op("VEOR V31.B16, V24.B16, V24.B16")
			a.op("VEOR V31.B16, V25.B16, V25.B16")
			for r := range rows {
				a.op("VDUP V%d.S[%d], V26.S4", 4*r+line/4, line%4)
				a.op("VDUP V%d.S[%d], V27.S4", 4*r+line/4, line%4+1)
				a.three(smull8H, "smull v%d.8h, v%d.8b, v%d.8b", 28, 24, 26)
				a.three(smull2x8H, "smull2 v%d.8h, v%d.16b, v%d.16b", 29, 24, 26)
				a.three(smlal8H, "smlal v%d.8h, v%d.8b, v%d.8b", 28, 25, 27)
				a.three(smlal2x8H, "smlal2 v%d.8h, v%d.16b, v%d.16b", 29, 25, 27)
				a.two(sadalp4S, "sadalp v%d.4s, v%d.8h", 16+2*r, 28)
				a.two(sadalp4S, "sadalp v%d.4s, v%d.8h", 17+2*r, 29)
			}
		}
		a.op("FMOVQ %d(R8), F24", 16*lineBytes+quad*16)
		a.op("MOVD R9, R11")
		for r := range rows {
			sum := 16 + 2*r
			a.op("VADDP V%d.S4, V%d.S4, V%d.S4", sum+1, sum, sum)
			a.scvtf(sum)
			a.fmul(sum, sum, 24)
			neonAdd(a, r, sum, quad)
			neonNextRow(a, r, rows)
		}
	}
}

// neonInt4 takes 4 outputs at a time. The sums of the first 32 inputs are in V16 and on,
// those of the others in V20 and on; offsets make up for codes being stored as +8.
func neonInt4(a *neon, rows int, dot bool) {
	for quad := range 4 {
		a.op("ADD $%d, R7, R12", 4*rows)
		for half := range 2 {
			for r := range rows {
				a.op("VLD1R.P 4(R12), [V%d.S4]", 16+4*half+r)
			}
		}
		for half := range 2 {
			for line := range 4 {
				a.op("FMOVQ %d(R8), F24", (4*half+line)*lineBytes+quad*16)
				a.op("VAND V31.B16, V24.B16, V25.B16")
				a.op("VUSHR $4, V24.B16, V26.B16")
				for r := range rows {
					for part := range 2 {
						code := 8*half + 2*line + part
						if dot {
							a.sdotBy(16+4*half+r, 25+part, 4*r+code/4, code%4)
						} else {
							neonInt4Wide(a, r, code, 25+part, line+part == 0)
						}
					}
				}
			}
			for r := 0; r < rows && !dot; r++ {
				sum := 8 + 2*r
				a.two(saddlp4S, "saddlp v%d.4s, v%d.8h", sum, sum)
				a.two(saddlp4S, "saddlp v%d.4s, v%d.8h", sum+1, sum+1)
				a.op("VADDP V%d.S4, V%d.S4, V%d.S4", sum+1, sum, sum)
				a.op("VADD V%d.S4, V%d.S4, V%d.S4", sum, 16+4*half+r, 16+4*half+r)
			}
		}
		a.op("FMOVD %d(R8), F24", 8*lineBytes+quad*8)
		a.op("FMOVD %d(R8), F25", 8*lineBytes+32+quad*8)
		a.two(fcvtl4S, "fcvtl v%d.4s, v%d.4h", 24, 24)
		a.two(fcvtl4S, "fcvtl v%d.4s, v%d.4h", 25, 25)
		a.op("MOVD R9, R11")
		for r := range rows {
			a.scvtf(16 + r)
			a.scvtf(20 + r)
			a.fmul(16+r, 16+r, 24)
			a.three(fmla4S, "fmla v%d.4s, v%d.4s, v%d.4s", 16+r, 20+r, 25)
			neonAdd(a, r, 16+r, quad)
			neonNextRow(a, r, rows)
		}
	}
}

// neonInt4Wide adds four codes of a row times four of each output to sums of 16 bits in
// V8 and on, two for a row: eight products, of 15 × 127 at most, fit.
func neonInt4Wide(a *neon, row, code, w int, first bool) {
	a.op("VDUP V%d.S[%d], V27.S4", 4*row+code/4, code%4)
	sum := 8 + 2*row
	if first {
		a.three(smull8H, "smull v%d.8h, v%d.8b, v%d.8b", sum, w, 27)
		a.three(smull2x8H, "smull2 v%d.8h, v%d.16b, v%d.16b", sum+1, w, 27)
		return
	}
	a.three(smlal8H, "smlal v%d.8h, v%d.8b, v%d.8b", sum, w, 27)
	a.three(smlal2x8H, "smlal2 v%d.8h, v%d.16b, v%d.16b", sum+1, w, 27)
}
