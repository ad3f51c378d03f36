package main

import "fmt"

// Registers of spans of four groups: the inputs of a group from Z0 on, then these.
const (
	fourNext      = 14 // and 15: scale and inverse of the next span
	fourSums      = 16 // to 19: a vector for each group, 20 to 23 while they are summed
	fourScale     = 24 // the same number four times
	fourInverse   = 25
	fourOnes      = 28
	fourMost      = 29
	fourOrder     = 30
	fourMagnitude = 31
)

// fourAhead is by how many bytes inputs are fetched before they are used: those of many rows are
// in no near cache. A line of each KiB is fetched far earlier, so that where its page lies is
// known by then: most rows lie in small pages.
const (
	fourAhead     = 8192
	fourPageAhead = 40960
)

// four quantises spans while they have four groups and are not special. From the largest magnitude
// to its inverse is a long chain; the codes of a span are made while it goes on for the next, which
// is read again then. Sums across the vectors of four groups are made in one.
func (q quantiser) four(a *asm) {
	a.op("VBROADCASTSS X14, X%d", fourMost)
	a.op("MOVL $0x01010101, AX")
	a.op("VPBROADCASTD AX, %s", z(fourOnes))
	a.op("MOVQ $0x0d0905010c080400, AX // the order of packed parts")
	a.op("VMOVQ AX, X13")
	a.op("MOVQ $0x0f0b07030e0a0602, AX")
	a.op("VMOVQ AX, X12")
	a.op("VPUNPCKLQDQ X12, X13, X13")
	a.op("VPMOVZXBD X13, %s", z(fourOrder))
	a.op("MOVL $0x0d800000, AX // 2^-100")
	a.op("VMOVD AX, X11")
	a.op("VPBROADCASTD X11, X26")
	a.op("MOVL $(0x7f800000-0x0d800000), AX")
	a.op("VMOVD AX, X11")
	a.op("VPBROADCASTD X11, X27")
	a.op("LEAQ (R8)(R8*2), R10")
	a.label("four")
	a.op("CMPQ CX, $4")
	a.op("JB   span")
	q.fourLargest(a, "(SI)", fourScale, fourInverse)
	a.op("KORTESTW K1, K1")
	a.op("JNZ  span")
	a.label("pipelined")
	a.op("XORL R13, R13")
	a.op("MOVL $%d, AX", 4*groupInputs*4)
	a.op("CMPQ CX, $8")
	a.op("CMOVQCC AX, R13 // without a next span, this again")
	q.fourLargest(a, "(SI)(R13*1)", fourNext, fourNext+1)
	q.fourCodes(a)
	q.fourOffsets(a)
	a.op("LEAQ (DI)(R8*4), DI")
	a.op("LEAQ (BX)(R8*4), BX")
	a.op("ADDQ $%d, SI", 4*groupInputs*4)
	a.op("SUBQ $4, CX")
	a.op("JEQ  done")
	a.op("CMPQ CX, $4")
	a.op("JB   span")
	a.op("KORTESTW K1, K1")
	a.op("JNZ  span")
	a.op("VMOVAPS X%d, X%d", fourNext, fourScale)
	a.op("VMOVAPS X%d, X%d", fourNext+1, fourInverse)
	a.op("JMP  pipelined")
	a.label("done")
	a.op("VZEROUPPER")
	a.op("RET")
}

// across makes Z20 the sums of four vectors: in each 128 bits a number of each.
func across(a *asm) {
	s := func(i int) string { return z(fourSums + i) }
	for i := range 2 {
		a.op("VPUNPCKLDQ %s, %s, %s", s(2*i+1), s(2*i), z(20+2*i))
		a.op("VPUNPCKHDQ %s, %s, %s", s(2*i+1), s(2*i), z(21+2*i))
		a.op("VPADDD %s, %s, %s", z(20+2*i), z(21+2*i), z(20+2*i))
	}
	a.op("VPUNPCKLQDQ Z22, Z20, Z21")
	a.op("VPUNPCKHQDQ Z22, Z20, Z23")
	a.op("VPADDD Z21, Z23, Z20")
}

