#include "go_asm.h"
#include "textflag.h"

// Rules: EVEX encodings only, VZEROUPPER before every return, one chain of fused
// multiply-adds for each score and each element of a result, in ascending order (K1).
//
// Accumulators are Z0 to Z23, four for each row; Z24 to Z27 are the vectors of a step,
// which all rows use.

// WIDENF32, WIDENBF16 and WIDENINT8 make 16 float32 of 16 elements, of which one is
// BYTESF32, BYTESBF16 or BYTESINT8 long times 16.
#define WIDENF32(P, W) \
	VMOVUPS P, W
#define BYTESF32 64

#define WIDENBF16(P, W) \
	VPMOVZXWD P, W \
	VPSLLD $16, W, W
#define BYTESBF16 32

#define WIDENINT8(P, W) \
	VPMOVSXBD P, W \
	VCVTDQ2PS W, W
#define BYTESINT8 16

// What is fetched of float32, whose values of 64 positions are 32 KiB, goes to the second
// cache, one tile after the other: AIM... begins a run of steps, FETCH... is part of each.
#define AIMKEYSF32 \
	MOVQ kvProduct_part(AX), BX \
	ADDQ DI, BX \
	MOVQ kvProduct_next(AX)(BX*8), BX \
	ADDQ kvProduct_ahead(AX), BX
#define FETCHKEYSF32 \
	PREFETCHT1 (BX) \
	PREFETCHT1 64(BX) \
	PREFETCHT1 128(BX) \
	PREFETCHT1 192(BX) \
	ADDQ $256, BX
#define AIMVALUESF32 \
	SHLQ $4, R11 \
	ADDQ kvProduct_next(AX)(R12*8), R11 \
	ADDQ kvProduct_ahead(AX), R11
#define FETCHVALUESF32 \
	PREFETCHT1 (R11) \
	PREFETCHT1 64(R11) \
	PREFETCHT1 128(R11) \
	PREFETCHT1 192(R11) \
	ADDQ $256, R11

// What is fetched of smaller elements goes to the first cache, from four tiles by turns: one
// after the other takes longer. A line is fetched two or four times, which costs little.
#define AIMKEYSNEAR \
	MOVQ kvProduct_ahead(AX), BX \
	SUBQ kvProduct_from(AX), BX
#define FETCHKEYSNEAR \
	PREFETCHT0 (SI)(BX*1) \
	PREFETCHT0 (R10)(BX*1) \
	PREFETCHT0 (R11)(BX*1) \
	PREFETCHT0 (R12)(BX*1)
#define AIMVALUESNEAR(BYTES) \
	MOVQ R12, R14 \
	ANDQ $3, R14 \
	IMULQ $(16*BYTES), R14 \
	SHLQ $4, R11 \
	ADDQ R11, R14 \
	ADDQ kvProduct_ahead(AX), R14 \
	MOVQ R12, R8 \
	ANDQ $-4, R8 \
	MOVQ (kvProduct_next+0)(AX)(R8*8), R11 \
	MOVQ (kvProduct_next+8)(AX)(R8*8), BX \
	MOVQ (kvProduct_next+16)(AX)(R8*8), DI \
	MOVQ (kvProduct_next+24)(AX)(R8*8), R8
#define FETCHVALUESNEAR(BYTES) \
	PREFETCHT0 (R11)(R14*1) \
	PREFETCHT0 (BX)(R14*1) \
	PREFETCHT0 (DI)(R14*1) \
	PREFETCHT0 (R8)(R14*1) \
	ADDQ $BYTES, R14
#define AIMKEYSBF16 AIMKEYSNEAR
#define FETCHKEYSBF16 FETCHKEYSNEAR
#define AIMVALUESBF16 AIMVALUESNEAR(32)
#define FETCHVALUESBF16 FETCHVALUESNEAR(32)
#define AIMKEYSINT8 AIMKEYSNEAR
#define FETCHKEYSINT8 FETCHKEYSNEAR
#define AIMVALUESINT8 AIMVALUESNEAR(16)
#define FETCHVALUESINT8 FETCHVALUESNEAR(16)

