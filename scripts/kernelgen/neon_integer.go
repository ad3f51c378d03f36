package main

import "fmt"

// neonIntegers is the products of integers: of four rows at most by dot products of four
// bytes, of two without, by products of 16 bits that are added in pairs.
//
// Registers: R7 is the number of groups in a span, R8 and R9 a block's weights and outputs,
// R10 counts blocks; within a span R12 and R13 are the weights and the rows of a group, R14
// counts groups. Half of a block, 8 outputs, goes through all groups of a span before the
// other half: its sums over the span stay in V8 and on, two registers for a row. Sums of a
// group are in V16 and on, codes of rows in V0 and on.
func neonIntegerFile() string {
	a := neonHead("// Sums of codes are exact; those over the groups of a span, and over spans,\n" +
		"// are one chain for each output (K1).\n")
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
	name := fmt.Sprintf("Int%dr%d%s", bits, rows, set)
	s := neonSpans{a, name, rows, 17 * lineBytes, rows * (groupInputs + 8)}
	if bits == 4 {
		s.block, s.unit = 9*lineBytes, rows*(groupInputs+12)
	}
	a.begin(fmt.Sprintf("mul%s(y *float32, ldy int, w *byte, stride int, x *int32, groups, "+
		"blocks int)", name), 56, "y", "ldy", "w", "stride", "x", "groups", "blocks")
	a.op("LSL $2, R1, R1")
	a.op("VMOVI $%d, V31.B16", map[int]int{8: 128, 4: 15}[bits])
	fmt.Fprintf(a, "\nspan%s:\n", name)
	a.op("MOVD $%d, R7", spanGroups)
	a.op("CMP R7, R5")
	a.op("CSEL LT, R5, R7, R7")
	a.op("MOVD R2, R8")
	a.op("MOVD R0, R9")
	a.op("MOVD R6, R10")
	fmt.Fprintf(a, "\nblock%s:\n", name)
	switch {
	case bits == 8 && dot:
		s.int8Dot()
	case bits == 8:
		s.int8Wide()
	default:
		s.int4(dot)
	}
	a.op("ADD R3, R8, R8")
	a.op("ADD $64, R9, R9")
	a.next(10, "block"+name)
	a.op("ADD $%d, R2, R2", spanGroups*s.block)
	a.op("ADD $%d, R4, R4", spanGroups*s.unit)
	a.op("SUBS R7, R5, R5")
	a.op("BNE span%s", name)
	a.op("RET")
}

// neonSpans writes what multiplies a block with the groups of a span.
type neonSpans struct {
	*neon
	name string
	rows int
	// block and unit are the bytes of a group's weights and of a panel's group.
	block, unit int
}

// halves writes a loop over the groups of a span for each half of a block.
func (s *neonSpans) halves(group func(half int)) {
	for half := range 2 {
		for i := range 2 * s.rows {
			s.op("VEOR V%d.B16, V%d.B16, V%d.B16", 8+i, 8+i, 8+i)
		}
		s.op("MOVD R8, R12")
		s.op("MOVD R4, R13")
		s.op("MOVD R7, R14")
		label := fmt.Sprintf("half%d%s", half, s.name)
		fmt.Fprintf(s, "\n%s:\n", label)
		group(half)
		s.op("ADD $%d, R12, R12", s.block)
		s.op("ADD $%d, R13, R13", s.unit)
		s.next(14, label)
		s.op("MOVD R9, R11")
		for r := range s.rows {
			s.op("FMOVS %d(R4), F24", s.rows*groupInputs+4*r)
			s.op("FLDPQ %d(R11), (F25, F26)", 32*half)
			s.fmlaBy(25, 8+2*r, 24, 0)
			s.fmlaBy(26, 9+2*r, 24, 0)
			s.op("FSTPQ (F25, F26), %d(R11)", 32*half)
			if r+1 < s.rows {
				s.op("ADD R1, R11, R11")
			}
		}
	}
}

// codes loads 16 codes of each row, of which i is the first.
func (s *neonSpans) codes(i int) {
	for r := range s.rows {
		s.op("FMOVQ %d(R13), F%d", r*groupInputs+i, r)
	}
}

// add adds a row's sums of four outputs, the first or the second of a half, times the weights'
// scales, which are in V24 and V25, to those of the span.
func (s *neonSpans) add(row, quad, sum int) {
	s.scvtf(sum)
	s.three(fmla4S, "fmla v%d.4s, v%d.4s, v%d.4s", 8+2*row+quad, sum, 24+quad)
}

// scales8 loads the weights' scales of 8 bits.
func (s *neonSpans) scales8(half int) {
	s.op("FMOVQ %d(R12), F24", 16*lineBytes+half*32)
	s.op("FMOVQ %d(R12), F25", 16*lineBytes+half*32+16)
}

// int8Dot makes stored codes signed by their top bit.
func (s *neonSpans) int8Dot() {
	s.halves(func(half int) {
		for i := range 2 * s.rows {
			s.op("VEOR V%d.B16, V%d.B16, V%d.B16", 16+i, 16+i, 16+i)
		}
		for line := range 16 {
			if line%4 == 0 {
				s.codes(4 * line)
			}
			s.op("FLDPQ %d(R12), (F24, F25)", line*lineBytes+half*32)
			s.op("VEOR V31.B16, V24.B16, V24.B16")
			s.op("VEOR V31.B16, V25.B16, V25.B16")
			for r := range s.rows {
				s.sdotBy(16+2*r, 24, r, line%4)
				s.sdotBy(17+2*r, 25, r, line%4)
			}
		}
		s.scales8(half)
		for i := range 2 * s.rows {
			s.add(i/2, i%2, 16+i)
		}
	})
}

