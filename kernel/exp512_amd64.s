#include "go_asm.h"
#include "textflag.h"

// Rules: VEX and EVEX encodings only, VZEROUPPER before every return. Every step is a
// lane of exp32 in exp.go; VSCALEFPS multiplies by 2^k in one step, which gives the
// same, since the first of the two there rounds nothing.

// Places in expTable.
#define LOG2E(R) 0(R)
#define MINUSLN2HI(R) 4(R)
#define MINUSLN2LO(R) 8(R)
#define ROUND(R) 12(R)
#define LARGEST(R) 16(R)
#define SMALLEST(R) 20(R)
#define ONE(R) 24(R)
#define SIGN(R) 28(R)
#define COEFFICIENT(R, I) (32 + 4*I)(R)

// CONSTANTS fills Z16 to Z28 for EXP. R8 is expTable.
#define CONSTANTS \
	VBROADCASTSS ROUND(R8), Z16 \
	VBROADCASTSS LOG2E(R8), Z17 \
	VBROADCASTSS MINUSLN2HI(R8), Z18 \
	VBROADCASTSS MINUSLN2LO(R8), Z19 \
	VBROADCASTSS COEFFICIENT(R8, 0), Z20 \
	VBROADCASTSS COEFFICIENT(R8, 1), Z21 \
	VBROADCASTSS COEFFICIENT(R8, 2), Z22 \
	VBROADCASTSS COEFFICIENT(R8, 3), Z23 \
	VBROADCASTSS COEFFICIENT(R8, 4), Z24 \
	VBROADCASTSS LARGEST(R8), Z25 \
	VBROADCASTSS SMALLEST(R8), Z26 \
	VBROADCASTSS ONE(R8), Z27 \
	VPBROADCASTD SIGN(R8), Z28

// EXP sets Z0 to e^Z0 and changes Z1 to Z3. The operands of VMINPS and VMAXPS stand so
// that NaN stays NaN.
#define EXP \
	VMINPS Z0, Z25, Z0 \
	VMAXPS Z0, Z26, Z0 \
	VMOVAPS Z16, Z1 \
	VFMADD231PS Z17, Z0, Z1 \
	VSUBPS Z16, Z1, Z2 \
	VFMADD231PS Z18, Z2, Z0 \
	VFMADD231PS Z19, Z2, Z0 \
	VMOVAPS Z20, Z3 \
	VFMADD213PS Z21, Z0, Z3 \
	VFMADD213PS Z22, Z0, Z3 \
	VFMADD213PS Z23, Z0, Z3 \
	VFMADD213PS Z24, Z0, Z3 \
	VFMADD213PS Z27, Z0, Z3 \
	VFMADD213PS Z27, Z0, Z3 \
	VSCALEFPS Z2, Z3, Z0

// func expShiftedAVX512(y, x *float32, shift float32, n int)
TEXT ·expShiftedAVX512(SB), NOSPLIT, $0-32
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	VBROADCASTSS shift+16(FP), Z8
	MOVQ n+24(FP), CX
	LEAQ ·expTable(SB), R8
	CONSTANTS

expStep:
	VMOVUPS (SI), Z0
	VSUBPS Z8, Z0, Z0
	EXP
	VMOVUPS Z0, (DI)
	ADDQ $64, SI
	ADDQ $64, DI
	SUBQ $16, CX
	JNZ  expStep
	VZEROUPPER
	RET

// func swiGLUAVX512(y, gate, up *float32, n int)
TEXT ·swiGLUAVX512(SB), NOSPLIT, $0-32
	MOVQ y+0(FP), DI
	MOVQ gate+8(FP), SI
	MOVQ up+16(FP), DX
	MOVQ n+24(FP), CX
	LEAQ ·expTable(SB), R8
	CONSTANTS

swiGLUStep:
	VMOVUPS (SI), Z4
	VPXORD Z28, Z4, Z0
	EXP
	VADDPS Z27, Z0, Z0
	VDIVPS Z0, Z4, Z0
	VMULPS (DX), Z0, Z0
	VMOVUPS Z0, (DI)
	ADDQ $64, SI
	ADDQ $64, DX
	ADDQ $64, DI
	SUBQ $16, CX
	JNZ  swiGLUStep
	VZEROUPPER
	RET

