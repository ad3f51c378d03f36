#include "go_asm.h"
#include "textflag.h"

// Rules: VEX encodings only, VZEROUPPER before every return, one chain of fused
// multiply-adds for each score and each element of a result, in ascending order (K1).
//
// Accumulators are Y0 to Y11, two for each row; Y12 and Y13 are the vectors of a step,
// which all rows use.

#define WIDENF32(P, W) \
	VMOVUPS P, W
#define BYTESF32 32
#define FETCHF32(P) \
	PREFETCHT1 (P)

#define WIDENBF16(P, W) \
	VPMOVZXWD P, W \
	VPSLLD $16, W, W
#define BYTESBF16 16
#define FETCHBF16(P) \
	PREFETCHT1 (P)

#define WIDENINT8(P, W) \
	VPMOVSXBD P, W \
	VCVTDQ2PS W, W
#define BYTESINT8 8
#define FETCHINT8(P) \
	PREFETCHT1 (P)

// ROW adds a step to a row whose element is at X.
#define ROW(X, A, B) \
	VBROADCASTSS X, Y14 \
	VFMADD231PS Y14, Y12, A \
	VFMADD231PS Y14, Y13, B

// The rows begin at DX, R9 bytes apart, those from the fourth on at R13.
#define ROWS1 \
	ROW((DX), Y0, Y1)
#define ROWS2 ROWS1 \
	ROW((DX)(R9*1), Y2, Y3)
#define ROWS3 ROWS2 \
	ROW((DX)(R9*2), Y4, Y5)
#define ROWS4 ROWS3 \
	ROW((R13), Y6, Y7)
#define ROWS5 ROWS4 \
	ROW((R13)(R9*1), Y8, Y9)
#define ROWS6 ROWS5 \
	ROW((R13)(R9*2), Y10, Y11)

#define ZERO(A, B) \
	VXORPS A, A, A \
	VXORPS B, B, B

#define ZERO1 \
	ZERO(Y0, Y1)
#define ZERO2 ZERO1 \
	ZERO(Y2, Y3)
#define ZERO3 ZERO2 \
	ZERO(Y4, Y5)
#define ZERO4 ZERO3 \
	ZERO(Y6, Y7)
#define ZERO5 ZERO4 \
	ZERO(Y8, Y9)
#define ZERO6 ZERO5 \
	ZERO(Y10, Y11)

#define LOAD(A, B) \
	VMOVUPS (DI), A \
	VMOVUPS 32(DI), B \
	ADDQ R8, DI

#define LOAD1 \
	LOAD(Y0, Y1)
#define LOAD2 LOAD1 \
	LOAD(Y2, Y3)
#define LOAD3 LOAD2 \
	LOAD(Y4, Y5)
#define LOAD4 LOAD3 \
	LOAD(Y6, Y7)
#define LOAD5 LOAD4 \
	LOAD(Y8, Y9)
#define LOAD6 LOAD5 \
	LOAD(Y10, Y11)

// SHRINK multiplies a row's accumulators by what is at S.
#define SHRINK(S, A, B) \
	VBROADCASTSS S, Y14 \
	VMULPS Y14, A, A \
	VMULPS Y14, B, B

#define SHRINK1 \
	SHRINK(0(BX), Y0, Y1)
#define SHRINK2 SHRINK1 \
	SHRINK(4(BX), Y2, Y3)
#define SHRINK3 SHRINK2 \
	SHRINK(8(BX), Y4, Y5)
#define SHRINK4 SHRINK3 \
	SHRINK(12(BX), Y6, Y7)
#define SHRINK5 SHRINK4 \
	SHRINK(16(BX), Y8, Y9)
#define SHRINK6 SHRINK5 \
	SHRINK(20(BX), Y10, Y11)

#define STORE(A, B) \
	VMOVUPS A, (DI) \
	VMOVUPS B, 32(DI) \
	ADDQ R8, DI

#define STORE1 \
	STORE(Y0, Y1)
#define STORE2 STORE1 \
	STORE(Y2, Y3)
