#include "textflag.h"

// Rules: those of matrix_amd64.s. Weights here are e4m3, a step is 64 inputs: 16 lines of
// four inputs, and a line of scales.

// MASK puts into each dword of Y15 the bits of float32 that a code has: its sign, four bits
// of exponent and three of mantissa.
#define MASK \
	MOVL $0x87f00000, AX \
	VMOVD AX, X15 \
	VPBROADCASTD X15, Y15

// CODES sets E and O to the even and the odd ones of the four inputs of 8 outputs in W: an
// arithmetic shift of words brings the code in each high byte to the bits of a bfloat16.
#define CODES(W, E, O) \
	VMOVDQU W, O \
	VPSLLW $8, O, E \
	VPSRAW $4, O, O \
	VPSRAW $4, E, E

// LOW and HIGH set V to the input in the low or the high half of each dword of C, scaled.
#define LOW(C, S, V) \
	VPSLLD $16, C, V \
	VPAND Y15, V, V \
	VMULPS S, V, V

#define HIGH(C, S, V) \
	VPAND Y15, C, V \
	VMULPS S, V, V

#define LOADROW(A, B) \
	VMOVUPS (R13), A \
	VMOVUPS 32(R13), B \
	ADDQ R8, R13

#define STOREROW(A, B) \
	VMOVUPS A, (DI) \
	VMOVUPS B, 32(DI) \
	ADDQ R8, DI

// HALF1 adds four inputs of a row, in Y11 to Y14, to half a block of outputs.
#define HALF1(W, S, ACC) \
	CODES(W, Y8, Y9) \
	LOW(Y8, S, Y10) \
	VFMADD231PS Y11, Y10, ACC \
	LOW(Y9, S, Y10) \
	VFMADD231PS Y12, Y10, ACC \
	HIGH(Y8, S, Y8) \
	VFMADD231PS Y13, Y8, ACC \
	HIGH(Y9, S, Y9) \
	VFMADD231PS Y14, Y9, ACC

#define INPUT1 \
	VBROADCASTSS (DX), Y11 \
	VBROADCASTSS 4(DX), Y12 \
	VBROADCASTSS 8(DX), Y13 \
	VBROADCASTSS 12(DX), Y14

// func mulFP8r1b4AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulFP8r1b4AVX2(SB), NOSPLIT, $0-64
	MOVQ y+0(FP), DI
	MOVQ w+16(FP), SI
	MOVQ stride+24(FP), R8
	MOVQ x+32(FP), DX
	MOVQ steps+48(FP), CX
	LEAQ (SI)(R8*1), R9
	LEAQ (SI)(R8*2), R10
	LEAQ (R9)(R8*2), R11
	VMOVUPS (DI), Y0
	VMOVUPS 32(DI), Y1
	VMOVUPS 64(DI), Y2
	VMOVUPS 96(DI), Y3
	VMOVUPS 128(DI), Y4
	VMOVUPS 160(DI), Y5
	VMOVUPS 192(DI), Y6
	VMOVUPS 224(DI), Y7
	MASK
	XORQ AX, AX
	MOVQ $1024, R12 // the scales

r1b4:
	MOVL $16, BX

r1b4Line:
	INPUT1
	HALF1((SI)(AX*1), (SI)(R12*1), Y0)
	HALF1(32(SI)(AX*1), 32(SI)(R12*1), Y1)
	HALF1((R9)(AX*1), (R9)(R12*1), Y2)
	HALF1(32(R9)(AX*1), 32(R9)(R12*1), Y3)
	HALF1((R10)(AX*1), (R10)(R12*1), Y4)
	HALF1(32(R10)(AX*1), 32(R10)(R12*1), Y5)
	HALF1((R11)(AX*1), (R11)(R12*1), Y6)
	HALF1(32(R11)(AX*1), 32(R11)(R12*1), Y7)
	ADDQ $64, AX
	ADDQ $16, DX
	DECL BX
	JNZ  r1b4Line
	ADDQ $64, AX
	ADDQ $1088, R12
	DECQ CX
	JNZ  r1b4
	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	VMOVUPS Y2, 64(DI)
	VMOVUPS Y3, 96(DI)
	VMOVUPS Y4, 128(DI)
	VMOVUPS Y5, 160(DI)
	VMOVUPS Y6, 192(DI)
	VMOVUPS Y7, 224(DI)
	VZEROUPPER
	RET

// func mulFP8r1b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulFP8r1b1AVX2(SB), NOSPLIT, $0-64
	MOVQ y+0(FP), DI
	MOVQ w+16(FP), SI
	MOVQ x+32(FP), DX
	MOVQ steps+48(FP), CX
	VMOVUPS (DI), Y0
	VMOVUPS 32(DI), Y1
	MASK

r1b1:
	VMOVUPS 1024(SI), Y6
	VMOVUPS 1056(SI), Y7
	MOVL $16, BX

r1b1Line:
	INPUT1
	HALF1((SI), Y6, Y0)
	HALF1(32(SI), Y7, Y1)
	ADDQ $64, SI
	ADDQ $16, DX
	DECL BX
	JNZ  r1b1Line
	ADDQ $64, SI
	DECQ CX
	JNZ  r1b1
	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	VZEROUPPER
	RET

