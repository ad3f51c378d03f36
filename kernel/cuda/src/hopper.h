// Products of a warpgroup, four warps together, on Hopper's tensor cores: C (64,8*TILES) += A
// (64,K) times B (K,8*TILES). A and C are in registers: of a warp's 16 rows of A and of each 8
// columns of B a thread has what it has of a product of a warp, see tensor.h. B is in shared
// memory, K neighbouring elements of each column, which a descriptor tells where.
//
// A product goes on while its threads do: between begin_products and end_products some begin, and
// wait_products waits until at most N such groups are not done yet. Until then no thread may touch
// their A and C, nor what they read of shared memory.
#pragma once
#include "drover.h"

// Columns of B have 64 bytes each, of which piece p of 16 is the one numbered p ^ column/2%4: eight
// columns are a pattern of 512 bytes, at a multiple of them, and pieces that are read together are
// in different banks. It is PTX's swizzle of 64 bytes; a descriptor has the address, the bytes from
// eight columns to the next ones, and which swizzle it is.
__device__ __forceinline__ int column_piece(int column, int piece) {
  return piece ^ column / 2 % 4;
}
__device__ __forceinline__ unsigned long long columns_at(const void *shared) {
  const unsigned long long step = 512 >> 4, swizzle_64 = 2;
  return shared_address(shared) >> 4 | 1ull << 16 | step << 32 | swizzle_64 << 62;
}
// The descriptor of what is bytes further on, a multiple of 16.
__device__ __forceinline__ unsigned long long further(unsigned long long columns, int bytes) {
  return columns + (unsigned)(bytes / 16);
}

#ifdef __CUDACC__
__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int N> __device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// Says that C is used from here on, after a wait.
template <int TILES> __device__ __forceinline__ void use_sums(int (&c)[TILES][4]) {
#pragma unroll
  for (int i = 0; i < 4 * TILES; i++) asm volatile("" : "+r"(c[i / 4][i % 4])::"memory");
}
template <int TILES> __device__ __forceinline__ void use_sums(float (&c)[TILES][4]) {
#pragma unroll
  for (int i = 0; i < 4 * TILES; i++) asm volatile("" : "+f"(c[i / 4][i % 4])::"memory");
}
// Lets products read what this thread's copies brought.
__device__ __forceinline__ void show_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#define C16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define C32 C16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define C64                                                                                   \
  C32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52," \
      "%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SUMS(is, c) is(c[0]), is(c[1]), is(c[2]), is(c[3])
#define SUMS4(is, c, i) SUMS(is, c[i]), SUMS(is, c[i + 1]), SUMS(is, c[i + 2]), SUMS(is, c[i + 3])
#define A_WORDS(a) "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])

// K is 32: integers of 8 bits. ADD says that C is added to, not begun.
template <bool ADD>
__device__ __forceinline__ void group_int8(int (&c)[4][4], const unsigned (&a)[4],
                                           unsigned long long b) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %21, 0; "
               "wgmma.mma_async.sync.aligned.m64n32k32.s32.s8.s8 {" C16
               "}, {%16,%17,%18,%19}, %20, p;}"
               : SUMS4("+r", c, 0)
               : A_WORDS(a), "l"(b), "n"(ADD));
}
template <bool ADD>
__device__ __forceinline__ void group_int8(int (&c)[8][4], const unsigned (&a)[4],
                                           unsigned long long b) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0; "
               "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" C32
               "}, {%32,%33,%34,%35}, %36, p;}"
               : SUMS4("+r", c, 0), SUMS4("+r", c, 4)
               : A_WORDS(a), "l"(b), "n"(ADD));
}

// K is 16: bfloat16.
template <bool ADD>
__device__ __forceinline__ void group_bf16(float (&c)[8][4], const unsigned (&a)[4],
                                           unsigned long long b) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0; "
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" C32
               "}, {%32,%33,%34,%35}, %36, p, 1, 1, 0;}"
               : SUMS4("+f", c, 0), SUMS4("+f", c, 4)
               : A_WORDS(a), "l"(b), "n"(ADD));
}
template <bool ADD>
__device__ __forceinline__ void group_bf16(float (&c)[16][4], const unsigned (&a)[4],
                                           unsigned long long b) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %69, 0; "
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" C64
               "}, {%64,%65,%66,%67}, %68, p, 1, 1, 0;}"
               : SUMS4("+f", c, 0), SUMS4("+f", c, 4), SUMS4("+f", c, 8), SUMS4("+f", c, 12)
               : A_WORDS(a), "l"(b), "n"(ADD));
}
#endif