// Few rows of float32 are bound by reading, which is fastest where memory is read in the order in
// which it lies: then the processor fetches ahead by itself. So nothing is fetched for later, each
// tile is fetched 2 KiB ahead into the first cache, and of values, of which a part takes 256 bytes of
// a row, every other part loads the next part's, too: R14 is where they lie.
#define AIMKEYSFEW
#define FETCHKEYSFEW \
	PREFETCHT0 2048(SI) \
	PREFETCHT0 2048(R10) \
	PREFETCHT0 2048(R11) \
	PREFETCHT0 2048(R12)
#define AIMVALUESFEW \
	MOVQ kvProduct_part(AX), R14 \
	NOTQ R14 \
	ANDQ $1, R14 \
	SHLQ $8, R14
#define FETCHVALUESFEW \
	VMOVUPS (SI)(R14*1), Z29 \
	VMOVUPS 64(SI)(R14*1), Z30 \
	VMOVUPS 128(SI)(R14*1), Z31 \
	VMOVUPS 192(SI)(R14*1), Z29 \
	PREFETCHT0 2048(SI) \
	PREFETCHT0 2112(SI) \
	PREFETCHT0 2176(SI) \
	PREFETCHT0 2240(SI) \
	PREFETCHT0 2304(SI) \
	PREFETCHT0 2368(SI) \
	PREFETCHT0 2432(SI) \
	PREFETCHT0 2496(SI)

// ROW adds a step to a row whose element is at X.
#define ROW(X, A, B, C, D) \
	VBROADCASTSS X, Z28 \
	VFMADD231PS Z28, Z24, A \
	VFMADD231PS Z28, Z25, B \
	VFMADD231PS Z28, Z26, C \
	VFMADD231PS Z28, Z27, D

// The rows begin at DX, R9 bytes apart, those from the fourth on at R13.
#define ROWS1 \
	ROW((DX), Z0, Z1, Z2, Z3)
#define ROWS2 ROWS1 \
	ROW((DX)(R9*1), Z4, Z5, Z6, Z7)
#define ROWS3 ROWS2 \
	ROW((DX)(R9*2), Z8, Z9, Z10, Z11)
#define ROWS4 ROWS3 \
	ROW((R13), Z12, Z13, Z14, Z15)
#define ROWS5 ROWS4 \
	ROW((R13)(R9*1), Z16, Z17, Z18, Z19)
#define ROWS6 ROWS5 \
	ROW((R13)(R9*2), Z20, Z21, Z22, Z23)

#define ZERO(A, B, C, D) \
	VPXORD A, A, A \
	VPXORD B, B, B \
	VPXORD C, C, C \
	VPXORD D, D, D

#define ZERO1 \
	ZERO(Z0, Z1, Z2, Z3)
#define ZERO2 ZERO1 \
	ZERO(Z4, Z5, Z6, Z7)
#define ZERO3 ZERO2 \
	ZERO(Z8, Z9, Z10, Z11)
#define ZERO4 ZERO3 \
	ZERO(Z12, Z13, Z14, Z15)
#define ZERO5 ZERO4 \
	ZERO(Z16, Z17, Z18, Z19)
#define ZERO6 ZERO5 \
	ZERO(Z20, Z21, Z22, Z23)

#define LOAD(A, B, C, D) \
	VMOVUPS (DI), A \
	VMOVUPS 64(DI), B \
	VMOVUPS 128(DI), C \
	VMOVUPS 192(DI), D \
	ADDQ R8, DI

#define LOAD1 \
	LOAD(Z0, Z1, Z2, Z3)
#define LOAD2 LOAD1 \
	LOAD(Z4, Z5, Z6, Z7)
#define LOAD3 LOAD2 \
	LOAD(Z8, Z9, Z10, Z11)
#define LOAD4 LOAD3 \
	LOAD(Z12, Z13, Z14, Z15)
#define LOAD5 LOAD4 \
	LOAD(Z16, Z17, Z18, Z19)
#define LOAD6 LOAD5 \
	LOAD(Z20, Z21, Z22, Z23)

