#include "textflag.h"

// Rules: VEX encodings only, VZEROUPPER before every return. Every step is a lane of Exp64.

// Places in exp64Table.
#define LOG2E(R) 0(R)
#define MINUSLN2HI(R) 8(R)
#define MINUSLN2LO(R) 16(R)
#define ROUND(R) 24(R)
#define LARGEST(R) 32(R)
#define SMALLEST(R) 40(R)
#define COEFFICIENT(R, I) (48 + 8*I)(R)
#define ONE(R) 144(R)

// ADD does p = p x + a coefficient.
#define ADD(I) \
	VBROADCASTSD COEFFICIENT(R8, I), Y4 \
	VFMADD213PD Y4, Y0, Y3

// func exponentials64AVX2(y, x *float64, shift, divisor float64, n int)
TEXT ·exponentials64AVX2(SB), NOSPLIT, $0-40
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	VBROADCASTSD shift+16(FP), Y8
	VBROADCASTSD divisor+24(FP), Y9
	MOVQ n+32(FP), CX
	LEAQ ·exp64Table(SB), R8
	VBROADCASTSD LOG2E(R8), Y10
	VBROADCASTSD MINUSLN2HI(R8), Y11
	VBROADCASTSD MINUSLN2LO(R8), Y12
	VBROADCASTSD ROUND(R8), Y13
	VBROADCASTSD SMALLEST(R8), Y14
	VBROADCASTSD ONE(R8), Y15
	VBROADCASTSD LARGEST(R8), Y7

	// The operands of VMINPD stand so that NaN stays NaN. Y6 says which are below the smallest.
step:
	VMOVUPD (SI), Y0
	VSUBPD Y8, Y0, Y0
	VDIVPD Y9, Y0, Y0
	VCMPPD $0x11, Y14, Y0, Y6
	VMINPD Y0, Y7, Y0
	VMOVAPD Y13, Y1
	VFMADD231PD Y10, Y0, Y1
	VSUBPD Y13, Y1, Y2
	VFMADD231PD Y11, Y2, Y0
	VFMADD231PD Y12, Y2, Y0
	VBROADCASTSD COEFFICIENT(R8, 0), Y3
	ADD(1)
	ADD(2)
	ADD(3)
	ADD(4)
	ADD(5)
	ADD(6)
	ADD(7)
	ADD(8)
	ADD(9)
	ADD(10)
	ADD(11)
	VFMADD213PD Y15, Y0, Y3
	VFMADD213PD Y15, Y0, Y3
	VPSLLQ $52, Y1, Y1
	VPADDQ Y15, Y1, Y1
	VMULPD Y1, Y3, Y3
	VANDNPD Y3, Y6, Y3
	VMOVUPD Y3, (DI)
	ADDQ $32, SI
	ADDQ $32, DI
	SUBQ $4, CX
	JNZ  step
	VZEROUPPER
	RET
