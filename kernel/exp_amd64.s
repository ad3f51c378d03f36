#include "go_asm.h"
#include "textflag.h"

// Rules: VEX encodings only, VZEROUPPER before every return. Every step is a lane of
// exp32 in exp.go.

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

// CONSTANTS fills Y4 to Y7 and Y9 to Y15 for EXP. R8 is expTable.
#define CONSTANTS \
	VBROADCASTSS ROUND(R8), Y4 \
	VBROADCASTSS LOG2E(R8), Y5 \
	VBROADCASTSS MINUSLN2HI(R8), Y6 \
	VBROADCASTSS MINUSLN2LO(R8), Y7 \
	VBROADCASTSS COEFFICIENT(R8, 1), Y9 \
	VBROADCASTSS COEFFICIENT(R8, 2), Y10 \
	VBROADCASTSS COEFFICIENT(R8, 3), Y11 \
	VBROADCASTSS COEFFICIENT(R8, 4), Y12 \
	VBROADCASTSS LARGEST(R8), Y13 \
	VBROADCASTSS SMALLEST(R8), Y14 \
	VBROADCASTSS ONE(R8), Y15

// EXP sets Y0 to e^Y0 and changes Y1 to Y3. The operands of VMINPS and VMAXPS stand so
// that NaN stays NaN.
#define EXP \
	VMINPS Y0, Y13, Y0 \
	VMAXPS Y0, Y14, Y0 \
	VMOVAPS Y4, Y1 \
	VFMADD231PS Y5, Y0, Y1 \
	VSUBPS Y4, Y1, Y2 \
	VFMADD231PS Y6, Y2, Y0 \
	VFMADD231PS Y7, Y2, Y0 \
	VBROADCASTSS COEFFICIENT(R8, 0), Y3 \
	VFMADD213PS Y9, Y0, Y3 \
	VFMADD213PS Y10, Y0, Y3 \
	VFMADD213PS Y11, Y0, Y3 \
	VFMADD213PS Y12, Y0, Y3 \
	VFMADD213PS Y15, Y0, Y3 \
	VFMADD213PS Y15, Y0, Y3 \
	VPSUBD Y4, Y1, Y1 \
	VPSRAD $1, Y1, Y2 \
	VPSUBD Y2, Y1, Y1 \
	VPSLLD $23, Y2, Y2 \
	VPSLLD $23, Y1, Y1 \
	VPADDD Y15, Y2, Y2 \
	VPADDD Y15, Y1, Y1 \
	VMULPS Y2, Y3, Y0 \
	VMULPS Y1, Y0, Y0

// func expShiftedAVX2(y, x *float32, shift float32, n int)
TEXT ·expShiftedAVX2(SB), NOSPLIT, $0-32
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	VBROADCASTSS shift+16(FP), Y8
	MOVQ n+24(FP), CX
	LEAQ ·expTable(SB), R8
	CONSTANTS

expStep:
	VMOVUPS (SI), Y0
	VSUBPS Y8, Y0, Y0
	EXP
	VMOVUPS Y0, (DI)
	ADDQ $32, SI
	ADDQ $32, DI
	SUBQ $8, CX
	JNZ  expStep
	VZEROUPPER
	RET

// func swiGLUAVX2(y, gate, up *float32, n int)
TEXT ·swiGLUAVX2(SB), NOSPLIT, $0-32
	MOVQ y+0(FP), DI
	MOVQ gate+8(FP), SI
	MOVQ up+16(FP), DX
	MOVQ n+24(FP), CX
	LEAQ ·expTable(SB), R8
	CONSTANTS
	VBROADCASTSS SIGN(R8), Y8

swiGLUStep:
	VXORPS (SI), Y8, Y0
	EXP
	VADDPS Y15, Y0, Y0
	VMOVUPS (SI), Y1
	VDIVPS Y0, Y1, Y0
	VMULPS (DX), Y0, Y0
	VMOVUPS Y0, (DI)
	ADDQ $32, SI
	ADDQ $32, DX
	ADDQ $32, DI
	SUBQ $8, CX
	JNZ  swiGLUStep
	VZEROUPPER
	RET

// func sigmoidAVX2(y, x *float32, n int)
TEXT ·sigmoidAVX2(SB), NOSPLIT, $0-24
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	MOVQ n+16(FP), CX
	LEAQ ·expTable(SB), R8
	CONSTANTS
	VBROADCASTSS SIGN(R8), Y8

sigmoidStep:
	VXORPS (SI), Y8, Y0
	EXP
	VADDPS Y15, Y0, Y0
	VDIVPS Y0, Y15, Y0
	VMOVUPS Y0, (DI)
	ADDQ $32, SI
	ADDQ $32, DI
	SUBQ $8, CX
	JNZ  sigmoidStep
	VZEROUPPER
	RET

// VMAXPS returns its second source where one is NaN, which stands first here: the larger
// of the scores so far, which is none.

// SCALE multiplies 8 scores by scales at S.
#define SCALE(S, AT) \
	VMOVUPS AT(SI), Y0 \
	VMULPS AT(S), Y0, Y0 \
	VMOVUPS Y0, AT(SI)

// HIDE makes those of 8 scores minus infinity whose bits in the byte at B are 0. Y1 is
// minus infinity, Y2 one bit in each lane.
#define HIDE(B, AT) \
	VPBROADCASTB B(R10), Y3 \
	VPAND Y2, Y3, Y3 \
	VPCMPEQD Y2, Y3, Y3 \
	VBLENDVPS Y3, AT(SI), Y1, Y0 \
	VMOVUPS Y0, AT(SI)

