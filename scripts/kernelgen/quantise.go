package main

import "fmt"

const quantiseArguments = "codes *int32, scale *int32, x *float32, groups, unit, rows int"

// quantiser is a function that quantises groups of a row of activations, from the first of a span
// on.
type quantiser struct {
	bits int // of weights
	set  string
}

func quantisers() []quantiser {
	return []quantiser{{8, "AVX2"}, {4, "AVX2"}, {8, "AVX512"}, {4, "AVX512"}}
}

func (q quantiser) name() string { return fmt.Sprintf("quantiseInt%d%s", q.bits, q.set) }

// lanes and vectors are how a group of inputs lies in registers, from 0 on.
func (q quantiser) lanes() int {
	if q.set == "AVX2" {
		return 8
	}
	return 16
}

func (q quantiser) vectors() int { return groupInputs / q.lanes() }

func (q quantiser) reg(i int) string {
	if q.set == "AVX2" {
		return y(i)
	}
	return z(i)
}

// and is the instruction for all bits of a register.
func (q quantiser) and() string {
	if q.set == "AVX2" {
		return "VPAND"
	}
	return "VPANDD"
}

// magnitude is the register with the bits of magnitudes, most the one with 127.
func (q quantiser) magnitude() string {
	if q.set == "AVX2" {
		return "Y15"
	}
	return z(fourMagnitude)
}

func (q quantiser) most() string {
	if q.set == "AVX2" {
		return "X14"
	}
	return fmt.Sprintf("X%d", fourMost)
}

func quantiseFile() string {
	var a asm
	a.WriteString(fileHead + "#include \"textflag.h\"\n\n" +
		"// Rules: VEX and EVEX encodings only, VZEROUPPER before every return.\n")
	for _, q := range quantisers() {
		q.write(&a)
	}
	return a.String()
}

func (q quantiser) write(a *asm) {
	fmt.Fprintf(a, "\n// func %s(%s)\n", q.name(), quantiseArguments)
	fmt.Fprintf(a, "TEXT ·%s(SB), NOSPLIT, $0-48\n", q.name())
	a.op("MOVQ codes+0(FP), DI")
	a.op("MOVQ scale+8(FP), BX")
	a.op("MOVQ x+16(FP), SI")
	a.op("MOVQ groups+24(FP), CX")
	a.op("MOVQ unit+32(FP), R8")
	a.op("MOVQ rows+40(FP), R9")
	a.op("SHLQ $2, R8")
	a.op("SHLQ $2, R9")
	a.op("MOVL $0x7fffffff, AX")
	a.op("VMOVD AX, X15")
	a.op("VPBROADCASTD X15, %s", q.magnitude())
	a.op("MOVL $0x42fe0000, AX // 127")
	a.op("VMOVD AX, X14")
	if q.set == "AVX2" {
		a.op("MOVQ $0x0703060205010400, AX // the order of packed parts")
		a.op("VMOVQ AX, X13")
		a.op("VPMOVZXBD X13, Y13")
	} else {
		q.four(a)
	}
	a.label("span")
	a.op("MOVL $%d, R11 // groups of the span", spanGroups)
	a.op("CMPQ CX, R11")
	a.op("CMOVQLT CX, R11")
	a.op("SUBQ R11, CX")
	q.largest(a)
	a.op("VMOVD X8, AX")
	a.op("VDIVSS %s, X8, X9", q.most())
	a.op("VDIVSS X8, %s, X10", q.most())
	a.op("VPCMPEQD Y8, Y8, Y8")
	a.op("LEAL -0x0d800000(AX), DX // of 2^-100")
	a.op("CMPL DX, $(0x7f800000-0x0d800000)")
	a.op("JAE  special")
	a.label("finite")
	a.op("VBROADCASTSS X10, %s", q.reg(10))
	if q.set != "AVX2" {
		a.op("VBROADCASTSS X8, Z8")
	}
	a.label("group")
	q.round(a)
	q.pack(a)
	a.op("VMOVSS X9, (BX)")
	q.offsets(a)
	a.op("ADDQ R8, DI")
	a.op("ADDQ R8, BX")
	a.op("ADDQ $%d, SI", groupInputs*4)
	a.op("DECQ R11")
	a.op("JNZ  group")
	a.op("TESTQ CX, CX")
	if q.set == "AVX2" {
		a.op("JNZ  span")
	} else {
		a.op("JNZ  four")
	}
	a.op("VZEROUPPER")
	a.op("RET")
	a.label("special")
	a.op("VPXOR X8, X8, X8 // takes the place of all inputs")
	a.op("VPXOR X9, X9, X9")
	a.op("VPXOR X10, X10, X10")
	a.op("CMPL AX, $0x7f800000")
	a.op("JB   finite")
	a.op("MOVL $0x7fc00000, AX")
	a.op("VMOVD AX, X9")
	a.op("JMP  finite")
}

