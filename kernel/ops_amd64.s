#include "textflag.h"

// Rules: VEX encodings only, VZEROUPPER before every return. Products and sums are
// rounded apart, as in the plain Go versions, but for products that are exact.

// func sumSquaresAVX2(sums *[16]float64, x *float32, n int)
TEXT ·sumSquaresAVX2(SB), NOSPLIT, $0-24
	MOVQ sums+0(FP), DI
	MOVQ x+8(FP), SI
	MOVQ n+16(FP), CX
	VMOVUPD (DI), Y0
	VMOVUPD 32(DI), Y1
	VMOVUPD 64(DI), Y2
	VMOVUPD 96(DI), Y3

squaresStep:
	VCVTPS2PD (SI), Y4
	VCVTPS2PD 16(SI), Y5
	VCVTPS2PD 32(SI), Y6
	VCVTPS2PD 48(SI), Y7
	VFMADD231PD Y4, Y4, Y0
	VFMADD231PD Y5, Y5, Y1
	VFMADD231PD Y6, Y6, Y2
	VFMADD231PD Y7, Y7, Y3
	ADDQ $64, SI
	SUBQ $16, CX
	JNZ  squaresStep
	VMOVUPD Y0, (DI)
	VMOVUPD Y1, 32(DI)
	VMOVUPD Y2, 64(DI)
	VMOVUPD Y3, 96(DI)
	VZEROUPPER
	RET

// func rotatePairsAVX2(row, cos, sin *float32, pairs, heads int)
TEXT ·rotatePairsAVX2(SB), NOSPLIT, $0-40
	MOVQ row+0(FP), DI
	MOVQ cos+8(FP), SI
	MOVQ sin+16(FP), DX
	MOVQ pairs+24(FP), CX
	MOVQ heads+32(FP), BX

pairsHead:
	XORQ AX, AX

pairsStep:
	VPMOVZXDQ (SI)(AX*4), Y1
	VPMOVZXDQ (DX)(AX*4), Y2
	VMOVSLDUP Y1, Y1
	VMOVSLDUP Y2, Y2
	VMOVUPS (DI), Y0
	VPERMILPS $0xb1, Y0, Y3
	VMULPS Y1, Y0, Y0
	VMULPS Y2, Y3, Y3
	VADDSUBPS Y3, Y0, Y0
	VMOVUPS Y0, (DI)
	ADDQ $32, DI
	ADDQ $4, AX
	CMPQ AX, CX
	JLT  pairsStep
	DECQ BX
	JNZ  pairsHead
	VZEROUPPER
	RET

// func rotateHalvesAVX2(row, cos, sin *float32, pairs, heads int)
TEXT ·rotateHalvesAVX2(SB), NOSPLIT, $0-40
	MOVQ row+0(FP), DI
	MOVQ cos+8(FP), SI
	MOVQ sin+16(FP), DX
	MOVQ pairs+24(FP), CX
	MOVQ heads+32(FP), BX

halvesHead:
	LEAQ (DI)(CX*4), R8
	XORQ AX, AX

halvesStep:
	VMOVUPS (SI)(AX*4), Y1
	VMOVUPS (DX)(AX*4), Y2
	VMOVUPS (DI)(AX*4), Y3
	VMOVUPS (R8)(AX*4), Y4
	VMULPS Y1, Y3, Y5
	VMULPS Y2, Y4, Y6
	VMULPS Y1, Y4, Y7
	VMULPS Y2, Y3, Y8
	VSUBPS Y6, Y5, Y5
	VADDPS Y8, Y7, Y7
	VMOVUPS Y5, (DI)(AX*4)
	VMOVUPS Y7, (R8)(AX*4)
	ADDQ $8, AX
	CMPQ AX, CX
	JLT  halvesStep
	LEAQ (R8)(CX*4), DI
	DECQ BX
	JNZ  halvesHead
	VZEROUPPER
	RET

// ROUNDING fills Y12 to Y15 for ROUND: ones, 0x7fff, 0xffff0000 and the bit that makes a
// NaN quiet.
#define ROUNDING \
	VPCMPEQD Y15, Y15, Y15 \
	VPSRLD $31, Y15, Y12 \
	VPSRLD $17, Y15, Y13 \
	VPSLLD $16, Y15, Y14 \
	VPSLLD $22, Y12, Y15

// ROUND rounds X to bfloat16, in the upper half of each dword. It changes T and U.
#define ROUND(X, T, U) \
	VCMPPS $3, X, X, U \
	VPSRLD $16, X, T \
	VPAND Y12, T, T \
	VPADDD Y13, T, T \
	VPADDD X, T, T \
	VPOR Y15, X, X \
	VBLENDVPS U, X, T, X \
	VPAND Y14, X, X