// PAIR adds an input of two rows, at A and B, to half a block of outputs.
#define PAIR(X, Z, V, A, B) \
	VBROADCASTSS X, Y11 \
	VBROADCASTSS Z, Y12 \
	VFMADD231PS Y11, V, A \
	VFMADD231PS Y12, V, B

// HALF2 adds four inputs of two rows to half a block of outputs.
#define HALF2(W, S, A, B) \
	CODES(W, Y8, Y9) \
	LOW(Y8, S, Y10) \
	PAIR((DX), (DX)(R9*4), Y10, A, B) \
	LOW(Y9, S, Y10) \
	PAIR(4(DX), 4(DX)(R9*4), Y10, A, B) \
	HIGH(Y8, S, Y8) \
	PAIR(8(DX), 8(DX)(R9*4), Y8, A, B) \
	HIGH(Y9, S, Y9) \
	PAIR(12(DX), 12(DX)(R9*4), Y9, A, B)

// func mulFP8r2b2AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulFP8r2b2AVX2(SB), NOSPLIT, $0-64
	MOVQ y+0(FP), DI
	MOVQ ldy+8(FP), R8
	MOVQ w+16(FP), SI
	MOVQ stride+24(FP), BX
	MOVQ x+32(FP), DX
	MOVQ ldx+40(FP), R9
	MOVQ steps+48(FP), CX
	ADDQ SI, BX
	LEAQ (DI)(R8*4), R13
	VMOVUPS (DI), Y0
	VMOVUPS 32(DI), Y1
	VMOVUPS 64(DI), Y2
	VMOVUPS 96(DI), Y3
	VMOVUPS (R13), Y4
	VMOVUPS 32(R13), Y5
	VMOVUPS 64(R13), Y6
	VMOVUPS 96(R13), Y7
	MASK
	XORQ AX, AX
	MOVQ $1024, R12 // the scales

r2b2:
	MOVL $16, R10

r2b2Line:
	PREFETCHT1 2048(SI)(AX*1)
	PREFETCHT1 2048(BX)(AX*1)
	HALF2((SI)(AX*1), (SI)(R12*1), Y0, Y4)
	HALF2(32(SI)(AX*1), 32(SI)(R12*1), Y1, Y5)
	HALF2((BX)(AX*1), (BX)(R12*1), Y2, Y6)
	HALF2(32(BX)(AX*1), 32(BX)(R12*1), Y3, Y7)
	ADDQ $64, AX
	ADDQ $16, DX
	DECL R10
	JNZ  r2b2Line
	ADDQ $64, AX
	ADDQ $1088, R12
	DECQ CX
	JNZ  r2b2
	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	VMOVUPS Y2, 64(DI)
	VMOVUPS Y3, 96(DI)
	VMOVUPS Y4, (R13)
	VMOVUPS Y5, 32(R13)
	VMOVUPS Y6, 64(R13)
	VMOVUPS Y7, 96(R13)
	VZEROUPPER
	RET

// ROW4 adds an input of a row, at X, to its block of outputs.
#define ROW4(X, A, B) \
	VBROADCASTSS X, Y14 \
	VFMADD231PS Y14, Y12, A \
	VFMADD231PS Y14, Y13, B

// FOUR adds an input, AT bytes behind, of four rows to a block of outputs.
#define FOUR(AT) \
	ROW4(AT(DX), Y0, Y1) \
	ROW4(AT(DX)(R9*1), Y2, Y3) \
	ROW4(AT(R10), Y4, Y5) \
	ROW4(AT(R10)(R9*1), Y6, Y7)

// func mulFP8r4b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulFP8r4b1AVX2(SB), NOSPLIT, $0-64
	MOVQ y+0(FP), DI
	MOVQ ldy+8(FP), R8
	MOVQ w+16(FP), SI
	MOVQ x+32(FP), DX
	MOVQ ldx+40(FP), R9
	MOVQ steps+48(FP), CX
	SHLQ $2, R8
	SHLQ $2, R9
	LEAQ (DX)(R9*2), R10
	MOVQ DI, R13
	LOADROW(Y0, Y1)
	LOADROW(Y2, Y3)
	LOADROW(Y4, Y5)
	LOADROW(Y6, Y7)
	MASK
	LEAQ 1024(SI), R12 // the scales

r4b1:
	MOVL $16, BX

r4b1Line:
	PREFETCHT1 2048(SI)
	CODES((SI), Y8, Y9)
	CODES(32(SI), Y10, Y11)
	LOW(Y8, (R12), Y12)
	LOW(Y10, 32(R12), Y13)
	FOUR(0)
	LOW(Y9, (R12), Y12)
	LOW(Y11, 32(R12), Y13)
	FOUR(4)
	HIGH(Y8, (R12), Y12)
	HIGH(Y10, 32(R12), Y13)
	FOUR(8)
	HIGH(Y9, (R12), Y12)
	HIGH(Y11, 32(R12), Y13)
	FOUR(12)
	ADDQ $64, SI
	ADDQ $16, DX
	ADDQ $16, R10
	DECL BX
	JNZ  r4b1Line
	ADDQ $64, SI
	ADDQ $1088, R12
	DECQ CX
	JNZ  r4b1
	STOREROW(Y0, Y1)
	STOREROW(Y2, Y3)
	STOREROW(Y4, Y5)
	STOREROW(Y6, Y7)
	VZEROUPPER
	RET