// fourLargest makes the scale of the span at a place and its inverse, and K1 tell whether it is
// special.
func (q quantiser) fourLargest(a *asm, at string, scale, inverse int) {
	if scale == fourNext {
		a.op("PREFETCHT0 %d(SI)", fourPageAhead)
	}
	for i := range 16 {
		largest := z(fourSums + i%4)
		if scale == fourNext {
			a.op("PREFETCHT0 %d(SI)", fourAhead+64*i)
		}
		if i < 4 {
			a.op("VPANDD %s%s, %s, %s", place(64*i), at, z(fourMagnitude), largest)
			continue
		}
		a.op("VPANDD %s%s, %s, %s", place(64*i), at, z(fourMagnitude), z(20+i%4))
		a.op("VPMAXSD %s, %s, %s", z(20+i%4), largest, largest)
	}
	a.op("VPMAXSD Z17, Z16, Z16")
	a.op("VPMAXSD Z19, Z18, Z18")
	a.op("VPMAXSD Z18, Z16, Z16")
	a.op("VEXTRACTI64X4 $1, Z16, Y17")
	a.op("VPMAXSD Y17, Y16, Y16")
	a.op("VEXTRACTI32X4 $1, Y16, X17")
	a.op("VPMAXSD X17, X16, X16")
	for _, order := range []int{0x4e, 0xb1} {
		a.op("VPSHUFD $%#x, X16, X17", order)
		a.op("VPMAXSD X17, X16, X16")
	}
	a.op("VPSUBD X26, X16, X17")
	a.op("VPCMPUD $5, X27, X17, K1 // it is special")
	a.op("VDIVPS X%d, X16, X%d", fourMost, scale)
	a.op("VDIVPS X16, X%d, X%d", fourMost, inverse)
}

// fourCodes writes the codes and sums each four of them.
func (q quantiser) fourCodes(a *asm) {
	a.op("VBROADCASTSS X%d, Z20", fourInverse)
	for g := range 4 {
		for i := range 4 {
			a.op("VMULPS %s(SI), Z20, %s", place(64*(4*g+i)), z(i))
			a.op("VCVTPS2DQ %s, %s", z(i), z(i))
		}
		a.op("VPACKSSDW Z1, Z0, Z0")
		a.op("VPACKSSDW Z3, Z2, Z2")
		a.op("VPACKSSWB Z2, Z0, Z0")
		a.op("VPERMD Z0, %s, Z0", z(fourOrder))
		sum := z(fourSums + g)
		a.op("VPXORD %s, %s, %s", sum, sum, sum)
		a.op("VPDPBUSD Z0, %s, %s", z(fourOnes), sum)
		a.op("VMOVDQU64 Z0, %s", fourth("DI", g))
	}
}

// fourOffsets writes the scale of each group and the offsets.
func (q quantiser) fourOffsets(a *asm) {
	for g := range 4 {
		a.op("VMOVSS X%d, %s", fourScale, fourth("BX", g))
	}
	across(a)
	a.op("VEXTRACTI64X4 $1, Z20, Y21")
	a.op("VPXORD X23, X23, X23")
	for half := range 2 {
		sum := 20 + half
		a.op("VEXTRACTI32X4 $1, Y%d, X22", sum)
		a.op("VPADDD X22, X%d, X%d", sum, sum)
	}
	shift, halves := 3, 2
	if q.bits == 8 {
		shift, halves = 7, 1
		a.op("VPADDD X21, X20, X20")
	}
	a.op("LEAQ (BX)(R9*1), R11")
	a.op("LEAQ (BX)(R9*2), R12")
	for half := range halves {
		a.op("VPSLLD $%d, X%d, X%d", shift, 20+half, 20+half)
		a.op("VPSUBD X%d, X23, X%d", 20+half, 20+half)
		for g := range 4 {
			a.op("VPEXTRD $%d, X%d, %s", g, 20+half, fourth([]string{"R11", "R12"}[half], g))
		}
	}
}

// fourth is the address of one of four groups; R8 is their distance, R10 three times that.
func fourth(base string, g int) string {
	return fmt.Sprintf("(%s)%s", base, []string{"", "(R8*1)", "(R8*2)", "(R10*1)"}[g])
}
