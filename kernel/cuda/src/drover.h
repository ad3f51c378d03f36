// What all kernels include. A C++ compiler of the host gets the words of CUDA that they use,
// too, so that tests run the same bodies on a CPU.
#pragma once
#ifndef __CUDACC__
#include "host.h"
#endif

// The float16 h as float32, exactly.
__device__ __forceinline__ float widen_half(unsigned h) {
  const unsigned sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  const float magnitude = __fmul_rn(__uint_as_float(rest << 13), 0x1p112f);  // exact
  return sign ? -magnitude : magnitude;
}
