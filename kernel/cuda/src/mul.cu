// Products of rows with packed weights, y = x Wᵀ: kernel/format.go has the layout.
//
// A thread has one output of up to ROWS rows and sums each in one chain over ascending
// inputs (K1, K3): K is never split. 16 neighbouring threads read a line of 64 bytes of
// the same block of outputs. A block of threads is 64 outputs; gridDim.y goes over
// panels of ROWS rows, so a row's chain is the same in every panel.

#pragma once
#include "drover.h"

#define ROWS 8
#define OUTPUTS 64
#define LINE 16  // dwords

// x is (rows, inputs), y (rows, outputs); packed holds blocks of 16 outputs, each lines
// lines of LINE dwords. A thread has output n of panel rows from first on.
template <typename Sum>
__device__ __forceinline__ void mul_panel(float *y, const float *x, const unsigned *packed,
                                          long long first, int panel, long long n,
                                          long long outputs, long long inputs, long long lines,
                                          Sum sum) {
  if (n >= outputs) return;
  const unsigned *w = packed + (n / 16) * lines * LINE + n % 16;
  const float *in[ROWS];
  float acc[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    // Rows that are not there read the last one, and are not stored.
    in[i] = x + (first + (i < panel ? i : panel - 1)) * inputs;
    acc[i] = 0.0f;
  }
  sum(acc, in, w, inputs);
#pragma unroll
  for (int i = 0; i < ROWS; i++)
    if (i < panel) y[(first + i) * outputs + n] = acc[i];
}

struct SumF32 {
  __device__ __forceinline__ void operator()(float *acc, const float **in, const unsigned *w,
                                             long long inputs) const {
#pragma unroll 8
    for (long long k = 0; k < inputs; k++) {
      const float weight = __uint_as_float(__ldg(w + k * LINE));
#pragma unroll
      for (int i = 0; i < ROWS; i++) acc[i] = __fmaf_rn(weight, __ldg(in[i] + k), acc[i]);
    }
  }
};

struct SumBF16 {
  __device__ __forceinline__ void operator()(float *acc, const float **in, const unsigned *w,
                                             long long inputs) const {
#pragma unroll 8
    for (long long k = 0; k < inputs / 2; k++) {
      const unsigned two = __ldg(w + k * LINE);
      const float even = __uint_as_float(two << 16), odd = __uint_as_float(two & 0xffff0000u);
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        acc[i] = __fmaf_rn(even, __ldg(in[i] + 2 * k), acc[i]);
        acc[i] = __fmaf_rn(odd, __ldg(in[i] + 2 * k + 1), acc[i]);
      }
    }
    if (inputs % 2 == 0) return;
    const float last = __uint_as_float(__ldg(w + inputs / 2 * LINE) << 16);
#pragma unroll
    for (int i = 0; i < ROWS; i++) acc[i] = __fmaf_rn(last, __ldg(in[i] + inputs - 1), acc[i]);
  }
};

template <typename Sum>
__device__ __forceinline__ void mul(float *y, const float *x, const unsigned *packed,
                                    long long rows, long long outputs, long long inputs,
                                    long long lines, Sum sum) {
  const long long first = (long long)blockIdx.y * ROWS;
  const int panel = rows - first < ROWS ? (int)(rows - first) : ROWS;
  mul_panel(y, x, packed, first, panel, (long long)blockIdx.x * OUTPUTS + threadIdx.x, outputs,
            inputs, lines, sum);
}

extern "C" __global__ void __launch_bounds__(OUTPUTS)
mul_f32(float *y, const float *x, const unsigned *packed, long long rows, long long outputs,
        long long inputs) {
  mul(y, x, packed, rows, outputs, inputs, inputs, SumF32());
}

extern "C" __global__ void __launch_bounds__(OUTPUTS)
mul_bf16(float *y, const float *x, const unsigned *packed, long long rows, long long outputs,
         long long inputs) {
  mul(y, x, packed, rows, outputs, inputs, (inputs + 1) / 2, SumBF16());
}
