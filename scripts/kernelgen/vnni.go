package main

import (
	"fmt"
	"slices"
)

// Registers of the products with VNNI: integer sums from Z0 on, float sums of a span behind them
// and those of outputs before the weights, where these have room.
const (
	vnniWeights = 24 // to 27
	vnniHigh    = 26
	vnniTemp    = 26 // and 27, while float sums in the frame are added to
	vnniInput   = 28 // and 29
	vnniMask    = 30

	// With one or two rows of 4 bits: sums of the high halves of bytes, which are 16 times
	// too large, and then the weights' scales; and sums of the first half of a group.
	vnniHighSums = 8
	vnniHalves   = 16
	vnniHighMask = 31
)

func vnniFile() string {
	var a asm
	a.WriteString(asmHead + "// So do those of spans. Where there is room, registers hold them.\n\n" +
		"// Rules: EVEX encodings only, VZEROUPPER before every return.\n")
	for _, p := range slices.Concat(vnni(8), vnniSeveral(8), vnni(4), vnniSeveral(4)) {
		p.vnni(&a)
	}
	return a.String()
}

// sum holds the integer sums of a row and a block. Float sums of a span of groups and of the
// outputs are in registers, span and out, or in the frame, spanSlot and outSlot.
func (p product) sum(row, b int) string { return z(row*p.blocks + b) }

func (p product) span(row, b int) string { return z((p.rows+row)*p.blocks + b) }

func (p product) out(row, b int) string { return z(vnniWeights + (row-p.rows)*p.blocks + b) }

func (p product) outSlot(row, b int) string {
	return place((row*p.blocks+b)*lineBytes) + "(DI)"
}

func (p product) spanSlot(row, b int) string { return p.outSlot(p.rows+row, b) }

// few says that there are registers enough to sum high halves of bytes where they are.
// That saves an instruction of five for a line, and so lets a processor look farther ahead.
func (p product) few() bool { return p.bits == 4 && p.rows <= 2 }

// heldSpan says that float sums of a span are in registers, and heldOut that those of outputs
// are, too. Stores of sums to the frame cost more than anything else but the dot products.
func (p product) heldSpan() bool { return p.rows*p.blocks <= 12 && !(p.few() && p.rows == 2) }

func (p product) heldOut() bool { return p.rows*p.blocks <= 8 && p.heldSpan() }

// frame is the bytes of float sums in the frame.
func (p product) frame() int {
	sums := 2
	if p.heldOut() {
		sums = 0
	} else if p.heldSpan() {
		sums = 1
	}
	return sums * p.rows * p.blocks * lineBytes
}

func z(i int) string { return fmt.Sprintf("Z%d", i) }

func (p product) vnni(a *asm) {
	p.begin(a, lineBytes, p.frame())
	if p.bits == 4 {
		a.op("MOVL $0x0f0f0f0f, AX")
		a.op("VPBROADCASTD AX, %s", z(vnniMask))
		if p.few() {
			a.op("VPSLLD $4, %s, %s", z(vnniMask), z(vnniHighMask))
		}
	}
	p.vnniMasks(a)
	p.vnniClear(a)
	p.vnniBeginSpan(a)
	a.label("group")
	switch {
	case p.bits == 8:
		p.vnniGroup8(a)
	case p.few():
		p.vnniFew4(a)
	default:
		p.vnniGroup4(a)
	}
	p.crossBlocks(a)
	a.op("DECL AX")
	a.op("JNZ  group")
	p.vnniEndSpan(a)
	a.op("TESTQ CX, CX")
	a.op("JNZ  span")
	p.vnniStore(a)
}

// vnniBeginSpan makes AX the number of groups of a span, and CX that of groups behind it.
// K7 has all lanes but in a span's first group.
func (p product) vnniBeginSpan(a *asm) {
	a.label("span")
	a.op("MOVL $%d, AX", spanGroups)
	a.op("CMPQ CX, AX")
	a.op("CMOVQLT CX, AX")
	a.op("SUBQ AX, CX")
	if !p.heldSpan() {
		a.op("KXORW K7, K7, K7")
	}
}