#define STORE3 STORE2 \
	STORE(Y4, Y5)
#define STORE4 STORE3 \
	STORE(Y6, Y7)
#define STORE5 STORE4 \
	STORE(Y8, Y9)
#define STORE6 STORE5 \
	STORE(Y10, Y11)

// BEGIN reads what keys and values have in common. AX is the product.
#define BEGIN \
	MOVQ kvProduct_ldy(AX), R8 \
	MOVQ kvProduct_ldx(AX), R9 \
	MOVQ kvProduct_groups(AX), CX \
	MOVQ CX, kvProduct_left(AX)

// X points R13 at the fourth of the rows that begin at DX.
#define X \
	LEAQ (DX)(R9*2), R13 \
	ADDQ R9, R13

// KEYS multiplies groups of rows with the keys of a tile, then of the next: a
// step is an element of a head. The tile's values, which are used next, are fetched
// meanwhile.
#define KEYS(WIDEN, BYTES, FETCH, ZERO, ROWS, STORE) \
	MOVQ $0, kvProduct_part(AX) \
part: \
	BEGIN \
	MOVQ kvProduct_x(AX), DX \
	MOVQ kvProduct_part(AX), DI \
	SHLQ $6, DI \
	ADDQ kvProduct_y(AX), DI \
	MOVQ DI, kvProduct_toY(AX) \
group: \
	MOVQ DX, kvProduct_fromX(AX) \
	X \
	MOVQ kvProduct_part(AX), DI \
	MOVQ kvProduct_w(AX)(DI*8), SI \
	ADDQ kvProduct_from(AX), SI \
	MOVQ kvProduct_next(AX)(DI*8), BX \
	ADDQ kvProduct_ahead(AX), BX \
	MOVQ kvProduct_steps(AX), CX \
	ZERO \
step: \
	WIDEN((SI), Y12) \
	WIDEN(BYTES(SI), Y13) \
	FETCH(BX) \
	ROWS \
	ADDQ $(2*BYTES), BX \
	ADDQ $(2*BYTES), SI \
	ADDQ $4, DX \
	ADDQ $4, R13 \
	DECQ CX \
	JNZ step \
	MOVQ kvProduct_toY(AX), DI \
	STORE \
	MOVQ DI, kvProduct_toY(AX) \
	MOVQ kvProduct_fromX(AX), DX \
	ADDQ kvProduct_nextX(AX), DX \
	DECQ kvProduct_left(AX) \
	JNZ group \
	ADDQ $1, kvProduct_part(AX) \
	MOVQ kvProduct_part(AX), DI \
	CMPQ DI, kvProduct_parts(AX) \
	JLT part \
	VZEROUPPER

// VALUES adds the values of some runs of positions to groups of rows, 16 elements, then the next
// 16: a step is a position. Rows shrink before runs that begin a block. The keys of the
// next blocks are fetched meanwhile.
#define VALUES(WIDEN, BYTES, FETCH, LOAD, SHRINK, ROWS, STORE) \
	BEGIN \
	MOVQ kvProduct_stride(AX), R10 \
	MOVQ kvProduct_x(AX), DX \
	MOVQ DX, kvProduct_fromX(AX) \
	MOVQ kvProduct_y(AX), DI \
	MOVQ kvProduct_shrink(AX), BX \
	MOVQ BX, kvProduct_shrinking(AX) \
group: \
	MOVQ DI, kvProduct_rowsY(AX) \
	MOVQ kvProduct_parts(AX), CX \
	MOVQ CX, kvProduct_part(AX) \
	MOVQ kvProduct_at(AX), R11 \
	MOVQ R11, kvProduct_element(AX) \
part: \
	MOVQ DI, kvProduct_toY(AX) \
	MOVQ kvProduct_fromX(AX), DX \
	X \
	LOAD \
	XORQ R12, R12 \
run: \
	MOVQ kvProduct_shrinkAt(AX)(R12*8), BX \
	TESTQ BX, BX \
	JLT same \
	ADDQ kvProduct_shrinking(AX), BX \
	SHRINK \