// SHRINK multiplies a row's accumulators by what is at S.
#define SHRINK(S, A, B, C, D) \
	VBROADCASTSS S, Z28 \
	VMULPS Z28, A, A \
	VMULPS Z28, B, B \
	VMULPS Z28, C, C \
	VMULPS Z28, D, D

#define SHRINK1 \
	SHRINK(0(BX), Z0, Z1, Z2, Z3)
#define SHRINK2 SHRINK1 \
	SHRINK(4(BX), Z4, Z5, Z6, Z7)
#define SHRINK3 SHRINK2 \
	SHRINK(8(BX), Z8, Z9, Z10, Z11)
#define SHRINK4 SHRINK3 \
	SHRINK(12(BX), Z12, Z13, Z14, Z15)
#define SHRINK5 SHRINK4 \
	SHRINK(16(BX), Z16, Z17, Z18, Z19)
#define SHRINK6 SHRINK5 \
	SHRINK(20(BX), Z20, Z21, Z22, Z23)

#define STORE(A, B, C, D) \
	VMOVUPS A, (DI) \
	VMOVUPS B, 64(DI) \
	VMOVUPS C, 128(DI) \
	VMOVUPS D, 192(DI) \
	ADDQ R8, DI

#define STORE1 \
	STORE(Z0, Z1, Z2, Z3)
#define STORE2 STORE1 \
	STORE(Z4, Z5, Z6, Z7)
#define STORE3 STORE2 \
	STORE(Z8, Z9, Z10, Z11)
#define STORE4 STORE3 \
	STORE(Z12, Z13, Z14, Z15)
#define STORE5 STORE4 \
	STORE(Z16, Z17, Z18, Z19)
#define STORE6 STORE5 \
	STORE(Z20, Z21, Z22, Z23)

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

// KEYS multiplies groups of rows with the keys of four tiles, then of the next four: a
// step is an element of a head. A run of steps fetches one tile's values, which are used
// next.
#define KEYS(WIDEN, BYTES, AIM, FETCH, ZERO, ROWS, STORE) \
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
	MOVQ kvProduct_from(AX), R12 \
	MOVQ (kvProduct_w+0)(AX)(DI*8), SI \
	MOVQ (kvProduct_w+8)(AX)(DI*8), R10 \
	MOVQ (kvProduct_w+16)(AX)(DI*8), R11 \
	ADDQ R12, SI \
	ADDQ R12, R10 \
	ADDQ R12, R11 \
	ADDQ (kvProduct_w+24)(AX)(DI*8), R12 \
	ZERO \
	XORQ DI, DI \
run: \
	AIM \
	MOVQ kvProduct_steps(AX)(DI*8), CX \
step: \
	WIDEN((SI), Z24) \
	WIDEN((R10), Z25) \
	WIDEN((R11), Z26) \
	WIDEN((R12), Z27) \
	FETCH \
	ROWS \
	ADDQ $BYTES, SI \
	ADDQ $BYTES, R10 \
	ADDQ $BYTES, R11 \
	ADDQ $BYTES, R12 \
	ADDQ $4, DX \
	ADDQ $4, R13 \
	DECQ CX \
	JNZ step \
	INCQ DI \
	CMPQ DI, kvProduct_runs(AX) \
	JLT run \
	MOVQ kvProduct_toY(AX), DI \
	STORE \
	MOVQ DI, kvProduct_toY(AX) \
	MOVQ kvProduct_fromX(AX), DX \
	ADDQ kvProduct_nextX(AX), DX \
	DECQ kvProduct_left(AX) \
	JNZ group \
	ADDQ $4, kvProduct_part(AX) \
	MOVQ kvProduct_part(AX), DI \
	CMPQ DI, kvProduct_parts(AX) \
	JLT part \
	VZEROUPPER

// VALUES adds the values of some runs of positions to groups of rows, 64 elements, then the next
// 64: a step is a position. Rows shrink before runs that begin a block. The keys of the
// next blocks are fetched meanwhile.
#define VALUES(WIDEN, BYTES, AIM, FETCH, LOAD, SHRINK, ROWS, STORE) \
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
	AIM \
	MOVQ kvProduct_steps(AX)(R12*8), CX \