// largest makes the first number of X8 the largest magnitude of a span. Bits of magnitudes are
// compared as integers, so that infinities and NaNs are larger than numbers.
func (q quantiser) largest(a *asm) {
	and := q.and()
	a.op("VPXOR X8, X8, X8")
	a.op("VPXOR X11, X11, X11")
	a.op("MOVQ SI, R13")
	a.op("MOVQ R11, R12")
	a.label("largest")
	for i := range q.vectors() {
		m, t := q.reg(8+i%2*3), q.reg(i%8)
		a.op("%s %s(R13), %s, %s", and, place(i*q.lanes()*4), q.magnitude(), t)
		a.op("VPMAXSD %s, %s, %s", t, m, m)
	}
	a.op("ADDQ $%d, R13", groupInputs*4)
	a.op("DECQ R12")
	a.op("JNZ  largest")
	a.op("VPMAXSD %s, %s, %s", q.reg(11), q.reg(8), q.reg(8))
	if q.set != "AVX2" {
		a.op("VEXTRACTI64X4 $1, Z8, Y9")
		a.op("VPMAXSD Y9, Y8, Y8")
	}
	a.op("VEXTRACTI128 $1, Y8, X9")
	a.op("VPMAXSD X9, X8, X8")
	a.op("VPSHUFD $0x4e, X8, X9")
	a.op("VPMAXSD X9, X8, X8")
	a.op("VPSHUFD $0xb1, X8, X9")
	a.op("VPMAXSD X9, X8, X8")
}

// round makes codes of a group's numbers, and X11's first two numbers the sums of the halves.
func (q quantiser) round(a *asm) {
	for i := range q.vectors() {
		r := q.reg(i)
		a.op("%s %s(SI), %s, %s", q.and(), place(i*q.lanes()*4), q.reg(8), r)
		a.op("VMULPS %s, %s, %s", q.reg(10), r, r)
		a.op("VCVTPS2DQ %s, %s", r, r)
	}
	half := q.vectors() / 2
	for h := range 2 {
		sum := q.reg(11 + h)
		a.op("VPADDD %s, %s, %s", q.reg(h*half), q.reg(h*half+1), sum)
		for i := 2; i < half; i++ {
			a.op("VPADDD %s, %s, %s", q.reg(h*half+i), sum, sum)
		}
		if q.set != "AVX2" {
			a.op("VEXTRACTI64X4 $1, %s, Y4", sum)
			a.op("VPADDD Y4, %s, %s", y(11+h), y(11+h))
		}
	}
	a.op("VPHADDD Y12, Y11, Y11")
	a.op("VPHADDD Y11, Y11, Y11")
	a.op("VEXTRACTI128 $1, Y11, X12")
	a.op("VPADDD X12, X11, X11")
}

// pack writes the codes: wide ones with AVX2 for weights of 8 bits.
func (q quantiser) pack(a *asm) {
	switch {
	case q.set != "AVX2":
		for i := range 4 {
			a.op("VPMOVSDB %s, %s(DI)", z(i), place(16*i))
		}
	case q.bits == 8:
		for i := range 8 {
			a.op("VPSHUFD $0xd8, %s, %s", y(i), y(i))
		}
		for i := range 4 {
			a.op("VPACKSSDW %s, %s, %s", y(2*i+1), y(2*i), y(i))
			a.op("VPERMQ $0xd8, %s, %s", y(i), y(i))
			a.op("VMOVDQU %s, %s(DI)", y(i), place(32*i))
		}
	default:
		for i := range 4 {
			a.op("VPACKSSDW %s, %s, %s", y(2*i+1), y(2*i), y(i))
		}
		for i := range 2 {
			a.op("VPACKSSWB %s, %s, %s", y(2*i+1), y(2*i), y(i))
			a.op("VPERMD %s, Y13, %s", y(i), y(i))
			a.op("VMOVDQU %s, %s(DI)", y(i), place(32*i))
		}
	}
}

// offsets writes -128 times the sum of a group, or -8 times those of its halves.
func (q quantiser) offsets(a *asm) {
	a.op("VMOVQ X11, AX")
	a.op("MOVQ AX, DX")
	a.op("SHRQ $32, DX")
	if q.bits == 8 {
		a.op("ADDL DX, AX")
		a.op("SHLL $7, AX")
		a.op("NEGL AX")
		a.op("MOVL AX, (BX)(R9*1)")
		return
	}
	for i, r := range []string{"AX", "DX"} {
		a.op("SHLL $3, %s", r)
		a.op("NEGL %s", r)
		a.op("MOVL %s, (BX)(R9*%d)", r, i+1)
	}
}
