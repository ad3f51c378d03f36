// The words of CUDA C++ that the kernels use, on a CPU: one thread of the grid after the
// other, each to its end. A kernel that waits for other threads cannot run so, and does
// not compile: there is no __syncthreads here.
#pragma once
#include <cmath>
#include <cstring>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)

struct Index { unsigned x, y, z; };
extern thread_local Index blockIdx, threadIdx, blockDim, gridDim;

// Each is rounded once; the file is compiled without contraction into fused operations.
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
template <typename T> static inline T __ldg(const T *p) { return *p; }
static inline float __uint_as_float(unsigned u) {
  float f;
  std::memcpy(&f, &u, sizeof f);
  return f;
}
