package main

import "fmt"

// Registers of the products with VNNI: integer sums from Z0 on, then weights.
const (
	vnniWeights = 24 // to 27
	vnniHigh    = 26
	vnniInput   = 28
	vnniMask    = 30

	// With few rows of 4 bits: sums of the high halves of bytes, which are 16 times too
	// large, and sums of the first half of a group.
	vnniHighSums = 8
	vnniHalves   = 16
	vnniHighMask = 31
)

func vnniFile() string {
	var a asm
	a.WriteString(asmHead + "\n// Rules: EVEX encodings only, VZEROUPPER before every return.\n")
	for _, p := range append(vnni(8), vnni(4)...) {
		p.vnni(&a)
	}
	return a.String()
}

func (p product) sum(row, b int) string { return fmt.Sprintf("Z%d", row*p.blocks+b) }

// slot is the place of a row's float sums in the frame.
func (p product) slot(row, b int) string {
	return place((row*p.blocks+b)*lineBytes) + "(DI)"
}

// held says that there are registers enough for the float sums, which are written to the
// frame at the end only.
func (p product) held() bool { return p.bits == 8 && p.rows*p.blocks <= 12 }

func (p product) heldSlot(row, b int) string { return z(12 + row*p.blocks + b) }

func z(i int) string { return fmt.Sprintf("Z%d", i) }

func (p product) vnni(a *asm) {
	p.begin(a, lineBytes, p.rows*p.blocks*lineBytes)
	if p.bits == 4 {
		a.op("MOVL $0x0f0f0f0f, AX")
		a.op("VPBROADCASTD AX, %s", z(vnniMask))
		if p.few() {
			a.op("VPSLLD $4, %s, %s", z(vnniMask), z(vnniHighMask))
		}
	}
	a.op("VPXORD Z0, Z0, Z0")
	p.all(func(r, b int) {
		if p.held() {
			a.op("VMOVAPS Z0, %s", p.heldSlot(r, b))
		} else {
			a.op("VMOVUPS Z0, %s", p.slot(r, b))
		}
	})
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
	if p.held() {
		p.all(func(r, b int) { a.op("VMOVUPS %s, %s", p.heldSlot(r, b), p.slot(r, b)) })
	}
	p.vnniStore(a)
}

// vnniBegin sets the integer sums to the rows' offsets.
func (p product) vnniBegin(a *asm, half int) {
	for r := range p.rows {
		a.op("VPBROADCASTD %d(DX), %s", p.offset(r, half), p.sum(r, 0))
		for b := 1; b < p.blocks; b++ {
			a.op("VMOVDQA64 %s, %s", p.sum(r, 0), p.sum(r, b))
		}
	}
}

// vnniDots adds four inputs of every row times the weights in registers.
func (p product) vnniDots(a *asm, input, weights int) {
	for r := range p.rows {
		x := place(p.codes(r, input)) + "(DX)"
		for b := range p.blocks {
			a.op("VPDPBUSD.BCST %s, %s, %s", x, z(weights+b), p.sum(r, b))
		}
	}
}

func (p product) vnniGroup8(a *asm) {
	const unroll = 4
	p.vnniBegin(a, 0)
	a.op("MOVL $%d, BX", 16/unroll)
	a.label("lines")
	for l := range unroll {
		p.fetch(a, l)
		for b := range p.blocks {
			a.op("VMOVDQU64 %s, %s", block(l*lineBytes, b), z(vnniWeights+b))
		}
		p.vnniDots(a, 4*l, vnniWeights)
	}
	p.advance(a, unroll)
	a.op("ADDQ $%d, DX", 4*unroll)
	a.op("DECL BX")
	a.op("JNZ  lines")
	for b := range p.blocks {
		a.op("VMOVUPS %s, %s", block(0, b), z(vnniWeights+b))
	}
	for r := range p.rows {
		x := z(vnniInput + r%2)
		a.op("VBROADCASTSS %d(DX), %s", p.scale(r)-groupInputs, x)
		for b := range p.blocks {
			s := p.sum(r, b)
			a.op("VCVTDQ2PS %s, %s", s, s)
			a.op("VMULPS %s, %s, %s", z(vnniWeights+b), s, s)
			if p.held() {
				a.op("VFMADD231PS %s, %s, %s", x, s, p.heldSlot(r, b))
				continue
			}
			a.op("VFMADD213PS %s, %s, %s", p.slot(r, b), x, s)
			a.op("VMOVUPS %s, %s", s, p.slot(r, b))
		}
	}
	p.fetch(a, 0)
	p.advance(a, 1)
	a.op("ADDQ $%d, DX", p.unit()-groupInputs)
}