// vnniEndSpan multiplies the sums of a span in registers with the rows' scales; DX is behind its
// last group.
func (p product) vnniEndSpan(a *asm) {
	if !p.heldSpan() {
		return
	}
	p.all(func(r, b int) {
		t, x := p.span(r, b), p.rowScale(a, r, b, p.unit())
		if p.heldOut() {
			a.op("VFMADD231PS %s, %s, %s", x, t, p.out(r, b))
		} else {
			a.op("VFMADD213PS %s, %s, %s", p.outSlot(r, b), x, t)
			a.op("VMOVUPS %s, %s", t, p.outSlot(r, b))
		}
		a.op("VPXORD %s, %s, %s", t, t, t)
	})
}

// rowScale returns the register of a row's scale, which it loads for the first block; DX is so
// many bytes behind the beginning of a group.
func (p product) rowScale(a *asm, r, b, behind int) string {
	x := z(vnniInput + r%2)
	if b == 0 {
		a.op("VBROADCASTSS %s(DX), %s", place(p.scale(r)-behind), x)
	}
	return x
}

// vnniScale adds the sums of a group to those of its span: add adds those of a row and a block to
// a register. Where sums of spans are in the frame, the last group adds them to those of outputs;
// DX is so many bytes behind the beginning of the group.
func (p product) vnniScale(a *asm, behind int, add func(r, b int, t string)) {
	if p.heldSpan() {
		p.all(func(r, b int) { add(r, b, p.span(r, b)) })
		return
	}
	in := func(r, b int) string {
		t := z(vnniTemp + (r*p.blocks+b)%2)
		a.op("VMOVUPS.Z %s, K7, %s", p.spanSlot(r, b), t)
		add(r, b, t)
		return t
	}
	a.op("CMPL AX, $1")
	a.op("JEQ  last")
	p.all(func(r, b int) { a.op("VMOVUPS %s, %s", in(r, b), p.spanSlot(r, b)) })
	a.op("KXNORW K7, K7, K7")
	a.op("JMP  scaled")
	a.label("last")
	p.all(func(r, b int) {
		t, x := in(r, b), p.rowScale(a, r, b, behind)
		a.op("VFMADD213PS %s, %s, %s", p.outSlot(r, b), x, t)
		a.op("VMOVUPS %s, %s", t, p.outSlot(r, b))
	})
	a.label("scaled")
}

// vnniBegin sets the integer sums to the rows' offsets; DX is at an input of the group.
func (p product) vnniBegin(a *asm, half, input int) {
	for r := range p.rows {
		a.op("VPBROADCASTD %d(DX), %s", p.offset(r, half)-input, p.sum(r, 0))
		for b := 1; b < p.blocks; b++ {
			a.op("VMOVDQA64 %s, %s", p.sum(r, 0), p.sum(r, b))
		}
	}
}

// vnniDots adds four inputs of every row times the weights in registers. Inputs are loaded
// once for all blocks: processors do no more loads than dot products at a time.
func (p product) vnniDots(a *asm, input, weights, from, to int) {
	for r := range p.rows {
		in := z(vnniInput + r%2)
		a.op("VPBROADCASTD %s(DX), %s", place(p.codes(r, input)), in)
		for b := from; b < to; b++ {
			a.op("VPDPBUSD %s, %s, %s", in, z(weights+b-from), p.sum(r, b))
		}
	}
}

func (p product) vnniGroup8(a *asm) {
	const unroll = 4
	p.vnniBegin(a, 0, 0)
	a.op("MOVL $%d, BX", 16/unroll)
	a.label("lines")
	for l := range unroll {
		p.fetchNext(a, l)
		p.fetch(a, l)
		for b := range p.blocks {
			a.op("VMOVDQU64 %s, %s", block(l*lineBytes, b), z(vnniWeights+b))
		}
		p.vnniDots(a, 4*l, vnniWeights, 0, p.blocks)
	}
	p.advance(a, unroll)
	a.op("ADDQ $%d, DX", 4*unroll)
	a.op("DECL BX")
	a.op("JNZ  lines")
	for b := range p.blocks {
		a.op("VMOVUPS %s, %s", block(0, b), z(vnniWeights+b))
	}
	p.vnniScale(a, groupInputs, func(r, b int, t string) {
		a.op("VCVTDQ2PS %s, %s", p.sum(r, b), p.sum(r, b))
		a.op("VFMADD231PS %s, %s, %s", z(vnniWeights+b), p.sum(r, b), t)
	})
	p.fetch(a, 0)
	p.fetchInputs(a)
	p.advance(a, 1)
	a.op("ADDQ $%d, DX", p.unit()-groupInputs)
}

