#include "textflag.h"

// Rules: EVEX encodings only, VZEROUPPER before every return, one chain of fused
// multiply-adds for each output in ascending order of input (K1).

// MASK puts 0xffff0000 in each dword of Z31.
#define MASK \
	VPTERNLOGD $0xff, Z31, Z31, Z31 \
	VPSLLD $16, Z31, Z31

// LINE widens the 16 outputs of two inputs: the even into E, the odd into O.
#define LINE(W, E, O) \
	VPSLLD $16, W, E \
	VPANDD W, Z31, O

// ROW2 adds two inputs of a row, at EVEN and ODD, to its two blocks of outputs.
#define ROW2(EVEN, ODD, A, B) \
	VBROADCASTSS EVEN, Z20 \
	VBROADCASTSS ODD, Z21 \
	VFMADD231PS Z20, Z16, A \
	VFMADD231PS Z20, Z17, B \
	VFMADD231PS Z21, Z18, A \
	VFMADD231PS Z21, Z19, B

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

// func mulBF16r8b2AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulBF16r8b2AVX512(SB), NOSPLIT, $0-64
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
	LINE((SI)(AX*1), Z16, Z18)
	LINE((BX)(AX*1), Z17, Z19)
	ROW2((DX), 4(DX), Z0, Z1)
	ROW2((DX)(R9*1), 4(DX)(R9*1), Z2, Z3)
	ROW2((DX)(R9*2), 4(DX)(R9*2), Z4, Z5)
	ROW2((R10), 4(R10), Z6, Z7)
	ROW2((R10)(R9*1), 4(R10)(R9*1), Z8, Z9)
	ROW2((R10)(R9*2), 4(R10)(R9*2), Z10, Z11)
	ROW2((R11), 4(R11), Z12, Z13)
	ROW2((R11)(R9*1), 4(R11)(R9*1), Z14, Z15)
	ADDQ $64, AX
	ADDQ $8, DX
	ADDQ $8, R10
	ADDQ $8, R11
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

// AHEAD fetches what lies 2 KiB behind in each of four blocks, into the first cache: a line
// that is only in the second comes too late for the few instructions of a step.
#define AHEAD \
	PREFETCHT0 2048(SI)(AX*1) \
	PREFETCHT0 2048(R10)(AX*1) \
	PREFETCHT0 2048(R11)(AX*1) \
	PREFETCHT0 2048(R12)(AX*1)

// func mulBF16r2b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulBF16r2b4AVX512(SB), NOSPLIT, $0-64
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
	LEAQ (DI)(R8*1), R13
	LOAD4(DI, Z0, Z1, Z2, Z3)
	LOAD4(R13, Z4, Z5, Z6, Z7)
	MASK
	XORQ AX, AX

#define BLOCK2(W, A, B) \
	LINE(W, Z16, Z17) \
	VFMADD231PS Z20, Z16, A \
	VFMADD231PS Z22, Z16, B \
	VFMADD231PS Z21, Z17, A \
	VFMADD231PS Z23, Z17, B

r2b4:
	AHEAD
	VBROADCASTSS (DX), Z20
	VBROADCASTSS 4(DX), Z21
	VBROADCASTSS (DX)(R9*1), Z22
	VBROADCASTSS 4(DX)(R9*1), Z23
	BLOCK2((SI)(AX*1), Z0, Z4)
	BLOCK2((R10)(AX*1), Z1, Z5)
	BLOCK2((R11)(AX*1), Z2, Z6)
	BLOCK2((R12)(AX*1), Z3, Z7)
	ADDQ $64, AX
	ADDQ $8, DX
	DECQ CX
	JNZ  r2b4
	STORE4(DI, Z0, Z1, Z2, Z3)
	STORE4(R13, Z4, Z5, Z6, Z7)
	VZEROUPPER
	RET

// func mulBF16r1b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulBF16r1b4AVX512(SB), NOSPLIT, $0-64
	MOVQ y+0(FP), DI
	MOVQ w+16(FP), SI
	MOVQ stride+24(FP), R12
	MOVQ x+32(FP), DX
	MOVQ steps+48(FP), CX
	LEAQ (SI)(R12*1), R10
	LEAQ (SI)(R12*2), R11
	LEAQ (R10)(R12*2), R12
	LOAD4(DI, Z0, Z1, Z2, Z3)
	MASK
	XORQ AX, AX

#define BLOCK1(W, E, O, A) \
	LINE(W, E, O) \
	VFMADD231PS Z20, E, A \
	VFMADD231PS Z21, O, A

