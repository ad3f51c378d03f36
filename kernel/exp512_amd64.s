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

// FOUR does one thing to the four vectors of a row, EIGHT to those of two.
#define FOUR(DO) \
	DO(Z0, Z8, Z16) \
	DO(Z1, Z9, Z17) \
	DO(Z2, Z10, Z18) \
	DO(Z3, Z11, Z19)
#define EIGHT(DO) FOUR(DO) \
	DO(Z4, Z12, Z20) \
	DO(Z5, Z13, Z21) \
	DO(Z6, Z14, Z22) \
	DO(Z7, Z15, Z23)

// MANYCONSTANTS fills Z24 to Z31 for EXPMANY; other constants are read where they are used.
#define MANYCONSTANTS \
	VBROADCASTSS ROUND(R8), Z24 \
	VBROADCASTSS LOG2E(R8), Z25 \
	VBROADCASTSS MINUSLN2HI(R8), Z26 \
	VBROADCASTSS MINUSLN2LO(R8), Z27 \
	VBROADCASTSS SMALLEST(R8), Z28 \
	VBROADCASTSS ONE(R8), Z29 \
	VBROADCASTSS COEFFICIENT(R8, 0), Z30

// The steps of EXP, for several vectors by turns: one alone would wait for itself, and the
// vectors of one row fill what the processor looks ahead.
#define BELOW(X, K, P) VMAXPS X, Z28, X
#define COPYROUND(X, K, P) VMOVAPS Z24, P
#define SHIFTED(X, K, P) VFMADD231PS Z25, X, P
#define WHOLE(X, K, P) VSUBPS Z24, P, K
#define RESTHI(X, K, P) VFMADD231PS Z26, K, X
#define RESTLO(X, K, P) VFMADD231PS Z27, K, X
#define COPYX6(X, K, P) VMOVAPS Z30, P
#define ADDX5(X, K, P) VFMADD213PS.BCST COEFFICIENT(R8, 1), X, P
#define ADDX4(X, K, P) VFMADD213PS.BCST COEFFICIENT(R8, 2), X, P
#define ADDX3(X, K, P) VFMADD213PS.BCST COEFFICIENT(R8, 3), X, P
#define ADDX2(X, K, P) VFMADD213PS.BCST COEFFICIENT(R8, 4), X, P
#define ADDX1(X, K, P) VFMADD213PS Z29, X, P
#define POWER2(X, K, P) VSCALEFPS K, P, X

// EXPMANY replaces vectors, which are not above 0 or are NaN, by e^ of them.
#define EXPMANY(MANY) \
	MANY(BELOW) \
	MANY(COPYROUND) \
	MANY(SHIFTED) \
	MANY(WHOLE) \
	MANY(RESTHI) \
	MANY(COPYX6) \
	MANY(RESTLO) \
	MANY(ADDX5) \
	MANY(ADDX4) \
	MANY(ADDX3) \
	MANY(ADDX2) \
	MANY(ADDX1) \
	MANY(ADDX1) \
	MANY(POWER2)

// EXPONE replaces X8 by e^X8, which is not above 0 or is NaN, and changes X9 and X10.
#define ALONE(DO) DO(X8, X9, X10)
#define EXPONE \
	VMAXPS X8, X28, X8 \
	VMOVAPS X24, X10 \
	VFMADD231PS X25, X8, X10 \
	VSUBPS X24, X10, X9 \
	VFMADD231PS X26, X9, X8 \
	VMOVAPS X30, X10 \
	VFMADD231PS X27, X9, X8 \
	ALONE(ADDX5) \
	ALONE(ADDX4) \
	ALONE(ADDX3) \
	ALONE(ADDX2) \
	VFMADD213PS X29, X8, X10 \
	VFMADD213PS X29, X8, X10 \
	VSCALEFPS X9, X10, X8

// SHIFT sets four vectors to a row's scores less its largest.
#define SHIFT(ROW, BEST, A, B, C, D) \
	VMOVUPS 0 ROW, A \
	VMOVUPS 64 ROW, B \
	VMOVUPS 128 ROW, C \
	VMOVUPS 192 ROW, D \
	VSUBPS.BCST BEST, A, A \
	VSUBPS.BCST BEST, B, B \
	VSUBPS.BCST BEST, C, C \
	VSUBPS.BCST BEST, D, D

// ADDTO adds a row's exponentials to its sums, which shrink before.
#define ADDTO(SUMS, SHRINK, A, B, C, D) \
	VMULPS SUMS, SHRINK, SHRINK \
	VADDPS A, SHRINK, SHRINK \
	VADDPS B, SHRINK, SHRINK \
	VADDPS C, SHRINK, SHRINK \
	VADDPS D, SHRINK, SHRINK \
	VMOVUPS SHRINK, SUMS

// SCALEVALUES multiplies exponentials by the values' scales.
#define SCALEVALUES(A, B, C, D) \
	VMULPS 0(R12), A, A \
	VMULPS 64(R12), B, B \
	VMULPS 128(R12), C, C \
	VMULPS 192(R12), D, D

#define WRITE(ROW, A, B, C, D) \
	VMOVUPS A, 0 ROW \
	VMOVUPS B, 64 ROW \
	VMOVUPS C, 128 ROW \
	VMOVUPS D, 192 ROW

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
	MANYCONSTANTS

block:
	MOVQ R11, SI
	MOVQ softmaxBlocks_rows(AX), CX
	MOVQ softmaxBlocks_sums(AX), DX
	LEAQ softmaxBlocks_best(AX)(R10*1), DI
	LEAQ softmaxBlocks_shrink(AX)(R10*1), BX

rows:
	CMPQ CX, $2
	JLT one
	SHIFT((SI), 0(DI), Z0, Z1, Z2, Z3)
	SHIFT((SI)(R9*1), 4(DI), Z4, Z5, Z6, Z7)
	EXPMANY(EIGHT)
	CMPQ (BX), $0
	JNE grown
	VMOVAPS Z29, Z8 // e^0, which both mostly are
	VMOVAPS Z29, Z9
	VMOVLPS X29, (BX)

sums:
	ADDTO(0(DX), Z8, Z0, Z1, Z2, Z3)
	ADDTO(64(DX), Z9, Z4, Z5, Z6, Z7)
	TESTQ R12, R12
	JZ write
	SCALEVALUES(Z0, Z1, Z2, Z3)
	SCALEVALUES(Z4, Z5, Z6, Z7)

write:
	WRITE((SI), Z0, Z1, Z2, Z3)
	WRITE((SI)(R9*1), Z4, Z5, Z6, Z7)
	LEAQ (SI)(R9*2), SI
	ADDQ $8, DI
	ADDQ $128, DX
	ADDQ $8, BX
	SUBQ $2, CX
	JNZ rows
	JMP next

one:
	SHIFT((SI), 0(DI), Z0, Z1, Z2, Z3)
	EXPMANY(FOUR)
	VMOVSS (BX), X8
	EXPONE
	VMOVSS X8, (BX)
	VBROADCASTSS X8, Z8
	ADDTO(0(DX), Z8, Z0, Z1, Z2, Z3)
	TESTQ R12, R12
	JZ writeOne
	SCALEVALUES(Z0, Z1, Z2, Z3)

writeOne:
	WRITE((SI), Z0, Z1, Z2, Z3)

next:
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
	VMOVQ (BX), X8
	EXPONE
	VMOVQ X8, (BX)
	VPSHUFD $0x55, X8, X9
	VBROADCASTSS X8, Z8
	VBROADCASTSS X9, Z9
	JMP sums