// vnniGroup4 scales the sums of a half before it begins the next.
func (p product) vnniGroup4(a *asm) {
	for half := range 2 {
		p.vnniBegin(a, half, half*groupInputs/2)
		a.op("MOVL $2, BX")
		a.label(fmt.Sprintf("half%d", half))
		for l := range 2 {
			p.fetch(a, l)
			for b := 0; b < p.blocks; b += 2 {
				p.vnniLine4(a, l, b, min(b+2, p.blocks))
			}
		}
		p.advance(a, 2)
		a.op("ADDQ $16, DX")
		a.op("DECL BX")
		a.op("JNZ  half%d", half)
		p.vnniScale4(a, half)
	}
	p.fetch(a, 0)
	p.fetchInputs(a)
	p.advance(a, 1)
	a.op("ADDQ $%d, DX", p.unit()-groupInputs)
}

// vnniLine4 multiplies a line of two blocks.
func (p product) vnniLine4(a *asm, l, from, to int) {
	for b := from; b < to; b++ {
		low, high := z(vnniWeights+b-from), z(vnniHigh+b-from)
		a.op("VMOVDQU64 %s, %s", block(l*lineBytes, b), high)
		a.op("VPANDD %s, %s, %s", z(vnniMask), high, low)
		a.op("VPSRLD $4, %s, %s", high, high)
		a.op("VPANDD %s, %s, %s", z(vnniMask), high, high)
	}
	p.fetchNext(a, 0)
	p.vnniDots(a, 8*l, vnniWeights, from, to)
	p.fetchNext(a, 1)
	p.vnniDots(a, 8*l+4, vnniHigh, from, to)
}

// vnniScale4 ends a half.
func (p product) vnniScale4(a *asm, half int) {
	at := 4 * lineBytes // of the scales: SI is behind 4 lines, then behind 8
	if half == 1 {
		at = lineBytes / 2
	}
	for b := range p.blocks {
		a.op("VCVTPH2PS %s, %s", block(at, b), z(vnniWeights+b))
	}
	p.all(func(r, b int) {
		a.op("VCVTDQ2PS %s, %s", p.sum(r, b), p.sum(r, b))
		a.op("VFMADD231PS %s, %s, %s", z(vnniWeights+b), p.sum(r, b), p.span(r, b))
	})
}

func (p product) vnniFew4(a *asm) {
	for half := range 2 {
		p.vnniBegin(a, half, 0)
		p.all(func(r, b int) {
			high := z(vnniHighSums + r*p.blocks + b)
			a.op("VPXORD %s, %s, %s", high, high, high)
		})
		for l := 4 * half; l < 4*half+4; l++ {
			p.fetch(a, l)
			for b := range p.blocks {
				low, high := z(vnniWeights+2*(b%2)), z(vnniWeights+2*(b%2)+1)
				a.op("VPANDD %s, %s, %s", block(l*lineBytes, b), z(vnniMask), low)
				a.op("VPANDD %s, %s, %s", block(l*lineBytes, b), z(vnniHighMask), high)
				for r := range p.rows {
					x := p.codes(r, 8*l)
					a.op("VPDPBUSD.BCST %s(DX), %s, %s", place(x), low, p.sum(r, b))
					a.op("VPDPBUSD.BCST %d(DX), %s, %s", x+4, high, z(vnniHighSums+r*p.blocks+b))
				}
			}
		}
		p.all(func(r, b int) {
			i := r*p.blocks + b
			high, into := z(vnniHighSums+i), p.sum(r, b)
			if half == 0 {
				into = z(vnniHalves + i)
			}
			a.op("VPSRAD $4, %s, %s", high, high)
			a.op("VPADDD %s, %s, %s", high, p.sum(r, b), into)
		})
	}
	p.vnniScaleFew4(a)
	p.fetch(a, 8)
	p.advance(a, 9)
	a.op("ADDQ $%d, DX", p.unit())
}