same: \
	MOVQ kvProduct_element(AX), R11 \
	MOVQ kvProduct_w(AX)(R12*8), SI \
	ADDQ kvProduct_from(AX), SI \
	ADDQ R11, SI \
	SHLQ $4, R11 \
	ADDQ kvProduct_next(AX)(R12*8), R11 \
	ADDQ kvProduct_ahead(AX), R11 \
	MOVQ kvProduct_steps(AX)(R12*8), CX \
step: \
	WIDEN((SI), Y12) \
	WIDEN(BYTES(SI), Y13) \
	FETCH(R11) \
	ROWS \
	ADDQ R10, SI \
	ADDQ $(2*BYTES), R11 \
	ADDQ $4, DX \
	ADDQ $4, R13 \
	DECQ CX \
	JNZ step \
	INCQ R12 \
	CMPQ R12, kvProduct_runs(AX) \
	JLT run \
	MOVQ kvProduct_toY(AX), DI \
	STORE \
	MOVQ kvProduct_toY(AX), DI \
	ADDQ $64, DI \
	ADDQ $(2*BYTES), kvProduct_element(AX) \
	DECQ kvProduct_part(AX) \
	JNZ part \
	MOVQ kvProduct_nextX(AX), DX \
	ADDQ DX, kvProduct_fromX(AX) \
	MOVQ kvProduct_nextShrink(AX), BX \
	ADDQ BX, kvProduct_shrinking(AX) \
	MOVQ kvProduct_rowsY(AX), DI \
	ADDQ kvProduct_nextY(AX), DI \
	DECQ kvProduct_left(AX) \
	JNZ group \
	VZEROUPPER

// func keysF32r1AVX2(p *kvProduct)
TEXT ·keysF32r1AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, FETCHF32, ZERO1, ROWS1, STORE1)
	RET

// func keysF32r2AVX2(p *kvProduct)
TEXT ·keysF32r2AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, FETCHF32, ZERO2, ROWS2, STORE2)
	RET

// func keysF32r3AVX2(p *kvProduct)
TEXT ·keysF32r3AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, FETCHF32, ZERO3, ROWS3, STORE3)
	RET

// func keysF32r4AVX2(p *kvProduct)
TEXT ·keysF32r4AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, FETCHF32, ZERO4, ROWS4, STORE4)
	RET

// func keysF32r5AVX2(p *kvProduct)
TEXT ·keysF32r5AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, FETCHF32, ZERO5, ROWS5, STORE5)
	RET

// func keysF32r6AVX2(p *kvProduct)
TEXT ·keysF32r6AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, FETCHF32, ZERO6, ROWS6, STORE6)
	RET

// func valuesF32r1AVX2(p *kvProduct)
TEXT ·valuesF32r1AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, FETCHF32, LOAD1, SHRINK1, ROWS1, STORE1)
	RET

// func valuesF32r2AVX2(p *kvProduct)
TEXT ·valuesF32r2AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, FETCHF32, LOAD2, SHRINK2, ROWS2, STORE2)
	RET

// func valuesF32r3AVX2(p *kvProduct)
TEXT ·valuesF32r3AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, FETCHF32, LOAD3, SHRINK3, ROWS3, STORE3)
	RET

// func valuesF32r4AVX2(p *kvProduct)
TEXT ·valuesF32r4AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, FETCHF32, LOAD4, SHRINK4, ROWS4, STORE4)
	RET

// func valuesF32r5AVX2(p *kvProduct)
TEXT ·valuesF32r5AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, FETCHF32, LOAD5, SHRINK5, ROWS5, STORE5)
	RET

// func valuesF32r6AVX2(p *kvProduct)
TEXT ·valuesF32r6AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, FETCHF32, LOAD6, SHRINK6, ROWS6, STORE6)
	RET

// func keysBF16r1AVX2(p *kvProduct)
TEXT ·keysBF16r1AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENBF16, BYTESBF16, FETCHBF16, ZERO1, ROWS1, STORE1)
	RET

