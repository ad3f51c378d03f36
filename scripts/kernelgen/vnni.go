package main

import (
	"fmt"
	"slices"
)

// Registers of the products with VNNI: integer sums from Z0 on, float sums behind them where
// both have room, then weights.
const (
	vnniWeights = 24 // to 27
	vnniHigh    = 26
	vnniInput   = 28 // and 29
	vnniMask    = 30

	// With one or two rows of 4 bits: sums of the high halves of bytes, which are 16 times
	// too large, and sums of the first half of a group.
	vnniHighSums = 8
	vnniHalves   = 16
	vnniHighMask = 31
)

func vnniFile() string {
	var a asm
	a.WriteString(asmHead + "\n// Rules: EVEX encodings only, VZEROUPPER before every return.\n")
	for _, p := range slices.Concat(vnni(8), vnniSeveral(8), vnni(4), vnniSeveral(4)) {
		p.vnni(&a)
	}
	return a.String()
}

// sum holds the integer sums of a row and a block, and slot is the place of the float sums
// in the frame.
func (p product) sum(row, b int) string { return z(row*p.blocks + b) }

func (p product) slot(row, b int) string {
	return place((row*p.blocks+b)*lineBytes) + "(DI)"
}

// few says that there are registers enough to sum high halves of bytes where they are.
// That saves an instruction of five for a line, and so lets a processor look farther ahead.
func (p product) few() bool { return p.bits == 4 && p.rows <= 2 }

// held says that the float sums are in registers, too. Stores of sums to the frame cost more
// than anything else but the dot products.
func (p product) held() bool { return !p.few() && p.rows*p.blocks <= 12 }

func (p product) heldSum(row, b int) string { return z((p.rows+row)*p.blocks + b) }

func z(i int) string { return fmt.Sprintf("Z%d", i) }

func (p product) vnni(a *asm) {
	p.begin(a, lineBytes, p.halves()*p.rows*p.blocks*lineBytes)
	if p.bits == 4 {
		a.op("MOVL $0x0f0f0f0f, AX")
		a.op("VPBROADCASTD AX, %s", z(vnniMask))
		if p.few() {
			a.op("VPSLLD $4, %s, %s", z(vnniMask), z(vnniHighMask))
		}
	}
	p.vnniMasks(a)
	p.vnniClear(a)
	a.label("group")
	switch {
	case p.bits == 8:
		p.vnniGroup8(a)
	case p.few():
		p.vnniFew4(a)
	default:
		p.vnniGroup4(a)
	}
	p.endGroup(a)
	p.vnniStore(a)
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
	p.all(func(r, b int) {
		s := p.sum(r, b)
		a.op("VCVTDQ2PS %s, %s", s, s)
		a.op("VMULPS %s, %s, %s", z(vnniWeights+b), s, s)
		p.vnniAdd(a, r, b)
	})
	p.fetch(a, 0)
	p.fetchInputs(a)
	p.advance(a, 1)
	a.op("ADDQ $%d, DX", p.unit()-groupInputs)
}

// vnniAdd adds sums that were multiplied with the weights' scales to the float sums; DX is
// behind the codes of the first row.
func (p product) vnniAdd(a *asm, r, b int) {
	s, x := p.sum(r, b), z(vnniInput+r%2)
	if b == 0 {
		a.op("VBROADCASTSS %d(DX), %s", p.scale(r)-groupInputs, x)
	}
	if p.held() {
		a.op("VFMADD231PS %s, %s, %s", x, s, p.heldSum(r, b))
		return
	}
	a.op("VFMADD213PS %s, %s, %s", p.slot(r, b), x, s)
	a.op("VMOVUPS %s, %s", s, p.slot(r, b))
}

// vnniGroup4 scales the sums of a half before it begins the next; those of the first half
// lie in the frame meanwhile.
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
		s, first := p.sum(r, b), place(((p.rows+r)*p.blocks+b)*lineBytes)+"(DI)"
		a.op("VCVTDQ2PS %s, %s", s, s)
		if half == 0 {
			a.op("VMULPS %s, %s, %s", z(vnniWeights+b), s, s)
			a.op("VMOVUPS %s, %s", s, first)
			return
		}
		a.op("VFMADD213PS %s, %s, %s", first, z(vnniWeights+b), s)
		p.vnniAdd(a, r, b)
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
	for b := range p.blocks {
		first, second := z(vnniWeights), z(vnniWeights+1)
		a.op("VCVTPH2PS %s, %s", block(8*lineBytes, b), first)
		a.op("VCVTPH2PS %s, %s", block(8*lineBytes+lineBytes/2, b), second)
		for r := range p.rows {
			s, half := p.sum(r, b), z(vnniHalves+r*p.blocks+b)
			a.op("VCVTDQ2PS %s, %s", half, half)
			a.op("VCVTDQ2PS %s, %s", s, s)
			a.op("VMULPS %s, %s, %s", first, half, half)
			a.op("VFMADD213PS %s, %s, %s", half, second, s)
			a.op("VMOVUPS %s, %s", p.slot(r, b), z(vnniInput))
			a.op("VFMADD132PS.BCST %d(DX), %s, %s", p.scale(r), z(vnniInput), s)
			a.op("VMOVUPS %s, %s", s, p.slot(r, b))
		}
	}
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

// vnniClear begins the float sums, with those in y if there were groups before.
func (p product) vnniClear(a *asm) {
	a.op("VPXORD Z0, Z0, Z0")
	p.all(func(r, b int) {
		if p.held() {
			a.op("VMOVAPS Z0, %s", p.heldSum(r, b))
		} else {
			a.op("VMOVUPS Z0, %s", p.slot(r, b))
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
	a.op("JEQ  group")
	p.all(func(r, b int) {
		if r > 0 && b == 0 {
			a.op("ADDQ R11, R10")
		}
		a.op("VMOVUPS.Z %s(R10), K%d, %s", place(b*lineBytes), b+1, p.heldSum(r, b))
	})
	a.op("MOVQ y+0(FP), R10")
}

// vnniStore writes the sums to y, as many outputs as there are.
func (p product) vnniStore(a *asm) {
	if p.held() {
		p.all(func(r, b int) {
			if r > 0 && b == 0 {
				a.op("ADDQ R11, R10")
			}
			a.op("VMOVUPS %s, K%d, %s(R10)", p.heldSum(r, b), b+1, place(b*lineBytes))
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