// func roundAVX2(x *float32, n int)
TEXT ·roundAVX2(SB), NOSPLIT, $0-16
	MOVQ x+0(FP), DI
	MOVQ n+8(FP), CX
	ROUNDING

roundStep:
	VMOVUPS (DI), Y0
	VMOVUPS 32(DI), Y1
	ROUND(Y0, Y2, Y4)
	ROUND(Y1, Y3, Y5)
	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	ADDQ $64, DI
	SUBQ $16, CX
	JNZ  roundStep
	VZEROUPPER
	RET

// func narrowAVX2(dst *byte, src *float32, n int)
TEXT ·narrowAVX2(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	ROUNDING

narrowStep:
	VMOVUPS (SI), Y0
	VMOVUPS 32(SI), Y1
	ROUND(Y0, Y2, Y4)
	ROUND(Y1, Y3, Y5)
	VPSRLD $16, Y0, Y0
	VPSRLD $16, Y1, Y1
	VPACKUSDW Y1, Y0, Y0
	VPERMQ $0xd8, Y0, Y0
	VMOVDQU Y0, (DI)
	ADDQ $64, SI
	ADDQ $32, DI
	SUBQ $16, CX
	JNZ  narrowStep
	VZEROUPPER
	RET

// func finiteAVX2(x *float32, n int) bool
TEXT ·finiteAVX2(SB), NOSPLIT, $0-17
	MOVQ x+0(FP), SI
	MOVQ n+8(FP), CX
	VPCMPEQD Y15, Y15, Y15
	VPSLLD $24, Y15, Y15
	VPSRLD $1, Y15, Y15 // the bits of the exponent
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1

finiteStep:
	VPAND (SI), Y15, Y2
	VPAND 32(SI), Y15, Y3
	VPCMPEQD Y15, Y2, Y2
	VPCMPEQD Y15, Y3, Y3
	VPOR Y2, Y0, Y0
	VPOR Y3, Y1, Y1
	ADDQ $64, SI
	SUBQ $16, CX
	JNZ  finiteStep
	VPOR Y1, Y0, Y0
	VPTEST Y0, Y0
	SETEQ ret+16(FP)
	VZEROUPPER
	RET

// func notAboveAVX2(x *float32, limit float32, n int) int
TEXT ·notAboveAVX2(SB), NOSPLIT, $0-32
	MOVQ x+0(FP), SI
	VBROADCASTSS limit+8(FP), Y15
	MOVQ n+16(FP), CX
	XORQ AX, AX

notAboveStep:
	VMOVUPS (SI)(AX*4), Y0
	VMOVUPS 32(SI)(AX*4), Y1
	VMOVUPS 64(SI)(AX*4), Y2
	VMOVUPS 96(SI)(AX*4), Y3
	VCMPPS $0x1e, Y15, Y0, Y0
	VCMPPS $0x1e, Y15, Y1, Y1
	VCMPPS $0x1e, Y15, Y2, Y2
	VCMPPS $0x1e, Y15, Y3, Y3
	VORPS Y1, Y0, Y0
	VORPS Y3, Y2, Y2
	VORPS Y2, Y0, Y0
	VPTEST Y0, Y0
	JNZ  notAboveDone
	ADDQ $32, AX
	CMPQ AX, CX
	JLT  notAboveStep

notAboveDone:
	MOVQ AX, ret+24(FP)
	VZEROUPPER
	RET

// func notAbove64AVX2(x *float64, limit float64, n int) int
TEXT ·notAbove64AVX2(SB), NOSPLIT, $0-32
	MOVQ x+0(FP), SI
	VBROADCASTSD limit+8(FP), Y15
	MOVQ n+16(FP), CX
	XORQ AX, AX

notAbove64Step:
	VMOVUPD (SI)(AX*8), Y0
	VMOVUPD 32(SI)(AX*8), Y1
	VMOVUPD 64(SI)(AX*8), Y2
	VMOVUPD 96(SI)(AX*8), Y3
	VCMPPD $0x1e, Y15, Y0, Y0
	VCMPPD $0x1e, Y15, Y1, Y1
	VCMPPD $0x1e, Y15, Y2, Y2
	VCMPPD $0x1e, Y15, Y3, Y3
	VORPD Y1, Y0, Y0
	VORPD Y3, Y2, Y2
	VORPD Y2, Y0, Y0
	VPTEST Y0, Y0
	JNZ  notAbove64Done
	ADDQ $16, AX
	CMPQ AX, CX
	JLT  notAbove64Step

notAbove64Done:
	MOVQ AX, ret+24(FP)
	VZEROUPPER
	RET