// int8Wide: two products of 8 bits fit in 16. Of four outputs, sums of the first two are in a
// register, in two parts, and those of the others in the next.
func (s *neonSpans) int8Wide() {
	s.halves(func(half int) {
		for i := range 4 * s.rows {
			s.op("VEOR V%d.B16, V%d.B16, V%d.B16", 16+i, 16+i, 16+i)
		}
		for line := 0; line < 16; line += 2 {
			if line%4 == 0 {
				s.codes(4 * line)
			}
			s.op("FLDPQ %d(R12), (F24, F25)", line*lineBytes+half*32)
			s.op("FLDPQ %d(R12), (F26, F27)", (line+1)*lineBytes+half*32)
			for w := 24; w < 28; w++ {
				s.op("VEOR V31.B16, V%d.B16, V%d.B16", w, w)
			}
			for r := range s.rows {
				s.op("VDUP V%d.S[%d], V28.S4", r, line%4)
				s.op("VDUP V%d.S[%d], V29.S4", r, line%4+1)
				for q := range 2 {
					t, sum := 12+2*q, 16+4*r+2*q
					s.three(smull8H, "smull v%d.8h, v%d.8b, v%d.8b", t, 24+q, 28)
					s.three(smull2x8H, "smull2 v%d.8h, v%d.16b, v%d.16b", t+1, 24+q, 28)
					s.three(smlal8H, "smlal v%d.8h, v%d.8b, v%d.8b", t, 26+q, 29)
					s.three(smlal2x8H, "smlal2 v%d.8h, v%d.16b, v%d.16b", t+1, 26+q, 29)
					s.two(sadalp4S, "sadalp v%d.4s, v%d.8h", sum, t)
					s.two(sadalp4S, "sadalp v%d.4s, v%d.8h", sum+1, t+1)
				}
			}
		}
		s.scales8(half)
		for i := range 2 * s.rows {
			sum := 16 + 2*i
			s.op("VADDP V%d.S4, V%d.S4, V%d.S4", sum+1, sum, sum)
			s.add(i/2, i%2, sum)
		}
	})
}

// int4 takes 32 inputs, which have a scale of their own, after the others. Offsets, at R15,
// make up for codes being stored as +8.
func (s *neonSpans) int4(dot bool) {
	s.halves(func(half int) {
		s.op("ADD $%d, R13, R15", s.rows*(groupInputs+4))
		for inputs := range 2 {
			for r := 0; r < s.rows && dot; r++ {
				s.op("VLD1R.P 4(R15), [V%d.S4]", 16+2*r)
				s.op("VMOV V%d.B16, V%d.B16", 16+2*r, 17+2*r)
			}
			for line := range 4 {
				if line%2 == 0 {
					s.codes(32*inputs + 8*line)
				}
				s.op("FLDPQ %d(R12), (F24, F25)", (4*inputs+line)*lineBytes+half*32)
				for w := 24; w < 26; w++ {
					s.op("VAND V31.B16, V%d.B16, V%d.B16", w, w+2)
					s.op("VUSHR $4, V%d.B16, V%d.B16", w, w)
				}
				for r := range s.rows {
					for part, w := range []int{26, 24} {
						code := 2*(line%2) + part
						if dot {
							s.sdotBy(16+2*r, w, r, code)
							s.sdotBy(17+2*r, w+1, r, code)
						} else {
							s.int4Wide(r, code, w, line+part == 0)
						}
					}
				}
			}
			s.op("FMOVQ %d(R12), F25", 8*lineBytes+32*inputs+16*half)
			s.two(fcvtl4S, "fcvtl v%d.4s, v%d.4h", 24, 25)
			s.two(fcvtl2x4S, "fcvtl2 v%d.4s, v%d.8h", 25, 25)
			for r := range s.rows {
				s.int4Add(r, dot)
			}
		}
	})
}

// int4Wide adds four codes of a row times four of each output to sums of 16 bits, four
// registers for a row: eight products, of 15 × 127 at most, fit.
func (s *neonSpans) int4Wide(row, code, w int, first bool) {
	s.op("VDUP V%d.S[%d], V28.S4", row, code)
	for q := range 2 {
		sum := 16 + 4*row + 2*q
		if first {
			s.three(smull8H, "smull v%d.8h, v%d.8b, v%d.8b", sum, w+q, 28)
			s.three(smull2x8H, "smull2 v%d.8h, v%d.16b, v%d.16b", sum+1, w+q, 28)
			continue
		}
		s.three(smlal8H, "smlal v%d.8h, v%d.8b, v%d.8b", sum, w+q, 28)
		s.three(smlal2x8H, "smlal2 v%d.8h, v%d.16b, v%d.16b", sum+1, w+q, 28)
	}
}

// int4Add adds a row's sums of 32 inputs to those of the span.
func (s *neonSpans) int4Add(row int, dot bool) {
	if dot {
		s.add(row, 0, 16+2*row)
		s.add(row, 1, 17+2*row)
		return
	}
	s.op("VLD1R.P 4(R15), [V28.S4]")
	for q := range 2 {
		sum := 16 + 4*row + 2*q
		s.two(saddlp4S, "saddlp v%d.4s, v%d.8h", sum, sum)
		s.two(saddlp4S, "saddlp v%d.4s, v%d.8h", sum+1, sum+1)
		s.op("VADDP V%d.S4, V%d.S4, V%d.S4", sum+1, sum, sum)
		s.op("VADD V28.S4, V%d.S4, V%d.S4", sum, sum)
		s.add(row, q, sum)
	}
}
