// A warp's products on tensor cores: C (16,8) += A (16,K) times B (K,8), by all 32 threads
// together. Thread t has of A rows t/4 and t/4+8, of B column t/4, and of C the columns
// 2*(t%4) and the next one of A's rows: c[0], c[1] of the first row, c[2], c[3] of the second.
// A word holds neighbouring elements along K, and the words of a thread are
//
//	a[0], a[1]  word t%4 of either row      b0  word t%4 of the column
//	a[2], a[3]  word t%4+4 of either row    b1  word t%4+4
#pragma once
#include "drover.h"

#ifdef __CUDACC__
// K is 32: four 8-bit integers to a word. Sums are exact.
__device__ __forceinline__ void mma_int8(int (&c)[4], const unsigned (&a)[4], unsigned b0,
                                         unsigned b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// K is 16: two bfloat16 to a word. The order and the rounding of the sum are the hardware's;
// an element of C depends on its row of A, its column of B and itself.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                         unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two bfloat16 times 2^112, exactly where the results are finite; subnormal ones are multiplied, too.
__device__ __forceinline__ unsigned times_2_112(unsigned two) {
  unsigned out;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(two), "r"(0x77807780u), "r"(0x80008000u));
  return out;
}
#endif
