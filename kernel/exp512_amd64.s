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
