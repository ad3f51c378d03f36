#include "textflag.h"

// Rules: those of matrix512_amd64.s. Weights here are e4m3, a step is 64 inputs: 16 lines of
// four inputs, and a line of scales.

// MASK puts into each dword of Z31 the bits of float32 that a code has: its sign, four bits
// of exponent and three of mantissa.
#define MASK \
	MOVL $0x87f00000, AX \
	VPBROADCASTD AX, Z31

// WIDEN sets A, B, C and D to the four inputs of 16 outputs in W, times their scales S. An
// arithmetic shift of words brings the code in each high byte to the bits of a bfloat16.
#define WIDEN(W, S, A, B, C, D) \
	VMOVDQU32 W, D \
	VPSLLW $8, D, C \
	VPSRAW $4, D, D \
	VPSRAW $4, C, C \
	VPSLLD $16, D, B \
	VPSLLD $16, C, A \
	VPANDD Z31, A, A \
	VPANDD Z31, B, B \
	VPANDD Z31, C, C \
	VPANDD Z31, D, D \
	VMULPS S, A, A \
	VMULPS S, B, B \
	VMULPS S, C, C \
	VMULPS S, D, D

// AHEAD fetches what lies 2 KiB behind in each of four blocks into the first cache.
#define AHEAD \
	PREFETCHT0 2048(SI)(AX*1) \
	PREFETCHT0 2048(R10)(AX*1) \
	PREFETCHT0 2048(R11)(AX*1) \
	PREFETCHT0 2048(R12)(AX*1)

#define LOAD2(A, B) \
	VMOVUPS (R13), A \
	VMOVUPS 64(R13), B \
	ADDQ R8, R13

#define STORE2(A, B) \
	VMOVUPS A, (DI) \
	VMOVUPS B, 64(DI) \
	ADDQ R8, DI

#define LOAD4(P, A, B, C, D) \
	VMOVUPS (P), A \
	VMOVUPS 64(P), B \
	VMOVUPS 128(P), C \
	VMOVUPS 192(P), D

#define STORE4(P, A, B, C, D) \
	VMOVUPS A, (P) \
	VMOVUPS B, 64(P) \
	VMOVUPS C, 128(P) \
	VMOVUPS D, 192(P)

// SCALES4 loads the scales of four blocks.
#define SCALES4 \
	VMOVUPS 1024(SI)(AX*1), Z24 \
	VMOVUPS 1024(R10)(AX*1), Z25 \
	VMOVUPS 1024(R11)(AX*1), Z26 \
	VMOVUPS 1024(R12)(AX*1), Z27

// BEGIN4 loads the arguments of a tile of four blocks. Rows of x lie R9 bytes apart.
#define BEGIN4 \
	MOVQ y+0(FP), DI \
	MOVQ ldy+8(FP), R8 \
	MOVQ w+16(FP), SI \
	MOVQ stride+24(FP), R12 \
	MOVQ x+32(FP), DX \
	MOVQ ldx+40(FP), R9 \
	MOVQ steps+48(FP), CX \
	LEAQ (SI)(R12*1), R10 \
	LEAQ (SI)(R12*2), R11 \
	LEAQ (R10)(R12*2), R12 \
	SHLQ $2, R8 \
	SHLQ $2, R9 \
	MASK \
	XORQ AX, AX

// ONE adds four inputs of a row, in Z20 to Z23, to a block of outputs.
#define ONE(ACC) \
	VFMADD231PS Z20, Z16, ACC \
	VFMADD231PS Z21, Z17, ACC \
	VFMADD231PS Z22, Z18, ACC \
	VFMADD231PS Z23, Z19, ACC

// INPUT broadcasts four inputs of a row.
#define INPUT(P, A, B, C, D) \
	VBROADCASTSS (P), A \
	VBROADCASTSS 4(P), B \
	VBROADCASTSS 8(P), C \
	VBROADCASTSS 12(P), D

// func mulFP8r1b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulFP8r1b4AVX512(SB), NOSPLIT, $0-64
	BEGIN4
	LOAD4(DI, Z0, Z1, Z2, Z3)

r1b4:
	AHEAD
	SCALES4
	MOVL $16, BX

r1b4Line:
	AHEAD
	INPUT(DX, Z20, Z21, Z22, Z23)
	WIDEN((SI)(AX*1), Z24, Z16, Z17, Z18, Z19)
	ONE(Z0)
	WIDEN((R10)(AX*1), Z25, Z16, Z17, Z18, Z19)
	ONE(Z1)
	WIDEN((R11)(AX*1), Z26, Z16, Z17, Z18, Z19)
	ONE(Z2)
	WIDEN((R12)(AX*1), Z27, Z16, Z17, Z18, Z19)
	ONE(Z3)
	ADDQ $64, AX
	ADDQ $16, DX
	DECL BX
	JNZ  r1b4Line
	ADDQ $64, AX
	DECQ CX
	JNZ  r1b4
	STORE4(DI, Z0, Z1, Z2, Z3)
	VZEROUPPER
	RET