// EXPSCORES replaces 8 scores by e^(score - Y8).
#define EXPSCORES(AT) \
	VMOVUPS AT(SI), Y0 \
	VSUBPS Y8, Y0, Y0 \
	EXP \
	VMOVUPS Y0, AT(SI)

// func scoresAVX2(b *softmaxBlocks)
TEXT ·scoresAVX2(SB), NOSPLIT, $0-8
	MOVQ b+0(FP), AX
	MOVQ softmaxBlocks_scores(AX), R12
	MOVQ softmaxBlocks_stride(AX), R9
	SHLQ $2, R9
	MOVQ softmaxBlocks_max(AX), DX
	MOVQ softmaxBlocks_keyScales(AX), R11
	MOVQ softmaxBlocks_blocks(AX), R13
	XORQ R8, R8 // of the block, in best and shrink

block:
	MOVQ R12, SI
	MOVQ softmaxBlocks_rows(AX), CX
	LEAQ softmaxBlocks_best(AX)(R8*1), DI
	LEAQ softmaxBlocks_shrink(AX)(R8*1), BX
	LEAQ softmaxBlocks_seen(AX)(R8*2), R10

row:
	TESTQ R11, R11
	JZ hide
	SCALE(R11, 0)
	SCALE(R11, 32)
	SCALE(R11, 64)
	SCALE(R11, 96)
	SCALE(R11, 128)
	SCALE(R11, 160)
	SCALE(R11, 192)
	SCALE(R11, 224)

hide:
	CMPQ (R10), $-1
	JEQ largest
	VPCMPEQD Y1, Y1, Y1
	VPSLLD $23, Y1, Y1
	VMOVUPS ·laneBits(SB), Y2
	HIDE(0, 0)
	HIDE(1, 32)
	HIDE(2, 64)
	HIDE(3, 96)
	HIDE(4, 128)
	HIDE(5, 160)
	HIDE(6, 192)
	HIDE(7, 224)

largest:
	VBROADCASTSS (DX), Y2
	VMOVUPS (SI), Y0
	VMOVUPS 32(SI), Y1
	VMAXPS Y2, Y0, Y0
	VMAXPS Y2, Y1, Y1
	VMOVUPS 64(SI), Y3
	VMAXPS Y0, Y3, Y0
	VMOVUPS 96(SI), Y3
	VMAXPS Y1, Y3, Y1
	VMOVUPS 128(SI), Y3
	VMAXPS Y0, Y3, Y0
	VMOVUPS 160(SI), Y3
	VMAXPS Y1, Y3, Y1
	VMOVUPS 192(SI), Y3
	VMAXPS Y0, Y3, Y0
	VMOVUPS 224(SI), Y3
	VMAXPS Y1, Y3, Y1
	VMAXPS Y1, Y0, Y0
	VEXTRACTF128 $1, Y0, X1
	VMAXPS X1, X0, X0
	VPSHUFD $0x4e, X0, X1
	VMAXPS X1, X0, X0
	VPSHUFD $0xb1, X0, X1
	VMAXPS X1, X0, X0
	VSUBSS X0, X2, X2
	VMOVSS X0, (DI)
	VMOVSS X2, (BX)
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

// func exponentialsAVX2(b *softmaxBlocks)
TEXT ·exponentialsAVX2(SB), NOSPLIT, $0-8
	MOVQ b+0(FP), AX
	MOVQ softmaxBlocks_scores(AX), R11
	MOVQ softmaxBlocks_stride(AX), R9
	SHLQ $2, R9
	MOVQ softmaxBlocks_valueScales(AX), R12
	MOVQ softmaxBlocks_blocks(AX), R13
	XORQ R10, R10 // of the block, in best and shrink
	LEAQ ·expTable(SB), R8
	CONSTANTS

block:
	MOVQ R11, SI
	MOVQ softmaxBlocks_rows(AX), CX
	MOVQ softmaxBlocks_sums(AX), DX
	LEAQ softmaxBlocks_best(AX)(R10*1), DI
	LEAQ softmaxBlocks_shrink(AX)(R10*1), BX

row:
	VBROADCASTSS (DI), Y8
	VBROADCASTSS (BX), Y0
	VXORPS X1, X1, X1
	VUCOMISS X1, X0
	JNE grown
	JP grown
	VMOVAPS Y15, Y0 // e^0, which it is mostly

sum:
	VMOVSS X0, (BX)
	VMULPS 32(DX), Y0, Y1
	VMULPS 0(DX), Y0, Y0
	VMOVUPS Y0, 0(DX)
	VMOVUPS Y1, 32(DX)
	EXPSCORES(0)
	EXPSCORES(32)
	EXPSCORES(64)
	EXPSCORES(96)
	EXPSCORES(128)
	EXPSCORES(160)
	EXPSCORES(192)
	EXPSCORES(224)
	VMOVUPS 0(DX), Y0
	VMOVUPS 32(DX), Y1
	VADDPS 0(SI), Y0, Y0
	VADDPS 32(SI), Y1, Y1
	VADDPS 64(SI), Y0, Y0
	VADDPS 96(SI), Y1, Y1
	VADDPS 128(SI), Y0, Y0
	VADDPS 160(SI), Y1, Y1
	VADDPS 192(SI), Y0, Y0
	VADDPS 224(SI), Y1, Y1
	VMOVUPS Y0, 0(DX)
	VMOVUPS Y1, 32(DX)
	TESTQ R12, R12
	JZ next
	SCALE(R12, 0)
	SCALE(R12, 32)
	SCALE(R12, 64)
	SCALE(R12, 96)
	SCALE(R12, 128)
	SCALE(R12, 160)
	SCALE(R12, 192)
	SCALE(R12, 224)

next:
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
	EXP
	JMP sum