step: \
	WIDEN((SI), Z24) \
	WIDEN(BYTES(SI), Z25) \
	WIDEN((2*BYTES)(SI), Z26) \
	WIDEN((3*BYTES)(SI), Z27) \
	FETCH \
	ROWS \
	ADDQ R10, SI \
	ADDQ $4, DX \
	ADDQ $4, R13 \
	DECQ CX \
	JNZ step \
	INCQ R12 \
	CMPQ R12, kvProduct_runs(AX) \
	JLT run \
	MOVQ kvProduct_ldy(AX), R8 \
	MOVQ kvProduct_toY(AX), DI \
	STORE \
	MOVQ kvProduct_toY(AX), DI \
	ADDQ $256, DI \
	ADDQ $(4*BYTES), kvProduct_element(AX) \
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

// func keysF32r1AVX512(p *kvProduct)
TEXT ·keysF32r1AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, AIMKEYSF32, FETCHKEYSF32, ZERO1, ROWS1, STORE1)
	RET

// func keysF32r2AVX512(p *kvProduct)
TEXT ·keysF32r2AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, AIMKEYSF32, FETCHKEYSF32, ZERO2, ROWS2, STORE2)
	RET

// func keysF32r3AVX512(p *kvProduct)
TEXT ·keysF32r3AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, AIMKEYSF32, FETCHKEYSF32, ZERO3, ROWS3, STORE3)
	RET

// func keysF32r4AVX512(p *kvProduct)
TEXT ·keysF32r4AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, AIMKEYSF32, FETCHKEYSF32, ZERO4, ROWS4, STORE4)
	RET

// func keysF32r5AVX512(p *kvProduct)
TEXT ·keysF32r5AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, AIMKEYSF32, FETCHKEYSF32, ZERO5, ROWS5, STORE5)
	RET

// func keysF32r6AVX512(p *kvProduct)
TEXT ·keysF32r6AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, AIMKEYSF32, FETCHKEYSF32, ZERO6, ROWS6, STORE6)
	RET

// func valuesF32r1AVX512(p *kvProduct)
TEXT ·valuesF32r1AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, AIMVALUESF32, FETCHVALUESF32, LOAD1, SHRINK1, ROWS1, STORE1)
	RET

// func valuesF32r2AVX512(p *kvProduct)
TEXT ·valuesF32r2AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, AIMVALUESF32, FETCHVALUESF32, LOAD2, SHRINK2, ROWS2, STORE2)
	RET

// func valuesF32r3AVX512(p *kvProduct)
TEXT ·valuesF32r3AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, AIMVALUESF32, FETCHVALUESF32, LOAD3, SHRINK3, ROWS3, STORE3)
	RET

// func valuesF32r4AVX512(p *kvProduct)
TEXT ·valuesF32r4AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, AIMVALUESF32, FETCHVALUESF32, LOAD4, SHRINK4, ROWS4, STORE4)
	RET

// func valuesF32r5AVX512(p *kvProduct)
TEXT ·valuesF32r5AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, AIMVALUESF32, FETCHVALUESF32, LOAD5, SHRINK5, ROWS5, STORE5)
	RET

// func valuesF32r6AVX512(p *kvProduct)
TEXT ·valuesF32r6AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, AIMVALUESF32, FETCHVALUESF32, LOAD6, SHRINK6, ROWS6, STORE6)
	RET

// func keysFewF32r1AVX512(p *kvProduct)
TEXT ·keysFewF32r1AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, AIMKEYSFEW, FETCHKEYSFEW, ZERO1, ROWS1, STORE1)
	RET

// func keysFewF32r2AVX512(p *kvProduct)
TEXT ·keysFewF32r2AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, AIMKEYSFEW, FETCHKEYSFEW, ZERO2, ROWS2, STORE2)
	RET

// func keysFewF32r3AVX512(p *kvProduct)
TEXT ·keysFewF32r3AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, AIMKEYSFEW, FETCHKEYSFEW, ZERO3, ROWS3, STORE3)
	RET

