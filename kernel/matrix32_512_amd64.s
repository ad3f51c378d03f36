#include "textflag.h"

// Rules: those of matrix512_amd64.s. Weights here are float32, a step is one input.

#define LOAD2(A, B) \
	VMOVUPS (R13), A \
	VMOVUPS 64(R13), B \
	ADDQ R8, R13

#define STORE2(A, B) \
	VMOVUPS A, (DI) \
	VMOVUPS B, 64(DI) \
	ADDQ R8, DI

#define LOAD4(A, B, C, D) \
	VMOVUPS (R13), A \
	VMOVUPS 64(R13), B \
	VMOVUPS 128(R13), C \
	VMOVUPS 192(R13), D \
	ADDQ R8, R13

#define STORE4(A, B, C, D) \
	VMOVUPS A, (DI) \
	VMOVUPS B, 64(DI) \
	VMOVUPS C, 128(DI) \
	VMOVUPS D, 192(DI) \
	ADDQ R8, DI

// ROW2 adds one input of a row to its two blocks of outputs.
#define ROW2(X, A, B) \
	VBROADCASTSS X, Z20 \
	VFMADD231PS Z20, Z16, A \
	VFMADD231PS Z20, Z17, B

#define ROW4(X, A, B, C, D) \
	VBROADCASTSS X, Z20 \
	VFMADD231PS Z20, Z16, A \
	VFMADD231PS Z20, Z17, B \
	VFMADD231PS Z20, Z18, C \
	VFMADD231PS Z20, Z19, D

// LINES loads an input's weights to four blocks, and fetches what lies 2 KiB behind.
#define LINES \
	PREFETCHT0 2048(SI)(AX*1) \
	PREFETCHT0 2048(R10)(AX*1) \
	PREFETCHT0 2048(R11)(AX*1) \
	PREFETCHT0 2048(R12)(AX*1) \
	VMOVUPS (SI)(AX*1), Z16 \
	VMOVUPS (R10)(AX*1), Z17 \
	VMOVUPS (R11)(AX*1), Z18 \
	VMOVUPS (R12)(AX*1), Z19

// func mulF32r8b2AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulF32r8b2AVX512(SB), NOSPLIT, $0-64
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
	XORQ AX, AX

r8b2:
	PREFETCHT1 (R12)(AX*1)
	PREFETCHT1 (R14)(AX*1)
	VMOVUPS (SI)(AX*1), Z16
	VMOVUPS (BX)(AX*1), Z17
	ROW2((DX), Z0, Z1)
	ROW2((DX)(R9*1), Z2, Z3)
	ROW2((DX)(R9*2), Z4, Z5)
	ROW2((R10), Z6, Z7)
	ROW2((R10)(R9*1), Z8, Z9)
	ROW2((R10)(R9*2), Z10, Z11)
	ROW2((R11), Z12, Z13)
	ROW2((R11)(R9*1), Z14, Z15)
	ADDQ $64, AX
	ADDQ $4, DX
	ADDQ $4, R10
	ADDQ $4, R11
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

// func mulF32r4b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulF32r4b4AVX512(SB), NOSPLIT, $0-64
	MOVQ y+0(FP), DI
	MOVQ ldy+8(FP), R8
	MOVQ w+16(FP), SI
	MOVQ stride+24(FP), R12
	MOVQ x+32(FP), DX
	MOVQ ldx+40(FP), R9
	MOVQ steps+48(FP), CX
	LEAQ (SI)(R12*1), R10
	LEAQ (SI)(R12*2), R11
	LEAQ (R10)(R12*2), R12
	SHLQ $2, R8
	SHLQ $2, R9
	LEAQ (DX)(R9*2), BX
	MOVQ DI, R13
	LOAD4(Z0, Z1, Z2, Z3)
	LOAD4(Z4, Z5, Z6, Z7)
	LOAD4(Z8, Z9, Z10, Z11)
	LOAD4(Z12, Z13, Z14, Z15)
	XORQ AX, AX

