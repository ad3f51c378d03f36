#include "textflag.h"

// Rules: VEX encodings only, VZEROUPPER before every return. Products and sums are
// rounded apart, as in the plain Go versions, never fused.

// func dots4AVX2(dst, q, k *float32, stride, dim, groups int, scale float32)
TEXT ·dots4AVX2(SB), NOSPLIT, $0-52
	MOVQ dst+0(FP), DI
	MOVQ q+8(FP), SI
	MOVQ k+16(FP), DX
	MOVQ stride+24(FP), R8
	MOVQ dim+32(FP), CX
	MOVQ groups+40(FP), BX
	VBROADCASTSS scale+48(FP), X15
	SHLQ $2, R8
	SHLQ $2, CX

dotsGroup:
	LEAQ (DX)(R8*1), R9
	LEAQ (DX)(R8*2), R10
	LEAQ (R9)(R8*2), R11
	VXORPS Y0, Y0, Y0
	VXORPS Y1, Y1, Y1
	VXORPS Y2, Y2, Y2
	VXORPS Y3, Y3, Y3
	XORQ AX, AX

dotsStep:
	VMOVUPS (SI)(AX*1), Y8
	VMULPS (DX)(AX*1), Y8, Y4
	VMULPS (R9)(AX*1), Y8, Y5
	VMULPS (R10)(AX*1), Y8, Y6
	VMULPS (R11)(AX*1), Y8, Y7
	VADDPS Y4, Y0, Y0
	VADDPS Y5, Y1, Y1
	VADDPS Y6, Y2, Y2
	VADDPS Y7, Y3, Y3
	ADDQ $32, AX
	CMPQ AX, CX
	JLT  dotsStep

	// Lane i + lane i+4, then even and odd lanes of four keys side by side.
	VEXTRACTF128 $1, Y0, X4
	VEXTRACTF128 $1, Y1, X5
	VEXTRACTF128 $1, Y2, X6
	VEXTRACTF128 $1, Y3, X7
	VADDPS X4, X0, X0
	VADDPS X5, X1, X1
	VADDPS X6, X2, X2
	VADDPS X7, X3, X3
	VUNPCKLPS X1, X0, X4
	VUNPCKHPS X1, X0, X5
	VUNPCKLPS X3, X2, X6
	VUNPCKHPS X3, X2, X7
	VADDPS X5, X4, X4
	VADDPS X7, X6, X6
	VMOVLHPS X6, X4, X0
	VMOVHLPS X4, X6, X1
	VADDPS X1, X0, X0
	VMULPS X15, X0, X0
	VMOVUPS X0, (DI)
	ADDQ $16, DI
	LEAQ (DX)(R8*4), DX
	DECQ BX
	JNZ  dotsGroup
	VZEROUPPER
	RET

// func dotAVX2(a, b *float32, n int) float32
TEXT ·dotAVX2(SB), NOSPLIT, $0-28
	MOVQ a+0(FP), SI
	MOVQ b+8(FP), DX
	MOVQ n+16(FP), CX
	VXORPS Y0, Y0, Y0
	SUBQ $8, CX
	JLT  dotTail

dotStep:
	VMOVUPS (SI), Y1
	VMULPS (DX), Y1, Y1
	VADDPS Y1, Y0, Y0
	ADDQ $32, SI
	ADDQ $32, DX
	SUBQ $8, CX
	JGE  dotStep

dotTail:
	VEXTRACTF128 $1, Y0, X1
	ADDQ $8, CX
	JZ   dotSum

dotOne:
	VMOVSS (SI), X2
	VMULSS (DX), X2, X2
	VADDSS X2, X0, X0
	ADDQ $4, SI
	ADDQ $4, DX
	DECQ CX
	JNZ  dotOne

dotSum:
	VADDPS X1, X0, X0
	VMOVHLPS X0, X0, X1
	VADDPS X1, X0, X0
	VMOVSHDUP X0, X1
	VADDSS X1, X0, X0
	VMOVSS X0, ret+24(FP)
	VZEROUPPER
	RET

// func addWeightedAVX2(y, x *float32, stride int, p *float32, dim, n int)
TEXT ·addWeightedAVX2(SB), NOSPLIT, $0-48
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	MOVQ stride+16(FP), R8
	MOVQ p+24(FP), DX
	MOVQ dim+32(FP), CX
	MOVQ n+40(FP), BX
	SHLQ $2, R8
	SUBQ $32, CX
	JLT  weighted8