// func keysFewF32r4AVX512(p *kvProduct)
TEXT ·keysFewF32r4AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, AIMKEYSFEW, FETCHKEYSFEW, ZERO4, ROWS4, STORE4)
	RET

// func keysFewF32r5AVX512(p *kvProduct)
TEXT ·keysFewF32r5AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, AIMKEYSFEW, FETCHKEYSFEW, ZERO5, ROWS5, STORE5)
	RET

// func keysFewF32r6AVX512(p *kvProduct)
TEXT ·keysFewF32r6AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENF32, BYTESF32, AIMKEYSFEW, FETCHKEYSFEW, ZERO6, ROWS6, STORE6)
	RET

// func valuesFewF32r1AVX512(p *kvProduct)
TEXT ·valuesFewF32r1AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, AIMVALUESFEW, FETCHVALUESFEW, LOAD1, SHRINK1, ROWS1, STORE1)
	RET

// func valuesFewF32r2AVX512(p *kvProduct)
TEXT ·valuesFewF32r2AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, AIMVALUESFEW, FETCHVALUESFEW, LOAD2, SHRINK2, ROWS2, STORE2)
	RET

// func valuesFewF32r3AVX512(p *kvProduct)
TEXT ·valuesFewF32r3AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, AIMVALUESFEW, FETCHVALUESFEW, LOAD3, SHRINK3, ROWS3, STORE3)
	RET

// func valuesFewF32r4AVX512(p *kvProduct)
TEXT ·valuesFewF32r4AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, AIMVALUESFEW, FETCHVALUESFEW, LOAD4, SHRINK4, ROWS4, STORE4)
	RET

// func valuesFewF32r5AVX512(p *kvProduct)
TEXT ·valuesFewF32r5AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, AIMVALUESFEW, FETCHVALUESFEW, LOAD5, SHRINK5, ROWS5, STORE5)
	RET

// func valuesFewF32r6AVX512(p *kvProduct)
TEXT ·valuesFewF32r6AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENF32, BYTESF32, AIMVALUESFEW, FETCHVALUESFEW, LOAD6, SHRINK6, ROWS6, STORE6)
	RET

// func keysBF16r1AVX512(p *kvProduct)
TEXT ·keysBF16r1AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENBF16, BYTESBF16, AIMKEYSBF16, FETCHKEYSBF16, ZERO1, ROWS1, STORE1)
	RET

// func keysBF16r2AVX512(p *kvProduct)
TEXT ·keysBF16r2AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENBF16, BYTESBF16, AIMKEYSBF16, FETCHKEYSBF16, ZERO2, ROWS2, STORE2)
	RET

// func keysBF16r3AVX512(p *kvProduct)
TEXT ·keysBF16r3AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENBF16, BYTESBF16, AIMKEYSBF16, FETCHKEYSBF16, ZERO3, ROWS3, STORE3)
	RET

// func keysBF16r4AVX512(p *kvProduct)
TEXT ·keysBF16r4AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENBF16, BYTESBF16, AIMKEYSBF16, FETCHKEYSBF16, ZERO4, ROWS4, STORE4)
	RET

// func keysBF16r5AVX512(p *kvProduct)
TEXT ·keysBF16r5AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENBF16, BYTESBF16, AIMKEYSBF16, FETCHKEYSBF16, ZERO5, ROWS5, STORE5)
	RET

// func keysBF16r6AVX512(p *kvProduct)
TEXT ·keysBF16r6AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENBF16, BYTESBF16, AIMKEYSBF16, FETCHKEYSBF16, ZERO6, ROWS6, STORE6)
	RET

// func valuesBF16r1AVX512(p *kvProduct)
TEXT ·valuesBF16r1AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENBF16, BYTESBF16, AIMVALUESBF16, FETCHVALUESBF16, LOAD1, SHRINK1, ROWS1, STORE1)
	RET

// func valuesBF16r2AVX512(p *kvProduct)
TEXT ·valuesBF16r2AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENBF16, BYTESBF16, AIMVALUESBF16, FETCHVALUESBF16, LOAD2, SHRINK2, ROWS2, STORE2)
	RET

