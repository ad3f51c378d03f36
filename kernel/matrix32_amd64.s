#include "textflag.h"

// Rules: those of matrix_amd64.s. Weights here are float32, a step is one input.

#define ROW(X, A, B) \
	VBROADCASTSS X, Y10 \
	VFMADD231PS Y8, Y10, A \
	VFMADD231PS Y9, Y10, B

#define LOAD(P, A, B) \
	VMOVUPS (P), A \
	VMOVUPS 32(P), B

#define STORE(A, B) \
	VMOVUPS A, (DI) \
	VMOVUPS B, 32(DI)

// func mulF32r4b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulF32r4b1AVX2(SB), NOSPLIT, $0-64
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
	LOAD(R13, Y0, Y1)
	ADDQ R8, R13
	LOAD(R13, Y2, Y3)
	ADDQ R8, R13
	LOAD(R13, Y4, Y5)
	ADDQ R8, R13
	LOAD(R13, Y6, Y7)

r4b1:
	PREFETCHT1 2048(SI)
	VMOVUPS (SI), Y8
	VMOVUPS 32(SI), Y9
	ROW((DX), Y0, Y1)
	ROW((DX)(R9*1), Y2, Y3)
	ROW((R10), Y4, Y5)
	ROW((R10)(R9*1), Y6, Y7)
	ADDQ $64, SI
	ADDQ $4, DX
	ADDQ $4, R10
	DECQ CX
	JNZ  r4b1
	STORE(Y0, Y1)
	ADDQ R8, DI
	STORE(Y2, Y3)
	ADDQ R8, DI
	STORE(Y4, Y5)
	ADDQ R8, DI
	STORE(Y6, Y7)
	VZEROUPPER
	RET

// func mulF32r1b4AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulF32r1b4AVX2(SB), NOSPLIT, $0-64
	MOVQ y+0(FP), DI
	MOVQ w+16(FP), SI
	MOVQ stride+24(FP), R12
	MOVQ x+32(FP), DX
	MOVQ steps+48(FP), CX
	LEAQ (SI)(R12*1), R10
	LEAQ (SI)(R12*2), R11
	LEAQ (R10)(R12*2), R12
	VMOVUPS (DI), Y0
	VMOVUPS 32(DI), Y1
	VMOVUPS 64(DI), Y2
	VMOVUPS 96(DI), Y3
	VMOVUPS 128(DI), Y4
	VMOVUPS 160(DI), Y5
	VMOVUPS 192(DI), Y6
	VMOVUPS 224(DI), Y7
	XORQ AX, AX

r1b4:
	VBROADCASTSS (DX), Y8
	VFMADD231PS (SI)(AX*1), Y8, Y0
	VFMADD231PS 32(SI)(AX*1), Y8, Y1
	VFMADD231PS (R10)(AX*1), Y8, Y2
	VFMADD231PS 32(R10)(AX*1), Y8, Y3
	VFMADD231PS (R11)(AX*1), Y8, Y4
	VFMADD231PS 32(R11)(AX*1), Y8, Y5
	VFMADD231PS (R12)(AX*1), Y8, Y6
	VFMADD231PS 32(R12)(AX*1), Y8, Y7
	ADDQ $64, AX
	ADDQ $4, DX
	DECQ CX
	JNZ  r1b4
	STORE(Y0, Y1)
	ADDQ $64, DI
	STORE(Y2, Y3)
	ADDQ $64, DI
	STORE(Y4, Y5)
	ADDQ $64, DI
	STORE(Y6, Y7)
	VZEROUPPER
	RET

// func mulF32r1b1AVX2(y *float32, ldy int, w *byte, stride int, x *float32, ldx, steps int,
//	next *byte)
TEXT ·mulF32r1b1AVX2(SB), NOSPLIT, $0-64
	MOVQ y+0(FP), DI
	MOVQ w+16(FP), SI
	MOVQ x+32(FP), DX
	MOVQ steps+48(FP), CX
	LOAD(DI, Y0, Y1)

r1b1:
	VBROADCASTSS (DX), Y8
	VFMADD231PS (SI), Y8, Y0
	VFMADD231PS 32(SI), Y8, Y1
	ADDQ $64, SI
	ADDQ $4, DX
	DECQ CX
	JNZ  r1b1
	STORE(Y0, Y1)
	VZEROUPPER
	RET