r1b4:
	AHEAD
	VBROADCASTSS (DX), Z20
	VBROADCASTSS 4(DX), Z21
	BLOCK1((SI)(AX*1), Z4, Z5, Z0)
	BLOCK1((R10)(AX*1), Z6, Z7, Z1)
	BLOCK1((R11)(AX*1), Z8, Z9, Z2)
	BLOCK1((R12)(AX*1), Z10, Z11, Z3)
	ADDQ $64, AX
	ADDQ $8, DX
	DECQ CX
	JNZ  r1b4
	STORE4(DI, Z0, Z1, Z2, Z3)
	VZEROUPPER
	RET

// BLOCK3 adds two inputs of three rows, in Z20 to Z25, to one block of outputs.
#define BLOCK3(W, A, B, C) \
	LINE(W, Z16, Z17) \
	VFMADD231PS Z20, Z16, A \
	VFMADD231PS Z22, Z16, B \
	VFMADD231PS Z24, Z16, C \
	VFMADD231PS Z21, Z17, A \
	VFMADD231PS Z23, Z17, B \
	VFMADD231PS Z25, Z17, C

#define BLOCK4(W, A, B, C, D) \
	LINE(W, Z16, Z17) \
	VFMADD231PS Z20, Z16, A \
	VFMADD231PS Z22, Z16, B \
	VFMADD231PS Z24, Z16, C \
	VFMADD231PS Z26, Z16, D \
	VFMADD231PS Z21, Z17, A \
	VFMADD231PS Z23, Z17, B \
	VFMADD231PS Z25, Z17, C \
	VFMADD231PS Z27, Z17, D

// func mulBF16r4b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulBF16r4b4AVX512(SB), NOSPLIT, $0-64
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
	LEAQ (DI)(R8*1), R13
	LEAQ (DI)(R8*2), R14
	LEAQ (R13)(R8*2), R8
	LOAD4(DI, Z0, Z1, Z2, Z3)
	LOAD4(R13, Z4, Z5, Z6, Z7)
	LOAD4(R14, Z8, Z9, Z10, Z11)
	LOAD4(R8, Z12, Z13, Z14, Z15)
	MASK
	XORQ AX, AX

r4b4:
	AHEAD
	VBROADCASTSS (DX), Z20
	VBROADCASTSS 4(DX), Z21
	VBROADCASTSS (DX)(R9*1), Z22
	VBROADCASTSS 4(DX)(R9*1), Z23
	VBROADCASTSS (BX), Z24
	VBROADCASTSS 4(BX), Z25
	VBROADCASTSS (BX)(R9*1), Z26
	VBROADCASTSS 4(BX)(R9*1), Z27
	BLOCK4((SI)(AX*1), Z0, Z4, Z8, Z12)
	BLOCK4((R10)(AX*1), Z1, Z5, Z9, Z13)
	BLOCK4((R11)(AX*1), Z2, Z6, Z10, Z14)
	BLOCK4((R12)(AX*1), Z3, Z7, Z11, Z15)
	ADDQ $64, AX
	ADDQ $8, DX
	ADDQ $8, BX
	DECQ CX
	JNZ  r4b4
	STORE4(DI, Z0, Z1, Z2, Z3)
	STORE4(R13, Z4, Z5, Z6, Z7)
	STORE4(R14, Z8, Z9, Z10, Z11)
	STORE4(R8, Z12, Z13, Z14, Z15)
	VZEROUPPER
	RET

// func mulBF16r3b4AVX512(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulBF16r3b4AVX512(SB), NOSPLIT, $0-64
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
	LEAQ (DI)(R8*1), R13
	LEAQ (DI)(R8*2), R14
	LOAD4(DI, Z0, Z1, Z2, Z3)
	LOAD4(R13, Z4, Z5, Z6, Z7)
	LOAD4(R14, Z8, Z9, Z10, Z11)
	MASK
	XORQ AX, AX

r3b4:
	AHEAD
	VBROADCASTSS (DX), Z20
	VBROADCASTSS 4(DX), Z21
	VBROADCASTSS (DX)(R9*1), Z22
	VBROADCASTSS 4(DX)(R9*1), Z23
	VBROADCASTSS (BX), Z24
	VBROADCASTSS 4(BX), Z25
	BLOCK3((SI)(AX*1), Z0, Z4, Z8)
	BLOCK3((R10)(AX*1), Z1, Z5, Z9)
	BLOCK3((R11)(AX*1), Z2, Z6, Z10)
	BLOCK3((R12)(AX*1), Z3, Z7, Z11)
	ADDQ $64, AX
	ADDQ $8, DX
	ADDQ $8, BX
	DECQ CX
	JNZ  r3b4
	STORE4(DI, Z0, Z1, Z2, Z3)
	STORE4(R13, Z4, Z5, Z6, Z7)
	STORE4(R14, Z8, Z9, Z10, Z11)
	VZEROUPPER
	RET
