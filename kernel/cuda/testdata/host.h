// The words of CUDA C++ that the kernels use, on a CPU: one thread of the grid after the
// other, each to its end or, in kernels that wait for each other, to the next barrier: see
// threads.h.
#pragma once
#include <cmath>
#include <cstring>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Memory of a block of threads: one block runs at a time. All of it lies together.
#define __shared__ static __attribute__((section("shared_memory")))
void __syncthreads();
static inline void __syncwarp() {}  // products of a warp wait for all of it by themselves
// Copies that go on while a thread does: see threads.h.
void begin_copy(void *to, const void *from, int size);
void end_copies();
void wait_copies_to(unsigned groups);
static inline void begin_copy4(void *to, const void *from) { begin_copy(to, from, 4); }
static inline void begin_copy16(void *to, const void *from) { begin_copy(to, from, 16); }
template <int N> static inline void wait_copies() { wait_copies_to(N); }

// Products of a warp's threads together, and the largest of their numbers: see threads.h.
void mma_int8(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
void mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

unsigned warp_max(unsigned mine);

// Products of a warpgroup's threads together, and memory that a launch asks for: see hopper.h.
const unsigned most_dynamic_shared = 227 << 10;
extern unsigned char dynamic_shared[most_dynamic_shared];
static inline unsigned long long shared_address(const void *p) {
  return static_cast<const unsigned char *>(p) - dynamic_shared;
}
void begin_products();
void end_products();
void wait_products_to(unsigned groups);
template <int N> static inline void wait_products() { wait_products_to(N); }
void show_copies();
template <typename C> static inline void use_sums(C &) {}
void group_int8_to(void *c, int tiles, const unsigned *a, unsigned long long b, bool add);
void group_bf16_to(void *c, int tiles, const unsigned *a, unsigned long long b, bool add);
template <bool ADD, int TILES>
static inline void group_int8(int (&c)[TILES][4], const unsigned (&a)[4], unsigned long long b) {
  group_int8_to(c, TILES, a, b, ADD);
}
template <bool ADD, int TILES>
static inline void group_bf16(float (&c)[TILES][4], const unsigned (&a)[4], unsigned long long b) {
  group_bf16_to(c, TILES, a, b, ADD);
}

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct Index { unsigned x, y, z; };
extern thread_local Index blockIdx, threadIdx, blockDim, gridDim;

// Each is rounded once; the file is compiled without contraction into fused operations.
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return std::sqrt(a); }
static inline float __double2float_rn(double a) { return (float)a; }
static inline float __int2float_rn(int a) { return (float)a; }
static inline int __float2int_rn(float a) { return (int)std::lrint(a); }  // to even
static inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += (int)(signed char)(a >> i) * (int)(signed char)(b >> i);
  return c;
}
static inline unsigned __float_as_uint(float f) {
  unsigned u;
  std::memcpy(&u, &f, sizeof u);
  return u;
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which) {
  const unsigned long long both = (unsigned long long)b << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) r |= (unsigned)(both >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
  return r;
}
template <typename T> static inline T __ldg(const T *p) { return *p; }
static inline float __uint_as_float(unsigned u) {
  float f;
  std::memcpy(&f, &u, sizeof f);
  return f;
}
// Of src/tensor.h.
static inline unsigned times_2_112(unsigned two) {
  const float low = __uint_as_float(two << 16) * 0x1p112f;
  const float high = __uint_as_float(two & 0xffff0000u) * 0x1p112f;
  return __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xffff0000u);
}
