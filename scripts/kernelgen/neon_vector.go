package main

import "fmt"

// neonVectorFile is loops over rows, and what quantises a group of a row.
func neonVectorFile() string {
	a := neonHead("")
	neonLoop(a, "addNEON(y, x *float32, n int)", 24, "y", "x", "n")
	neonLoop(a, "scaleNEON(y, x *float32, s float32, n int)", 32, "y", "x")
	neonLoop(a, "scaleWeightedNEON(y, x, w *float32, s float32, n int)", 40, "y", "x", "w")
	neonWiden(a)
	neonLargest(a)
	neonCodes(a)
	return a.String()
}

// lanes are the four registers from v on.
func lanes(v int) string {
	return fmt.Sprintf("[V%d.S4, V%d.S4, V%d.S4, V%d.S4]", v, v+1, v+2, v+3)
}

// neonLoop is a loop over 16 elements at a time, counted by the last argument.
func neonLoop(a *neon, signature string, size int, args ...string) {
	a.begin(signature, size, args...)
	count, label := 2, fmt.Sprintf("loop%d", size)
	if size > 24 { // there is a factor
		count = len(args)
		a.op("FMOVS s+%d(FP), F31", 8*len(args))
		a.op("MOVD n+%d(FP), R%d", size-8, count)
	}
	a.op("LSR $4, R%d, R%d", count, count)
	fmt.Fprintf(a, "\n%s:\n", label)
	a.op("VLD1.P 64(R1), %s", lanes(0))
	switch size {
	case 24:
		a.op("VLD1 (R0), %s", lanes(4))
	case 40:
		a.op("VLD1.P 64(R2), %s", lanes(4))
	}
	for i := range 4 {
		if size == 24 {
			a.three(fadd4S, "fadd v%d.4s, v%d.4s, v%d.4s", i, 4+i, i)
			continue
		}
		a.element(fmulElement, "fmul v%d.4s, v%d.4s, v%d.s[%d]", i, i, 31, 0)
		if size == 40 {
			a.fmul(i, 4+i, i)
		}
	}
	a.op("VST1.P %s, 64(R0)", lanes(0))
	a.next(count, label)
	a.op("RET")
}

func neonWiden(a *neon) {
	a.begin("widenNEON(dst *float32, src *byte, n int)", 24, "dst", "src", "n")
	a.op("LSR $4, R2, R2")
	a.WriteString("\nwiden:\n")
	a.op("VLD1.P 32(R1), [V4.H8, V5.H8]")
	for i := range 2 {
		a.two(shll4S, "shll v%d.4s, v%d.4h, #16", 2*i, 4+i)
		a.two(shll2x4S, "shll2 v%d.4s, v%d.8h, #16", 2*i+1, 4+i)
	}
	a.op("VST1.P %s, 64(R0)", lanes(0))
	a.next(2, "widen")
	a.op("RET")
}

// neonLargest finds the largest magnitude of a group, NaN if there is one.
func neonLargest(a *neon) {
	a.begin("absMaxNEON(x *float32) float32", 12, "x")
	for i := 0; i < 16; i += 4 {
		a.op("VLD1.P 64(R0), %s", lanes(i))
	}
	for i := range 16 {
		a.two(fabs4S, "fabs v%d.4s, v%d.4s", i, i)
	}
	for n := 8; n > 0; n /= 2 {
		for i := range n {
			a.three(fmax4S, "fmax v%d.4s, v%d.4s, v%d.4s", i, i, i+n)
		}
	}
	a.two(fmaxv4S, "fmaxv s%d, v%d.4s", 0, 0)
	a.op("FMOVS F0, ret+8(FP)")
	a.op("RET")
}

// neonCodes rounds a group to codes and sums the codes of each half.
func neonCodes(a *neon) {
	a.begin("codesNEON(codes *int32, x *float32, inverse float32) (low, high int32)", 32,
		"codes", "x")
	a.op("FMOVS inverse+16(FP), F31")
	for i := 0; i < 16; i += 4 {
		a.op("VLD1.P 64(R1), %s", lanes(i))
	}
	for i := range 16 {
		a.element(fmulElement, "fmul v%d.4s, v%d.4s, v%d.s[%d]", i, i, 31, 0)
		a.two(fcvtns4S, "fcvtns v%d.4s, v%d.4s", i, i)
	}
	for i := 0; i < 16; i += 2 {
		a.two(sqxtn4H, "sqxtn v%d.4h, v%d.4s", 16+i/2, i)
		a.two(sqxtn2x8H, "sqxtn2 v%d.8h, v%d.4s", 16+i/2, i+1)
	}
	for i := range 4 {
		a.two(sqxtn8B, "sqxtn v%d.8b, v%d.8h", i, 16+2*i)
		a.two(sqxtn2x16B, "sqxtn2 v%d.16b, v%d.8h", i, 17+2*i)
	}
	a.op("VST1 [V0.B16, V1.B16, V2.B16, V3.B16], (R0)")
	for i := range 4 {
		a.two(saddlp8H, "saddlp v%d.8h, v%d.16b", i, i)
	}
	for half, name := range []string{"low+24", "high+28"} {
		a.op("VADD V%d.H8, V%d.H8, V%d.H8", 2*half+1, 2*half, 2*half)
		a.two(saddlv8H, "saddlv s%d, v%d.8h", 2*half, 2*half)
		a.op("FMOVS F%d, %s(FP)", 2*half, name)
	}
	a.op("RET")
}