r4b4:
	LINES
	ROW4((DX), Z0, Z1, Z2, Z3)
	ROW4((DX)(R9*1), Z4, Z5, Z6, Z7)
	ROW4((DX)(R9*2), Z8, Z9, Z10, Z11)
	ROW4((BX)(R9*1), Z12, Z13, Z14, Z15)
	ADDQ $64, AX
	ADDQ $4, DX
	ADDQ $4, BX
	DECQ CX
	JNZ  r4b4
	STORE4(Z0, Z1, Z2, Z3)
	STORE4(Z4, Z5, Z6, Z7)
	STORE4(Z8, Z9, Z10, Z11)
	STORE4(Z12, Z13, Z14, Z15)
	VZEROUPPER
	RET

// func mulF32r3b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulF32r3b4AVX512(SB), NOSPLIT, $0-64
	MOVQ y+0(FP), DI
	MOVQ ldy+8(FP), R8
	MOVQ w+16(FP), SI
	MOVQ stride+24(FP), R12
	MOVQ x+32(FP), DX
	MOVQ ldx+40(FP), R9
	MOVQ steps+48(FP), CX
	LEAQ (SI)(R12*1), R10
	LEAQ (SI)(R12*2), R11
	LEAQ (R10)(R12*2), R12
	SHLQ $2, R8
	SHLQ $2, R9
	MOVQ DI, R13
	LOAD4(Z0, Z1, Z2, Z3)
	LOAD4(Z4, Z5, Z6, Z7)
	LOAD4(Z8, Z9, Z10, Z11)
	XORQ AX, AX

r3b4:
	LINES
	ROW4((DX), Z0, Z1, Z2, Z3)
	ROW4((DX)(R9*1), Z4, Z5, Z6, Z7)
	ROW4((DX)(R9*2), Z8, Z9, Z10, Z11)
	ADDQ $64, AX
	ADDQ $4, DX
	DECQ CX
	JNZ  r3b4
	STORE4(Z0, Z1, Z2, Z3)
	STORE4(Z4, Z5, Z6, Z7)
	STORE4(Z8, Z9, Z10, Z11)
	VZEROUPPER
	RET

// func mulF32r2b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulF32r2b4AVX512(SB), NOSPLIT, $0-64
	MOVQ y+0(FP), DI
	MOVQ ldy+8(FP), R8
	MOVQ w+16(FP), SI
	MOVQ stride+24(FP), R12
	MOVQ x+32(FP), DX
	MOVQ ldx+40(FP), R9
	MOVQ steps+48(FP), CX
	LEAQ (SI)(R12*1), R10
	LEAQ (SI)(R12*2), R11
	LEAQ (R10)(R12*2), R12
	SHLQ $2, R8
	SHLQ $2, R9
	MOVQ DI, R13
	LOAD4(Z0, Z1, Z2, Z3)
	LOAD4(Z4, Z5, Z6, Z7)
	XORQ AX, AX

r2b4:
	LINES
	ROW4((DX), Z0, Z1, Z2, Z3)
	ROW4((DX)(R9*1), Z4, Z5, Z6, Z7)
	ADDQ $64, AX
	ADDQ $4, DX
	DECQ CX
	JNZ  r2b4
	STORE4(Z0, Z1, Z2, Z3)
	STORE4(Z4, Z5, Z6, Z7)
	VZEROUPPER
	RET

// func mulF32r1b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulF32r1b4AVX512(SB), NOSPLIT, $0-64
	MOVQ y+0(FP), DI
	MOVQ ldy+8(FP), R8
	MOVQ w+16(FP), SI
	MOVQ stride+24(FP), R12
	MOVQ x+32(FP), DX
	MOVQ ldx+40(FP), R9
	MOVQ steps+48(FP), CX
	LEAQ (SI)(R12*1), R10
	LEAQ (SI)(R12*2), R11
	LEAQ (R10)(R12*2), R12
	SHLQ $2, R8
	SHLQ $2, R9
	MOVQ DI, R13
	LOAD4(Z0, Z1, Z2, Z3)
	XORQ AX, AX

r1b4:
	LINES
	ROW4((DX), Z0, Z1, Z2, Z3)
	ADDQ $64, AX
	ADDQ $4, DX
	DECQ CX
	JNZ  r1b4
	STORE4(Z0, Z1, Z2, Z3)
	VZEROUPPER
	RET