// func keysBF16r2AVX2(p *kvProduct)
TEXT ·keysBF16r2AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENBF16, BYTESBF16, FETCHBF16, ZERO2, ROWS2, STORE2)
	RET

// func keysBF16r3AVX2(p *kvProduct)
TEXT ·keysBF16r3AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENBF16, BYTESBF16, FETCHBF16, ZERO3, ROWS3, STORE3)
	RET

// func keysBF16r4AVX2(p *kvProduct)
TEXT ·keysBF16r4AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENBF16, BYTESBF16, FETCHBF16, ZERO4, ROWS4, STORE4)
	RET

// func keysBF16r5AVX2(p *kvProduct)
TEXT ·keysBF16r5AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENBF16, BYTESBF16, FETCHBF16, ZERO5, ROWS5, STORE5)
	RET

// func keysBF16r6AVX2(p *kvProduct)
TEXT ·keysBF16r6AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENBF16, BYTESBF16, FETCHBF16, ZERO6, ROWS6, STORE6)
	RET

// func valuesBF16r1AVX2(p *kvProduct)
TEXT ·valuesBF16r1AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENBF16, BYTESBF16, FETCHBF16, LOAD1, SHRINK1, ROWS1, STORE1)
	RET

// func valuesBF16r2AVX2(p *kvProduct)
TEXT ·valuesBF16r2AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENBF16, BYTESBF16, FETCHBF16, LOAD2, SHRINK2, ROWS2, STORE2)
	RET

// func valuesBF16r3AVX2(p *kvProduct)
TEXT ·valuesBF16r3AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENBF16, BYTESBF16, FETCHBF16, LOAD3, SHRINK3, ROWS3, STORE3)
	RET

// func valuesBF16r4AVX2(p *kvProduct)
TEXT ·valuesBF16r4AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENBF16, BYTESBF16, FETCHBF16, LOAD4, SHRINK4, ROWS4, STORE4)
	RET

// func valuesBF16r5AVX2(p *kvProduct)
TEXT ·valuesBF16r5AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENBF16, BYTESBF16, FETCHBF16, LOAD5, SHRINK5, ROWS5, STORE5)
	RET

// func valuesBF16r6AVX2(p *kvProduct)
TEXT ·valuesBF16r6AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENBF16, BYTESBF16, FETCHBF16, LOAD6, SHRINK6, ROWS6, STORE6)
	RET

// func keysInt8r1AVX2(p *kvProduct)
TEXT ·keysInt8r1AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENINT8, BYTESINT8, FETCHINT8, ZERO1, ROWS1, STORE1)
	RET

// func keysInt8r2AVX2(p *kvProduct)
TEXT ·keysInt8r2AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENINT8, BYTESINT8, FETCHINT8, ZERO2, ROWS2, STORE2)
	RET

// func keysInt8r3AVX2(p *kvProduct)
TEXT ·keysInt8r3AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENINT8, BYTESINT8, FETCHINT8, ZERO3, ROWS3, STORE3)
	RET

// func keysInt8r4AVX2(p *kvProduct)
TEXT ·keysInt8r4AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENINT8, BYTESINT8, FETCHINT8, ZERO4, ROWS4, STORE4)
	RET

// func keysInt8r5AVX2(p *kvProduct)
TEXT ·keysInt8r5AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENINT8, BYTESINT8, FETCHINT8, ZERO5, ROWS5, STORE5)
	RET

// func keysInt8r6AVX2(p *kvProduct)
TEXT ·keysInt8r6AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENINT8, BYTESINT8, FETCHINT8, ZERO6, ROWS6, STORE6)
	RET

// func valuesInt8r1AVX2(p *kvProduct)
TEXT ·valuesInt8r1AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENINT8, BYTESINT8, FETCHINT8, LOAD1, SHRINK1, ROWS1, STORE1)
	RET

// func valuesInt8r2AVX2(p *kvProduct)
TEXT ·valuesInt8r2AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENINT8, BYTESINT8, FETCHINT8, LOAD2, SHRINK2, ROWS2, STORE2)
	RET

