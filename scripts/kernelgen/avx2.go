package main

import "fmt"

// Registers of the products with AVX2: integer sums from Y0 on, then these. R10 counts the
// groups that a span still needs.
const (
	avx2Weights = 8 // to 11
	avx2Input   = 12
	avx2Temp    = 13 // and 14
	avx2Mask    = 15
)

const avx2Bytes = 32

func avx2File() string {
	var a asm
	a.WriteString(asmHead + "// Behind them lie the sums of the span that is under way.\n" +
		"\n// Rules: VEX encodings only, VZEROUPPER before every return.\n")
	for _, p := range append(avx2(8), avx2(4)...) {
		p.avx2(&a)
	}
	return a.String()
}

func y(i int) string { return fmt.Sprintf("Y%d", i) }

// part is one of the halves of a block that a register holds, 8 outputs.
func (p product) part(row, b, j int) string { return y((row*p.blocks+b)*2 + j) }

func (p product) slot2(row, b, j int) string {
	return place((row*p.blocks+b)*lineBytes+j*avx2Bytes) + "(DI)"
}

// span2 is the place of the sums over a span's groups, which its last group adds to slot2.
func (p product) span2(row, b, j int) string { return p.slot2(p.rows+row, b, j) }

func (p product) avx2(a *asm) {
	size := 2 * p.rows * p.blocks * lineBytes
	p.begin(a, avx2Bytes, size)
	a.op("MOVL $%d, R10", spanGroups)
	a.op("VPXOR Y0, Y0, Y0")
	for i := range size / avx2Bytes {
		a.op("VMOVUPS Y0, %s(DI)", place(i*avx2Bytes))
	}
	if p.bits == 8 {
		a.op("VPCMPEQW Y15, Y15, Y15")
		a.op("VPSRLW $8, Y15, Y15")
	} else {
		a.op("MOVL $0x0f0f0f0f, AX")
		a.op("VMOVD AX, X15")
		a.op("VPBROADCASTD X15, Y15")
	}
	a.label("group")
	if p.bits == 8 {
		p.avx2Group8(a)
	} else {
		p.avx2Group4(a)
	}
	p.endGroup(a)
	p.avx2Store(a)
}

// avx2Group8 multiplies pairs of 16 bits: codes of weights as they are stored, the even
// and the odd ones of four, with wide codes of activations. VPMADDUBSW would saturate; with
// magnitudes of weights and activations that got their signs it would not, but takes as
// many instructions, of which VPSIGNB goes to fewer units.
func (p product) avx2Group8(a *asm) {
	const unroll = 4
	p.avx2Begin8(a)
	a.op("MOVL $%d, BX", 16/unroll)
	a.label("lines")
	for l := range unroll {
		p.fetch(a, l)
		for b := range p.blocks {
			for j := range 2 {
				even, odd := y(avx2Weights+j), y(avx2Weights+2+j)
				a.op("VMOVDQU %s, %s", block(l*lineBytes+j*avx2Bytes, b), odd)
				a.op("VPAND %s, Y15, %s", odd, even)
				a.op("VPSRLW $8, %s, %s", odd, odd)
			}
			for r := range p.rows {
				for odd := range 2 {
					a.op("VPBROADCASTD %s(DX), Y12", place(p.codes(r, 4*l)+4*odd))
					for j := range 2 {
						t, s := y(avx2Temp+j), p.part(r, b, j)
						a.op("VPMADDWD Y12, %s, %s", y(avx2Weights+2*odd+j), t)
						a.op("VPADDD %s, %s, %s", t, s, s)
					}
				}
			}
		}
	}
	p.advance(a, unroll)
	a.op("ADDQ $%d, DX", 8*unroll)
	a.op("DECL BX")
	a.op("JNZ  lines")
	p.avx2End(a, func(last bool) {
		for b := range p.blocks {
			for j := range 2 {
				a.op("VMOVUPS %s, %s", block(j*avx2Bytes, b), y(avx2Weights+j))
			}
			for r := range p.rows {
				p.avx2Add(a, r, b, p.scale(r)-2*groupInputs, last)
			}
		}
	})
	p.fetch(a, 0)
	p.advance(a, 1)
	a.op("ADDQ $%d, DX", p.unit()-2*groupInputs)
}

// avx2End ends a group in one of two ways: if it is the last of its span or if not.
func (p product) avx2End(a *asm, end func(last bool)) {
	a.op("DECQ R10")
	a.op("JZ   last")
	a.op("CMPQ CX, $1")
	a.op("JEQ  last")
	end(false)
	a.op("JMP  ended")
	a.label("last")
	a.op("VPXOR Y11, Y11, Y11")
	end(true)
	a.op("MOVL $%d, R10", spanGroups)
	a.label("ended")
}

// avx2Add adds the integer sums times the weights' scales to the sums of the span, and after
// its last group those times the row's scale, which is at a place from DX on, to the outputs'.
// Y11 is zero then.
func (p product) avx2Add(a *asm, r, b, scale int, last bool) {
	if last {
		a.op("VBROADCASTSS %d(DX), Y13", scale)
	}
	for j := range 2 {
		s := p.part(r, b, j)
		a.op("VCVTDQ2PS %s, %s", s, s)
		a.op("VFMADD213PS %s, %s, %s", p.span2(r, b, j), y(avx2Weights+j), s)
		if !last {
			a.op("VMOVUPS %s, %s", s, p.span2(r, b, j))
			continue
		}
		a.op("VMOVUPS Y11, %s", p.span2(r, b, j))
		a.op("VFMADD213PS %s, Y13, %s", p.slot2(r, b, j), s)
		a.op("VMOVUPS %s, %s", s, p.slot2(r, b, j))
	}
}