// func sigmoidAVX512(y, x *float32, n int)
TEXT ·sigmoidAVX512(SB), NOSPLIT, $0-24
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	MOVQ n+16(FP), CX
	LEAQ ·expTable(SB), R8
	CONSTANTS

sigmoidStep:
	VPXORD (SI), Z28, Z0
	EXP
	VADDPS Z27, Z0, Z0
	VDIVPS Z0, Z27, Z0
	VMOVUPS Z0, (DI)
	ADDQ $64, SI
	ADDQ $64, DI
	SUBQ $16, CX
	JNZ  sigmoidStep
	VZEROUPPER
	RET

// FOUR does one thing to four vectors.
#define FOUR(DO) \
	DO(Z4, Z8, Z12, Z0) \
	DO(Z5, Z9, Z13, Z1) \
	DO(Z6, Z10, Z14, Z2) \
	DO(Z7, Z11, Z15, Z3)

// The steps of EXP, for four vectors by turns: one alone would wait for itself.
#define BELOW(X, A, B, C) VMAXPS X, Z26, X
#define COPYROUND(X, A, B, C) VMOVAPS Z16, A
#define SHIFTED(X, A, B, C) VFMADD231PS Z17, X, A
#define WHOLE(X, A, B, C) VSUBPS Z16, A, B
#define RESTHI(X, A, B, C) VFMADD231PS Z18, B, X
#define RESTLO(X, A, B, C) VFMADD231PS Z19, B, X
#define COPYX6(X, A, B, C) VMOVAPS Z20, C
#define ADDX5(X, A, B, C) VFMADD213PS Z21, X, C
#define ADDX4(X, A, B, C) VFMADD213PS Z22, X, C
#define ADDX3(X, A, B, C) VFMADD213PS Z23, X, C
#define ADDX2(X, A, B, C) VFMADD213PS Z24, X, C
#define ADDX1(X, A, B, C) VFMADD213PS Z27, X, C
#define POWER2(X, A, B, C) VSCALEFPS B, C, X

// EXPFOUR sets Z4 to Z7, which are not above 0 or are NaN, to e^ of them.
#define EXPFOUR \
	FOUR(BELOW) \
	FOUR(COPYROUND) \
	FOUR(SHIFTED) \
	FOUR(WHOLE) \
	FOUR(RESTHI) \
	FOUR(COPYX6) \
	FOUR(RESTLO) \
	FOUR(ADDX5) \
	FOUR(ADDX4) \
	FOUR(ADDX3) \
	FOUR(ADDX2) \
	FOUR(ADDX1) \
	FOUR(ADDX1) \
	FOUR(POWER2)

// VMAXPS returns its second source where one is NaN, which stands first here: the larger
// of the scores so far, which is none.

// func scoresAVX512(b *softmaxBlocks)
TEXT ·scoresAVX512(SB), NOSPLIT, $0-8
	MOVQ b+0(FP), AX
	MOVQ softmaxBlocks_scores(AX), R12
	MOVQ softmaxBlocks_stride(AX), R9
	SHLQ $2, R9
	MOVQ softmaxBlocks_max(AX), DX
	MOVQ softmaxBlocks_keyScales(AX), R11
	MOVQ softmaxBlocks_blocks(AX), R13
	XORQ R8, R8 // of the block, in best and shrink
	MOVL $0xff800000, CX
	VPBROADCASTD CX, Z29

block:
	MOVQ R12, SI
	MOVQ softmaxBlocks_rows(AX), CX
	LEAQ softmaxBlocks_best(AX)(R8*1), DI
	LEAQ softmaxBlocks_shrink(AX)(R8*1), BX
	LEAQ softmaxBlocks_seen(AX)(R8*2), R10

row:
	VMOVUPS 0(SI), Z4
	VMOVUPS 64(SI), Z5
	VMOVUPS 128(SI), Z6
	VMOVUPS 192(SI), Z7
	TESTQ R11, R11
	JZ hide
	VMULPS 0(R11), Z4, Z4
	VMULPS 64(R11), Z5, Z5
	VMULPS 128(R11), Z6, Z6
	VMULPS 192(R11), Z7, Z7