// func valuesInt8r3AVX2(p *kvProduct)
TEXT ·valuesInt8r3AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENINT8, BYTESINT8, FETCHINT8, LOAD3, SHRINK3, ROWS3, STORE3)
	RET

// func valuesInt8r4AVX2(p *kvProduct)
TEXT ·valuesInt8r4AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENINT8, BYTESINT8, FETCHINT8, LOAD4, SHRINK4, ROWS4, STORE4)
	RET

// func valuesInt8r5AVX2(p *kvProduct)
TEXT ·valuesInt8r5AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENINT8, BYTESINT8, FETCHINT8, LOAD5, SHRINK5, ROWS5, STORE5)
	RET

// func valuesInt8r6AVX2(p *kvProduct)
TEXT ·valuesInt8r6AVX2(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENINT8, BYTESINT8, FETCHINT8, LOAD6, SHRINK6, ROWS6, STORE6)
	RET

// func copyScales(keys, values *float32, tiles **byte, head, next, n int)
TEXT ·copyScales(SB), NOSPLIT, $0-48
	MOVQ keys+0(FP), DI
	MOVQ values+8(FP), DX
	MOVQ tiles+16(FP), SI
	MOVQ head+24(FP), R8
	MOVQ next+32(FP), R9
	MOVQ n+40(FP), CX

copyStep:
	MOVQ (SI), AX
	VMOVUPS (AX)(R8*1), Y0
	VMOVUPS 32(AX)(R8*1), Y1
	VMOVUPS 64(AX)(R8*1), Y2
	VMOVUPS 96(AX)(R8*1), Y3
	PREFETCHT1 (AX)(R9*1)
	PREFETCHT1 64(AX)(R9*1)
	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	VMOVUPS Y2, (DX)
	VMOVUPS Y3, 32(DX)
	ADDQ $8, SI
	ADDQ $64, DI
	ADDQ $64, DX
	DECQ CX
	JNZ  copyStep
	VZEROUPPER
	RET

// func fetchScales(keys **byte, n int)
TEXT ·fetchScales(SB), NOSPLIT, $0-16
	MOVQ keys+0(FP), SI
	MOVQ n+8(FP), CX

fetchStep:
	MOVQ (SI), AX
	PREFETCHT1 -128(AX)
	PREFETCHT1 -64(AX)
	ADDQ $8, SI
	DECQ CX
	JNZ  fetchStep
	RET

// func fetchRows(rows *float32, stride, lines, n int)
TEXT ·fetchRows(SB), NOSPLIT, $0-32
	MOVQ rows+0(FP), DI
	MOVQ stride+8(FP), R8
	MOVQ lines+16(FP), R9
	MOVQ n+24(FP), CX

fetchRow:
	XORQ BX, BX
	MOVQ R9, AX

fetchLine:
	PREFETCHT1 (DI)(BX*1)
	ADDQ $64, BX
	DECQ AX
	JNZ  fetchLine
	ADDQ R8, DI
	DECQ CX
	JNZ  fetchRow
	RET

// func scaleRows(y, x *float32, s float32, stride, lines, n int)
TEXT ·scaleRows(SB), NOSPLIT, $0-48
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	VBROADCASTSS s+16(FP), Y0
	MOVQ stride+24(FP), R8
	MOVQ lines+32(FP), R9
	MOVQ n+40(FP), CX

scaleRow:
	XORQ BX, BX
	MOVQ R9, AX
	LEAQ (SI)(R8*1), R10
	CMPQ CX, $1
	CMOVQEQ SI, R10

scaleLine:
	VMULPS (SI)(BX*1), Y0, Y1
	VMULPS 32(SI)(BX*1), Y0, Y2
	PREFETCHT0 (R10)(BX*1)
	PREFETCHT0 1024(DI)
	VMOVUPS Y1, (DI)
	VMOVUPS Y2, 32(DI)
	ADDQ $64, BX
	ADDQ $64, DI
	DECQ AX
	JNZ  scaleLine
	MOVQ R10, SI
	DECQ CX
	JNZ  scaleRow
	VZEROUPPER
	RET