// func valuesBF16r3AVX512(p *kvProduct)
TEXT ·valuesBF16r3AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENBF16, BYTESBF16, AIMVALUESBF16, FETCHVALUESBF16, LOAD3, SHRINK3, ROWS3, STORE3)
	RET

// func valuesBF16r4AVX512(p *kvProduct)
TEXT ·valuesBF16r4AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENBF16, BYTESBF16, AIMVALUESBF16, FETCHVALUESBF16, LOAD4, SHRINK4, ROWS4, STORE4)
	RET

// func valuesBF16r5AVX512(p *kvProduct)
TEXT ·valuesBF16r5AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENBF16, BYTESBF16, AIMVALUESBF16, FETCHVALUESBF16, LOAD5, SHRINK5, ROWS5, STORE5)
	RET

// func valuesBF16r6AVX512(p *kvProduct)
TEXT ·valuesBF16r6AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENBF16, BYTESBF16, AIMVALUESBF16, FETCHVALUESBF16, LOAD6, SHRINK6, ROWS6, STORE6)
	RET

// func keysInt8r1AVX512(p *kvProduct)
TEXT ·keysInt8r1AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENINT8, BYTESINT8, AIMKEYSINT8, FETCHKEYSINT8, ZERO1, ROWS1, STORE1)
	RET

// func keysInt8r2AVX512(p *kvProduct)
TEXT ·keysInt8r2AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENINT8, BYTESINT8, AIMKEYSINT8, FETCHKEYSINT8, ZERO2, ROWS2, STORE2)
	RET

// func keysInt8r3AVX512(p *kvProduct)
TEXT ·keysInt8r3AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENINT8, BYTESINT8, AIMKEYSINT8, FETCHKEYSINT8, ZERO3, ROWS3, STORE3)
	RET

// func keysInt8r4AVX512(p *kvProduct)
TEXT ·keysInt8r4AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENINT8, BYTESINT8, AIMKEYSINT8, FETCHKEYSINT8, ZERO4, ROWS4, STORE4)
	RET

// func keysInt8r5AVX512(p *kvProduct)
TEXT ·keysInt8r5AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENINT8, BYTESINT8, AIMKEYSINT8, FETCHKEYSINT8, ZERO5, ROWS5, STORE5)
	RET

// func keysInt8r6AVX512(p *kvProduct)
TEXT ·keysInt8r6AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	KEYS(WIDENINT8, BYTESINT8, AIMKEYSINT8, FETCHKEYSINT8, ZERO6, ROWS6, STORE6)
	RET

// func valuesInt8r1AVX512(p *kvProduct)
TEXT ·valuesInt8r1AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENINT8, BYTESINT8, AIMVALUESINT8, FETCHVALUESINT8, LOAD1, SHRINK1, ROWS1, STORE1)
	RET

// func valuesInt8r2AVX512(p *kvProduct)
TEXT ·valuesInt8r2AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENINT8, BYTESINT8, AIMVALUESINT8, FETCHVALUESINT8, LOAD2, SHRINK2, ROWS2, STORE2)
	RET

// func valuesInt8r3AVX512(p *kvProduct)
TEXT ·valuesInt8r3AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENINT8, BYTESINT8, AIMVALUESINT8, FETCHVALUESINT8, LOAD3, SHRINK3, ROWS3, STORE3)
	RET

// func valuesInt8r4AVX512(p *kvProduct)
TEXT ·valuesInt8r4AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENINT8, BYTESINT8, AIMVALUESINT8, FETCHVALUESINT8, LOAD4, SHRINK4, ROWS4, STORE4)
	RET

// func valuesInt8r5AVX512(p *kvProduct)
TEXT ·valuesInt8r5AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENINT8, BYTESINT8, AIMVALUESINT8, FETCHVALUESINT8, LOAD5, SHRINK5, ROWS5, STORE5)
	RET

// func valuesInt8r6AVX512(p *kvProduct)
TEXT ·valuesInt8r6AVX512(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	VALUES(WIDENINT8, BYTESINT8, AIMVALUESINT8, FETCHVALUESINT8, LOAD6, SHRINK6, ROWS6, STORE6)
	RET