// TWO adds four inputs of two rows, in Z8 to Z11 and Z20 to Z23, to a block of outputs.
#define TWO(A, B) \
	VFMADD231PS Z20, Z16, A \
	VFMADD231PS Z8, Z16, B \
	VFMADD231PS Z21, Z17, A \
	VFMADD231PS Z9, Z17, B \
	VFMADD231PS Z22, Z18, A \
	VFMADD231PS Z10, Z18, B \
	VFMADD231PS Z23, Z19, A \
	VFMADD231PS Z11, Z19, B

// func mulFP8r2b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulFP8r2b4AVX512(SB), NOSPLIT, $0-64
	BEGIN4
	LEAQ (DI)(R8*1), R13
	ADDQ DX, R9
	LOAD4(DI, Z0, Z1, Z2, Z3)
	LOAD4(R13, Z4, Z5, Z6, Z7)

r2b4:
	AHEAD
	SCALES4
	MOVL $16, BX

r2b4Line:
	AHEAD
	INPUT(DX, Z20, Z21, Z22, Z23)
	INPUT(R9, Z8, Z9, Z10, Z11)
	WIDEN((SI)(AX*1), Z24, Z16, Z17, Z18, Z19)
	TWO(Z0, Z4)
	WIDEN((R10)(AX*1), Z25, Z16, Z17, Z18, Z19)
	TWO(Z1, Z5)
	WIDEN((R11)(AX*1), Z26, Z16, Z17, Z18, Z19)
	TWO(Z2, Z6)
	WIDEN((R12)(AX*1), Z27, Z16, Z17, Z18, Z19)
	TWO(Z3, Z7)
	ADDQ $64, AX
	ADDQ $16, DX
	ADDQ $16, R9
	DECL BX
	JNZ  r2b4Line
	ADDQ $64, AX
	DECQ CX
	JNZ  r2b4
	STORE4(DI, Z0, Z1, Z2, Z3)
	STORE4(R13, Z4, Z5, Z6, Z7)
	VZEROUPPER
	RET

// THREE adds an input, AT bytes behind, of three rows to a block of outputs.
#define THREE(AT, V, A, B, C) \
	VFMADD231PS.BCST AT(DX), V, A \
	VFMADD231PS.BCST AT(DX)(R9*1), V, B \
	VFMADD231PS.BCST AT(DX)(R9*2), V, C

#define BLOCK3(A, B, C) \
	THREE(0, Z16, A, B, C) \
	THREE(4, Z17, A, B, C) \
	THREE(8, Z18, A, B, C) \
	THREE(12, Z19, A, B, C)

// func mulFP8r3b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulFP8r3b4AVX512(SB), NOSPLIT, $0-64
	BEGIN4
	LEAQ (DI)(R8*1), R13
	LEAQ (DI)(R8*2), R14
	LOAD4(DI, Z0, Z1, Z2, Z3)
	LOAD4(R13, Z4, Z5, Z6, Z7)
	LOAD4(R14, Z8, Z9, Z10, Z11)

r3b4:
	AHEAD
	SCALES4
	MOVL $16, BX

r3b4Line:
	AHEAD
	WIDEN((SI)(AX*1), Z24, Z16, Z17, Z18, Z19)
	BLOCK3(Z0, Z4, Z8)
	WIDEN((R10)(AX*1), Z25, Z16, Z17, Z18, Z19)
	BLOCK3(Z1, Z5, Z9)
	WIDEN((R11)(AX*1), Z26, Z16, Z17, Z18, Z19)
	BLOCK3(Z2, Z6, Z10)
	WIDEN((R12)(AX*1), Z27, Z16, Z17, Z18, Z19)
	BLOCK3(Z3, Z7, Z11)
	ADDQ $64, AX
	ADDQ $16, DX
	DECL BX
	JNZ  r3b4Line
	ADDQ $64, AX
	DECQ CX
	JNZ  r3b4
	STORE4(DI, Z0, Z1, Z2, Z3)
	STORE4(R13, Z4, Z5, Z6, Z7)
	STORE4(R14, Z8, Z9, Z10, Z11)
	VZEROUPPER
	RET

// FOUR adds an input, AT bytes behind, of four rows to a block of outputs.
#define FOUR(AT, V, A, B, C, D) \
	VFMADD231PS.BCST AT(DX), V, A \
	VFMADD231PS.BCST AT(DX)(R9*1), V, B \
	VFMADD231PS.BCST AT(R15), V, C \
	VFMADD231PS.BCST AT(R15)(R9*1), V, D

#define BLOCK4(A, B, C, D) \
	FOUR(0, Z16, A, B, C, D) \
	FOUR(4, Z17, A, B, C, D) \
	FOUR(8, Z18, A, B, C, D) \
	FOUR(12, Z19, A, B, C, D)

// func mulFP8r4b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulFP8r4b4AVX512(SB), NOSPLIT, $0-64
	BEGIN4
	LEAQ (DX)(R9*2), R15
	LEAQ (DI)(R8*1), R13
	LEAQ (DI)(R8*2), R14
	LEAQ (R13)(R8*2), R8
	LOAD4(DI, Z0, Z1, Z2, Z3)
	LOAD4(R13, Z4, Z5, Z6, Z7)
	LOAD4(R14, Z8, Z9, Z10, Z11)
	LOAD4(R8, Z12, Z13, Z14, Z15)