weighted32:
	VMOVUPS (DI), Y0
	VMOVUPS 32(DI), Y1
	VMOVUPS 64(DI), Y2
	VMOVUPS 96(DI), Y3
	MOVQ SI, R9
	XORQ AX, AX

weighted32Step:
	VBROADCASTSS (DX)(AX*4), Y8
	VMULPS (R9), Y8, Y4
	VMULPS 32(R9), Y8, Y5
	VMULPS 64(R9), Y8, Y6
	VMULPS 96(R9), Y8, Y7
	VADDPS Y4, Y0, Y0
	VADDPS Y5, Y1, Y1
	VADDPS Y6, Y2, Y2
	VADDPS Y7, Y3, Y3
	ADDQ R8, R9
	INCQ AX
	CMPQ AX, BX
	JLT  weighted32Step
	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	VMOVUPS Y2, 64(DI)
	VMOVUPS Y3, 96(DI)
	ADDQ $128, DI
	ADDQ $128, SI
	SUBQ $32, CX
	JGE  weighted32

weighted8:
	ADDQ $24, CX
	JLT  weighted1

weighted8Lanes:
	VMOVUPS (DI), Y0
	MOVQ SI, R9
	XORQ AX, AX

weighted8Step:
	VBROADCASTSS (DX)(AX*4), Y8
	VMULPS (R9), Y8, Y4
	VADDPS Y4, Y0, Y0
	ADDQ R8, R9
	INCQ AX
	CMPQ AX, BX
	JLT  weighted8Step
	VMOVUPS Y0, (DI)
	ADDQ $32, DI
	ADDQ $32, SI
	SUBQ $8, CX
	JGE  weighted8Lanes

weighted1:
	ADDQ $8, CX
	JZ   weightedDone

weighted1Lane:
	VMOVSS (DI), X0
	MOVQ SI, R9
	XORQ AX, AX

weighted1Step:
	VMOVSS (DX)(AX*4), X8
	VMULSS (R9), X8, X4
	VADDSS X4, X0, X0
	ADDQ R8, R9
	INCQ AX
	CMPQ AX, BX
	JLT  weighted1Step
	VMOVSS X0, (DI)
	ADDQ $4, DI
	ADDQ $4, SI
	DECQ CX
	JNZ  weighted1Lane

weightedDone:
	VZEROUPPER
	RET

// func widenAVX2(dst *float32, src *byte, n int)
TEXT ·widenAVX2(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX

widenStep:
	VPMOVZXWD (SI), Y0
	VPMOVZXWD 16(SI), Y1
	VPSLLD $16, Y0, Y0
	VPSLLD $16, Y1, Y1
	VMOVDQU Y0, (DI)
	VMOVDQU Y1, 32(DI)
	ADDQ $32, SI
	ADDQ $64, DI
	SUBQ $16, CX
	JNZ  widenStep
	VZEROUPPER
	RET

// func addAVX2(y, x *float32, n int)
TEXT ·addAVX2(SB), NOSPLIT, $0-24
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	MOVQ n+16(FP), CX

addStep:
	VMOVUPS (DI), Y0
	VADDPS (SI), Y0, Y0
	VMOVUPS Y0, (DI)
	ADDQ $32, SI
	ADDQ $32, DI
	SUBQ $8, CX
	JNZ  addStep
	VZEROUPPER
	RET

// func scaleAVX2(y, x *float32, s float32, n int)
TEXT ·scaleAVX2(SB), NOSPLIT, $0-32
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	VBROADCASTSS s+16(FP), Y1
	MOVQ n+24(FP), CX

scaleStep:
	VMULPS (SI), Y1, Y0
	VMOVUPS Y0, (DI)
	ADDQ $32, SI
	ADDQ $32, DI
	SUBQ $8, CX
	JNZ  scaleStep
	VZEROUPPER
	RET

// func scaleWeightedAVX2(y, x, w *float32, s float32, n int)
TEXT ·scaleWeightedAVX2(SB), NOSPLIT, $0-40
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	MOVQ w+16(FP), DX
	VBROADCASTSS s+24(FP), Y1
	MOVQ n+32(FP), CX

scaleWeightedStep:
	VMULPS (SI), Y1, Y0
	VMULPS (DX), Y0, Y0
	VMOVUPS Y0, (DI)
	ADDQ $32, SI
	ADDQ $32, DX
	ADDQ $32, DI
	SUBQ $8, CX
	JNZ  scaleWeightedStep
	VZEROUPPER
	RET