// avx2Begin8 sets the integer sums to the rows' offsets.
func (p product) avx2Begin8(a *asm) {
	for r := range p.rows {
		for i := range 2 * p.blocks {
			a.op("VPBROADCASTD %d(DX), %s", p.offset(r, 0), p.part(r, i/2, i%2))
		}
	}
}

// avx2Group4 sums in 16 bits: 8 sums of two products are at most 8*2*15*127 = 30480, and that
// bound holds with half of the offset, too.
func (p product) avx2Group4(a *asm) {
	for half := range 2 {
		p.avx2Begin4(a, half)
		a.op("MOVL $2, BX")
		a.label(fmt.Sprintf("half%d", half))
		for l := range 2 {
			p.fetch(a, l)
			for b := range p.blocks {
				p.avx2Line4(a, l, b)
			}
		}
		p.advance(a, 2)
		a.op("ADDQ $16, DX")
		a.op("DECL BX")
		a.op("JNZ  half%d", half)
		p.avx2Scale4(a, half)
	}
	p.fetch(a, 0)
	p.advance(a, 1)
	a.op("ADDQ $%d, DX", p.unit()-groupInputs)
}

// avx2Begin4 sets both sums of a dword to half of the row's offset, which fits in 16 bits and
// is even.
func (p product) avx2Begin4(a *asm, half int) {
	for r := range p.rows {
		s := p.part(r, 0, 0)
		a.op("VPBROADCASTW %d(DX), %s", p.offset(r, half)-32*half, s)
		a.op("VPSRAW $1, %s, %s", s, s)
		for i := 1; i < 2*p.blocks; i++ {
			a.op("VMOVDQA %s, %s", s, p.part(r, i/2, i%2))
		}
	}
}

func (p product) avx2Line4(a *asm, l, b int) {
	for j := range 2 {
		low, high := y(avx2Weights+j), y(avx2Weights+2+j)
		a.op("VMOVDQU %s, %s", block(l*lineBytes+j*avx2Bytes, b), high)
		a.op("VPAND %s, Y15, %s", high, low)
		a.op("VPSRLW $4, %s, %s", high, high)
		a.op("VPAND %s, Y15, %s", high, high)
	}
	for r := range p.rows {
		for nibble := range 2 {
			a.op("VPBROADCASTD %s(DX), Y12", place(p.codes(r, 8*l+4*nibble)))
			for j := range 2 {
				t, s := y(avx2Temp+j), p.part(r, b, j)
				a.op("VPMADDUBSW Y12, %s, %s", y(avx2Weights+2*nibble+j), t)
				a.op("VPADDW %s, %s, %s", t, s, s)
			}
		}
	}
}

// avx2Scale4 ends a half: SI is behind its 4 lines, or behind 8.
func (p product) avx2Scale4(a *asm, half int) {
	a.op("VPCMPEQW Y14, Y14, Y14 // ones")
	a.op("VPSRLW $15, Y14, Y14")
	if half == 0 {
		p.avx2Add4(a, 0, 4*lineBytes, false)
		return
	}
	p.avx2End(a, func(last bool) { p.avx2Add4(a, 1, lineBytes/2, last) })
}

// avx2Add4 adds the sums of a half, whose weights' scales are at a place from SI on.
func (p product) avx2Add4(a *asm, half, at int, last bool) {
	for b := range p.blocks {
		for j := range 2 {
			a.op("VCVTPH2PS %s, %s", block(at+j*16, b), y(avx2Weights+j))
		}
		for r := range p.rows {
			for j := range 2 {
				s := p.part(r, b, j)
				a.op("VPMADDWD Y14, %s, %s", s, s)
			}
			p.avx2Add(a, r, b, p.scale(r)-groupInputs, last)
		}
	}
}

// avx2Store writes the sums to y, as many outputs as there are.
func (p product) avx2Store(a *asm) {
	a.op("MOVQ y+0(FP), R10")
	a.op("MOVQ ldy+8(FP), R11")
	a.op("SHLQ $2, R11")
	a.op("MOVQ $0x0706050403020100, AX")
	a.op("VMOVQ AX, X15")
	a.op("VPMOVZXBD X15, Y15")
	a.op("VPBROADCASTD outputs+16(FP), Y14")
	a.op("MOVL $8, AX")
	a.op("VMOVD AX, X13")
	a.op("VPBROADCASTD X13, Y13")
	for i := range 2 * p.blocks { // masks of the outputs that there are
		a.op("VPCMPGTD Y15, Y14, %s", y(i))
		a.op("VPSUBD Y13, Y14, Y14")
	}
	a.op("MOVL $%d, CX", p.rows)
	a.label("store")
	for i := range 2 * p.blocks {
		a.op("VMOVUPS %s(DI), Y15", place(i*avx2Bytes))
		a.op("VMASKMOVPS Y15, %s, %s(R10)", y(i), place(i*avx2Bytes))
	}
	a.op("ADDQ $%d, DI", p.blocks*lineBytes)
	a.op("ADDQ R11, R10")
	a.op("DECL CX")
	a.op("JNZ  store")
	a.op("VZEROUPPER")
	a.op("RET")
}
