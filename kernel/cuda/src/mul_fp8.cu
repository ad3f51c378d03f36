// Products of rows with weights of e4m3, by the bodies of the other products of floats. A weight
// is its code times its scale, rounded once: kernel/fp8.go has why the bits of a code and a scale
// that is stored times 2^120 give it in one multiplication. The order of every sum, one chain
// over ascending inputs, is that of a CPU (K3).

#pragma once
#include "drover.h"
#include "mul.cu"
#include "mul_few.cu"
#include "mul_grouped.cu"

#define FP8_LINES 17  // of a group of 64 inputs: 16 of codes, one of scales

__device__ __forceinline__ long long fp8_lines(long long k) { return (k + 63) / 64 * FP8_LINES; }

// The weight of code j of four in a dword.
__device__ __forceinline__ float fp8_weight(unsigned four, int j, float scale) {
  const unsigned code = four << (24 - 8 * j);
  return __fmul_rn(__uint_as_float((code & 0x80000000u) | (code >> 4 & 0x07f00000u)), scale);
}

struct SumFP8 {
  __device__ __forceinline__ void operator()(float *acc, const float **in, const unsigned *w,
                                             long long inputs) const {
    long long k = 0;
    for (; k + 64 <= inputs; w += FP8_LINES * LINE) {
      const float scale = __uint_as_float(__ldg(w + (FP8_LINES - 1) * LINE));
#pragma unroll 2
      for (int l = 0; l < 16; l++, k += 4) {
        const unsigned four = __ldg(w + l * LINE);
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const float weight = fp8_weight(four, j, scale);
#pragma unroll
          for (int i = 0; i < ROWS; i++) acc[i] = __fmaf_rn(weight, __ldg(in[i] + k + j), acc[i]);
        }
      }
    }
    if (k == inputs) return;
    const float scale = __uint_as_float(__ldg(w + (FP8_LINES - 1) * LINE));
#pragma unroll 1
    for (int l = 0; k < inputs; l++, k++) {
      const float weight = fp8_weight(__ldg(w + l / 4 * LINE), l % 4, scale);
#pragma unroll
      for (int i = 0; i < ROWS; i++) acc[i] = __fmaf_rn(weight, __ldg(in[i] + k), acc[i]);
    }
  }
};

extern "C" __global__ void __launch_bounds__(OUTPUTS)
mul_fp8(float *y, const float *x, const unsigned *packed, long long rows, long long outputs,
        long long inputs) {
  mul(y, x, packed, rows, outputs, inputs, fp8_lines(inputs), SumFP8());
}

// 16 blocks for a multiprocessor are 64 registers a thread: left alone, the compiler spills.
extern "C" __global__ void __launch_bounds__(OUTPUTS, 16)
mul_grouped_fp8(float *y, const float *x, const MulPanel *panels, long long outputs,
                long long inputs) {
  mul_grouped(y, x, panels, outputs, inputs, fp8_lines(inputs), SumFP8());
}

// A part is a group of 64 inputs.
struct FewFP8 {
  static const int stages = 10, lines = FP8_LINES, inputs = 64, words = inputs;
  typedef const float *Rows;
  static __device__ __forceinline__ long long all_lines(long long k) { return fp8_lines(k); }
  static __device__ __forceinline__ void begin(unsigned *x, const float *rows, const float *,
                                               long long row, long long k, long long part) {
    for (int i = threadIdx.x; i < inputs && part * inputs + i < k; i += FEW_THREADS)
      begin_copy4(x + i, rows + row * k + part * inputs + i);
  }
  static __device__ __forceinline__ void add(float *acc, float *, const unsigned *w,
                                             const unsigned (*x)[words], int rows, long long,
                                             long long left) {
    const float scale = __uint_as_float(w[(FP8_LINES - 1) * LINE]);
    if (left < inputs) {
      for (int k = 0; k < left; k++) {
        const float weight = fp8_weight(w[k / 4 * LINE], k % 4, scale);
#pragma unroll
        for (int i = 0; i < ROWS; i++)
          if (i < rows) acc[i] = __fmaf_rn(weight, __uint_as_float(x[i][k]), acc[i]);
      }
      return;
    }
#pragma unroll 4
    for (int l = 0; l < inputs / 4; l++) {
      const unsigned four = w[l * LINE];
      const float a = fp8_weight(four, 0, scale), b = fp8_weight(four, 1, scale),
                  c = fp8_weight(four, 2, scale), d = fp8_weight(four, 3, scale);
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        if (i >= rows) break;
        const float4 in = *reinterpret_cast<const float4 *>(&x[i][4 * l]);
        acc[i] = __fmaf_rn(a, in.x, acc[i]);
        acc[i] = __fmaf_rn(b, in.y, acc[i]);
        acc[i] = __fmaf_rn(c, in.z, acc[i]);
        acc[i] = __fmaf_rn(d, in.w, acc[i]);
      }
    }
  }
};

extern "C" __global__ void __launch_bounds__(FEW_THREADS)
mul_few_fp8(float *y, const float *x, const MulPanel *panels, long long outputs,
            long long inputs) {
  __shared__ FewShared<FewFP8> s;
  mul_few(s, y, x, nullptr, panels, outputs, inputs);
}