hide:
	KMOVW 0(R10), K1
	KMOVW 2(R10), K2
	KMOVW 4(R10), K3
	KMOVW 6(R10), K4
	VBLENDMPS Z4, Z29, K1, Z4
	VBLENDMPS Z5, Z29, K2, Z5
	VBLENDMPS Z6, Z29, K3, Z6
	VBLENDMPS Z7, Z29, K4, Z7
	VMOVUPS Z4, 0(SI)
	VMOVUPS Z5, 64(SI)
	VMOVUPS Z6, 128(SI)
	VMOVUPS Z7, 192(SI)
	VBROADCASTSS (DX), Z8
	VMAXPS Z8, Z4, Z4
	VMAXPS Z8, Z5, Z5
	VMAXPS Z4, Z6, Z4
	VMAXPS Z5, Z7, Z5
	VMAXPS Z4, Z5, Z4
	VEXTRACTF64X4 $1, Z4, Y5
	VMAXPS Y5, Y4, Y4
	VEXTRACTF128 $1, Y4, X5
	VMAXPS X5, X4, X4
	VPSHUFD $0x4e, X4, X5
	VMAXPS X5, X4, X4
	VPSHUFD $0xb1, X4, X5
	VMAXPS X5, X4, X4
	VSUBSS X4, X8, X8
	VMOVSS X4, (DI)
	VMOVSS X8, (BX)
	ADDQ R9, SI
	ADDQ $4, DX
	ADDQ $4, DI
	ADDQ $4, BX
	ADDQ $8, R10
	DECQ CX
	JNZ row
	LEAQ softmaxBlocks_best(AX)(R8*1), DX
	ADDQ $(const_stepRows*4), R8
	ADDQ $(const_blockTokens*4), R12
	TESTQ R11, R11
	JZ same
	ADDQ $(const_blockTokens*4), R11

same:
	DECQ R13
	JNZ block
	VZEROUPPER
	RET

// func exponentialsAVX512(b *softmaxBlocks)
TEXT ·exponentialsAVX512(SB), NOSPLIT, $0-8
	MOVQ b+0(FP), AX
	MOVQ softmaxBlocks_scores(AX), R11
	MOVQ softmaxBlocks_stride(AX), R9
	SHLQ $2, R9
	MOVQ softmaxBlocks_valueScales(AX), R12
	MOVQ softmaxBlocks_blocks(AX), R13
	XORQ R10, R10 // of the block, in best and shrink
	LEAQ ·expTable(SB), R8
	CONSTANTS
	VPXORD Z30, Z30, Z30

block:
	MOVQ R11, SI
	MOVQ softmaxBlocks_rows(AX), CX
	MOVQ softmaxBlocks_sums(AX), DX
	LEAQ softmaxBlocks_best(AX)(R10*1), DI
	LEAQ softmaxBlocks_shrink(AX)(R10*1), BX

row:
	VBROADCASTSS (DI), Z29
	VMOVUPS 0(SI), Z4
	VMOVUPS 64(SI), Z5
	VMOVUPS 128(SI), Z6
	VMOVUPS 192(SI), Z7
	VSUBPS Z29, Z4, Z4
	VSUBPS Z29, Z5, Z5
	VSUBPS Z29, Z6, Z6
	VSUBPS Z29, Z7, Z7
	EXPFOUR
	VUCOMISS (BX), X30
	JNE grown
	JP grown
	VMOVAPS Z27, Z0 // e^0, which it is mostly

sum:
	VMOVSS X0, (BX)
	VMULPS (DX), Z0, Z0
	VADDPS Z4, Z0, Z0
	VADDPS Z5, Z0, Z0
	VADDPS Z6, Z0, Z0
	VADDPS Z7, Z0, Z0
	VMOVUPS Z0, (DX)
	TESTQ R12, R12
	JZ store
	VMULPS 0(R12), Z4, Z4
	VMULPS 64(R12), Z5, Z5
	VMULPS 128(R12), Z6, Z6
	VMULPS 192(R12), Z7, Z7

store:
	VMOVUPS Z4, 0(SI)
	VMOVUPS Z5, 64(SI)
	VMOVUPS Z6, 128(SI)
	VMOVUPS Z7, 192(SI)
	ADDQ R9, SI
	ADDQ $4, DI
	ADDQ $64, DX
	ADDQ $4, BX
	DECQ CX
	JNZ row
	ADDQ $(const_stepRows*4), R10
	ADDQ $(const_blockTokens*4), R11
	TESTQ R12, R12
	JZ same
	ADDQ $(const_blockTokens*4), R12

same:
	DECQ R13
	JNZ block
	VZEROUPPER
	RET

grown:
	VBROADCASTSS (BX), Z0
	EXP
	JMP sum