r4b4:
	AHEAD
	SCALES4
	MOVL $16, BX

r4b4Line:
	AHEAD
	WIDEN((SI)(AX*1), Z24, Z16, Z17, Z18, Z19)
	BLOCK4(Z0, Z4, Z8, Z12)
	WIDEN((R10)(AX*1), Z25, Z16, Z17, Z18, Z19)
	BLOCK4(Z1, Z5, Z9, Z13)
	WIDEN((R11)(AX*1), Z26, Z16, Z17, Z18, Z19)
	BLOCK4(Z2, Z6, Z10, Z14)
	WIDEN((R12)(AX*1), Z27, Z16, Z17, Z18, Z19)
	BLOCK4(Z3, Z7, Z11, Z15)
	ADDQ $64, AX
	ADDQ $16, DX
	ADDQ $16, R15
	DECL BX
	JNZ  r4b4Line
	ADDQ $64, AX
	DECQ CX
	JNZ  r4b4
	STORE4(DI, Z0, Z1, Z2, Z3)
	STORE4(R13, Z4, Z5, Z6, Z7)
	STORE4(R14, Z8, Z9, Z10, Z11)
	STORE4(R8, Z12, Z13, Z14, Z15)
	VZEROUPPER
	RET

// ROW2 adds four inputs of a row, at X0 to X3, to its two blocks of outputs.
#define ROW2(X0, X1, X2, X3, A, B) \
	VBROADCASTSS X0, Z26 \
	VBROADCASTSS X1, Z27 \
	VBROADCASTSS X2, Z28 \
	VBROADCASTSS X3, Z29 \
	VFMADD231PS Z26, Z16, A \
	VFMADD231PS Z26, Z20, B \
	VFMADD231PS Z27, Z17, A \
	VFMADD231PS Z27, Z21, B \
	VFMADD231PS Z28, Z18, A \
	VFMADD231PS Z28, Z22, B \
	VFMADD231PS Z29, Z19, A \
	VFMADD231PS Z29, Z23, B

#define ROWAT(P, A, B) ROW2((P), 4(P), 8(P), 12(P), A, B)
#define ROWBY(P, N, A, B) \
	ROW2((P)(R9*N), 4(P)(R9*N), 8(P)(R9*N), 12(P)(R9*N), A, B)

// func mulFP8r8b2AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulFP8r8b2AVX512(SB), NOSPLIT, $0-64
	MOVQ y+0(FP), DI
	MOVQ ldy+8(FP), R8
	MOVQ w+16(FP), SI
	MOVQ stride+24(FP), BX
	MOVQ x+32(FP), DX
	MOVQ ldx+40(FP), R9
	MOVQ steps+48(FP), CX
	MOVQ next+56(FP), R12
	LEAQ (R12)(BX*1), R14
	ADDQ SI, BX
	SHLQ $2, R8
	SHLQ $2, R9
	LEAQ (DX)(R9*2), R10
	ADDQ R9, R10
	LEAQ (R10)(R9*2), R11
	ADDQ R9, R11
	MOVQ DI, R13
	LOAD2(Z0, Z1)
	LOAD2(Z2, Z3)
	LOAD2(Z4, Z5)
	LOAD2(Z6, Z7)
	LOAD2(Z8, Z9)
	LOAD2(Z10, Z11)
	LOAD2(Z12, Z13)
	LOAD2(Z14, Z15)
	MASK
	XORQ AX, AX

r8b2:
	PREFETCHT1 (R12)(AX*1)
	PREFETCHT1 (R14)(AX*1)
	VMOVUPS 1024(SI)(AX*1), Z24
	VMOVUPS 1024(BX)(AX*1), Z25
	MOVL $16, R13

r8b2Line:
	PREFETCHT1 64(R12)(AX*1)
	PREFETCHT1 64(R14)(AX*1)
	WIDEN((SI)(AX*1), Z24, Z16, Z17, Z18, Z19)
	WIDEN((BX)(AX*1), Z25, Z20, Z21, Z22, Z23)
	ROWAT(DX, Z0, Z1)
	ROWBY(DX, 1, Z2, Z3)
	ROWBY(DX, 2, Z4, Z5)
	ROWAT(R10, Z6, Z7)
	ROWBY(R10, 1, Z8, Z9)
	ROWBY(R10, 2, Z10, Z11)
	ROWAT(R11, Z12, Z13)
	ROWBY(R11, 1, Z14, Z15)
	ADDQ $64, AX
	ADDQ $16, DX
	ADDQ $16, R10
	ADDQ $16, R11
	DECL R13
	JNZ  r8b2Line
	ADDQ $64, AX
	DECQ CX
	JNZ  r8b2
	STORE2(Z0, Z1)
	STORE2(Z2, Z3)
	STORE2(Z4, Z5)
	STORE2(Z6, Z7)
	STORE2(Z8, Z9)
	STORE2(Z10, Z11)
	STORE2(Z12, Z13)
	STORE2(Z14, Z15)
	VZEROUPPER
	RET
