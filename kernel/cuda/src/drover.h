// What all kernels include. A C++ compiler of the host gets the words of CUDA that they use,
// too, so that tests run the same bodies on a CPU.
#pragma once
#ifndef __CUDACC__
#include "host.h"
#endif

#ifdef __CUDACC__
// Copies to shared memory that go on while the thread does: begin_copy4 and begin_copy16 of 4
// and 16 bytes, aligned to as many. end_copies ends a group of them, and wait_copies waits
// until at most N groups of the thread are not there yet.
__device__ __forceinline__ void begin_copy4(void *to, const void *from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(
                   (unsigned)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
__device__ __forceinline__ void begin_copy16(void *to, const void *from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   (unsigned)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
__device__ __forceinline__ void end_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> __device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
// Where shared memory is among the 18 bits of its addresses.
__device__ __forceinline__ unsigned long long shared_address(const void *p) {
  return __cvta_generic_to_shared(p);
}
// The largest of a warp's numbers, for all of its threads.
__device__ __forceinline__ unsigned warp_max(unsigned mine) {
  unsigned largest;
  asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(largest) : "r"(mine));
  return largest;
}
// Shared memory of as many bytes as a launch asks for.
extern __shared__ __align__(1024) unsigned char dynamic_shared[];
#endif

// The float16 h as float32, exactly.
__device__ __forceinline__ float widen_half(unsigned h) {
#ifdef __CUDACC__
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((unsigned short)h));
  return f;
#else
  const unsigned sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  const float magnitude = __fmul_rn(__uint_as_float(rest << 13), 0x1p112f);  // exact
  return sign ? -magnitude : magnitude;
#endif
}

// v as bfloat16, rounded to even; a NaN stays one.
__device__ __forceinline__ unsigned narrow_bf16(float v) {
  const unsigned u = __float_as_uint(v);
  if (v != v) return u >> 16 | 0x40u;
  return (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}

__device__ __forceinline__ float power2(int n) {
  return __uint_as_float(((unsigned)n + 127u) << 23);
}

// e^x by the steps of kernel.exp32. Of a NaN it is one.
__device__ __forceinline__ float exp32(float x) {
  if (x > 90.0f) x = 90.0f;
  if (x < -110.0f) x = -110.0f;
  const float round = 0x1.8p23f;
  const float shifted = __fmaf_rn(x, 1.44269504088896338700f, round);
  const float k = __fsub_rn(shifted, round);
  const float r = __fmaf_rn(k, -0x1.7f7d1cp-20f, __fmaf_rn(k, -0x1.62e4p-1f, x));
  float p = 0x1.6a234ep-10f;
  p = __fmaf_rn(p, r, 0x1.123a6cp-7f);
  p = __fmaf_rn(p, r, 0x1.5558f4p-5f);
  p = __fmaf_rn(p, r, 0x1.555490p-3f);
  p = __fmaf_rn(p, r, 0x1.fffffcp-2f);
  p = __fmaf_rn(__fmaf_rn(p, r, 1.0f), r, 1.0f);
  const int n = (int)(__float_as_uint(shifted) - __float_as_uint(round));
  const int half = n >> 1;
  return __fmul_rn(__fmul_rn(p, power2(half)), power2(n - half));
}

// The largest magnitude of n numbers, or a NaN if there is one.
__device__ __forceinline__ float largest_of(const float *x, int n) {
  float largest = 0.0f;
  for (int k = 0; k < n && largest == largest; k++) {
    const float v = fabsf(x[k]);
    if (!(v <= largest)) largest = v;
  }
  return largest;
}

// The scale of numbers as codes of 8 bits, given their largest magnitude, by the steps of
// kernel/integer.go, and what code_of makes codes with: 0 where all are to be zeros.
__device__ __forceinline__ float code_scale(float largest, float *inverse) {
  const bool finite = largest <= 3.40282347e+38f, zeros = !finite || largest < 0x1p-100f;
  *inverse = zeros ? 0.0f : __fdiv_rn(127.0f, largest);
  return !finite ? __uint_as_float(0x7fc00000u) : zeros ? 0.0f : __fdiv_rn(largest, 127.0f);
}

__device__ __forceinline__ int code_of(float x, float inverse) {
  if (inverse == 0.0f) return 0;
  const int code = __float2int_rn(__fmul_rn(x, inverse));
  return code > 127 ? 127 : code < -127 ? -127 : code;
}