// vnniGroup4 sums both halves of a group in registers of their own.
func (p product) vnniGroup4(a *asm) {
	for half := range 2 {
		for r := range p.rows {
			a.op("VPBROADCASTD %d(DX), %s", p.offset(r, half), p.halfSum(half, r, 0))
			for b := 1; b < p.blocks; b++ {
				a.op("VMOVDQA64 %s, %s", p.halfSum(half, r, 0), p.halfSum(half, r, b))
			}
		}
	}
	for half := range 2 {
		a.op("MOVL $2, BX")
		a.label(fmt.Sprintf("half%d", half))
		for l := range 2 {
			p.fetch(a, l)
			for b := range p.blocks {
				low, high := z(vnniWeights+b), z(vnniHigh+b)
				a.op("VMOVDQU64 %s, %s", block(l*lineBytes, b), high)
				a.op("VPANDD %s, %s, %s", z(vnniMask), high, low)
				a.op("VPSRLD $4, %s, %s", high, high)
				a.op("VPANDD %s, %s, %s", z(vnniMask), high, high)
			}
			for nibble, weights := range []int{vnniWeights, vnniHigh} {
				p.all(func(r, b int) {
					a.op("VPDPBUSD.BCST %s(DX), %s, %s", place(p.codes(r, 8*l+4*nibble)),
						z(weights+b), p.halfSum(half, r, b))
				})
			}
		}
		p.advance(a, 2)
		a.op("ADDQ $16, DX")
		a.op("DECL BX")
		a.op("JNZ  half%d", half)
	}
	for half := range 2 {
		for b := range p.blocks {
			a.op("VCVTPH2PS %s, %s", block(half*lineBytes/2, b), z(vnniWeights+2*half+b))
		}
	}
	p.all(func(r, b int) {
		s, second, x := p.halfSum(0, r, b), p.halfSum(1, r, b), z(vnniInput+r%2)
		if b == 0 {
			a.op("VBROADCASTSS %d(DX), %s", p.scale(r)-groupInputs, x)
		}
		a.op("VCVTDQ2PS %s, %s", s, s)
		a.op("VCVTDQ2PS %s, %s", second, second)
		a.op("VMULPS %s, %s, %s", z(vnniWeights+b), s, s)
		a.op("VFMADD231PS %s, %s, %s", z(vnniWeights+2+b), second, s)
		a.op("VFMADD213PS %s, %s, %s", p.slot(r, b), x, s)
		a.op("VMOVUPS %s, %s", s, p.slot(r, b))
	})
	p.fetch(a, 0)
	p.advance(a, 1)
	a.op("ADDQ $%d, DX", p.unit()-groupInputs)
}

// halfSum holds the integer sums of a half of a group.
func (p product) halfSum(half, row, b int) string {
	return z((half*p.rows+row)*p.blocks + b)
}

// few says that there are registers enough to sum high halves of bytes where they are.
// That saves an instruction of five for a line, and so lets a processor look farther ahead.
func (p product) few() bool { return p.bits == 4 && p.rows*p.blocks <= 8 }

func (p product) vnniFew4(a *asm) {
	for half := range 2 {
		p.vnniBegin(a, half)
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

// vnniStore writes the sums to y, as many outputs as there are.
func (p product) vnniStore(a *asm) {
	a.op("MOVQ y+0(FP), R10")
	a.op("MOVQ ldy+8(FP), R11")
	a.op("SHLQ $2, R11")
	a.op("MOVL $64, CX")
	a.op("SUBQ outputs+16(FP), CX")
	a.op("MOVQ $-1, AX")
	a.op("SHRQ CX, AX")
	for b := range p.blocks {
		if b > 0 {
			a.op("SHRQ $16, AX")
		}
		a.op("KMOVW AX, K%d", b+1)
	}
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
	a.op("VZEROUPPER")
	a.op("RET")
}