// vnniScaleFew4 is last: the line of scales comes after those of codes, and processors
// fetch ahead best what is read in its order.
func (p product) vnniScaleFew4(a *asm) {
	scales := func(b, half int) string { return z(vnniHighSums + 2*b + half) }
	for b := range p.blocks {
		a.op("VCVTPH2PS %s, %s", block(8*lineBytes, b), scales(b, 0))
		a.op("VCVTPH2PS %s, %s", block(8*lineBytes+lineBytes/2, b), scales(b, 1))
	}
	p.vnniScale(a, 0, func(r, b int, t string) {
		s, first := p.sum(r, b), z(vnniHalves+r*p.blocks+b)
		a.op("VCVTDQ2PS %s, %s", first, first)
		a.op("VFMADD231PS %s, %s, %s", scales(b, 0), first, t)
		a.op("VCVTDQ2PS %s, %s", s, s)
		a.op("VFMADD231PS %s, %s, %s", scales(b, 1), s, t)
	})
}

// all calls f for every row and block.
func (p product) all(f func(r, b int)) {
	for r := range p.rows {
		for b := range p.blocks {
			f(r, b)
		}
	}
}

// vnniMasks makes masks of the outputs that there are, and R10 and R11 what the rows of y
// need.
func (p product) vnniMasks(a *asm) {
	a.op("MOVQ y+0(FP), R10")
	a.op("MOVQ ldy+8(FP), R11")
	a.op("SHLQ $2, R11")
	a.op("MOVL $64, BX")
	a.op("SUBQ outputs+16(FP), BX")
	a.op("MOVQ $-1, AX")
	a.op("SHRXQ BX, AX, AX")
	for b := range p.blocks {
		if b > 0 {
			a.op("SHRQ $16, AX")
		}
		a.op("KMOVW AX, K%d", b+1)
	}
}

// vnniClear begins the float sums, those of outputs with what is in y if there were groups before.
func (p product) vnniClear(a *asm) {
	if !p.heldOut() {
		a.op("VPXORD Z0, Z0, Z0")
	}
	p.all(func(r, b int) {
		if p.heldSpan() {
			a.op("VPXORD %[1]s, %[1]s, %[1]s", p.span(r, b))
		}
		if p.heldOut() {
			a.op("VPXORD %[1]s, %[1]s, %[1]s", p.out(r, b))
		} else {
			a.op("VMOVUPS Z0, %s", p.outSlot(r, b))
		}
	})
	if !p.several {
		return
	}
	a.op("MOVQ R10, BX // behind these outputs are those of the next part")
	p.all(func(r, b int) {
		if r > 0 && b == 0 {
			a.op("ADDQ R11, BX")
		}
		a.op("PREFETCHT0 %d(BX)", (p.blocks+b)*lineBytes)
	})
	a.op("CMPQ add+56(FP), $0")
	a.op("JEQ  span")
	p.all(func(r, b int) {
		if r > 0 && b == 0 {
			a.op("ADDQ R11, R10")
		}
		to := p.out(r, b)
		if !p.heldOut() {
			to = p.sum(r, b)
		}
		a.op("VMOVUPS.Z %s(R10), K%d, %s", place(b*lineBytes), b+1, to)
		if !p.heldOut() {
			a.op("VMOVUPS %s, %s", to, p.outSlot(r, b))
		}
	})
	a.op("MOVQ y+0(FP), R10")
}

// vnniStore writes the sums to y, as many outputs as there are.
func (p product) vnniStore(a *asm) {
	if p.heldOut() {
		p.all(func(r, b int) {
			if r > 0 && b == 0 {
				a.op("ADDQ R11, R10")
			}
			a.op("VMOVUPS %s, K%d, %s(R10)", p.out(r, b), b+1, place(b*lineBytes))
		})
	} else {
		a.op("MOVL $%d, CX", p.rows)
		a.label("store")
		for b := range p.blocks {
			a.op("VMOVUPS %s(DI), %s", place(b*lineBytes), z(b))
			a.op("VMOVUPS %s, K%d, %s(R10)", z(b), b+1, place(b*lineBytes))
		}
		a.op("ADDQ $%d, DI", p.blocks*lineBytes)
		a.op("ADDQ R11, R10")
		a.op("DECL CX")
		a.op("JNZ  store")
	}
	a.op("VZEROUPPER")
	a.op("RET")
}
