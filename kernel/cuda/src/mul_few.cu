// Products of few rows with many matrices, as mul_grouped has them, whose time is that of
// reading weights. Parts of the weights of 32 outputs, one for each thread, are copied to
// shared memory long before they are summed, so that enough bytes are under way although
// inputs are never split between threads: docs/gpu.md has the arithmetic. The order of every
// sum, one chain over ascending inputs, is that of the other products.

#pragma once
#include "drover.h"
#include "integer.cu"
#include "mul_grouped.cu"

#define FEW_THREADS 32
#define FEW_BLOCKS 2  // of 16 outputs

// A part of floats is 16 lines of each block of outputs.
template <bool BF16> struct FewFloats {
  static const int stages = 12, lines = 16, inputs = BF16 ? 32 : 16, words = inputs;
  typedef const float *Rows;
  static __device__ __forceinline__ long long all_lines(long long k) {
    return BF16 ? (k + 1) / 2 : k;
  }
  // Begins to copy a row's inputs of a part.
  static __device__ __forceinline__ void begin(unsigned *x, const float *rows, const float *,
                                               long long row, long long k, long long part) {
    for (int i = threadIdx.x; i < inputs && part * inputs + i < k; i += FEW_THREADS)
      begin_copy4(x + i, rows + row * k + part * inputs + i);
  }
  static __device__ __forceinline__ float weight(const unsigned *w, int k) {
    if (!BF16) return __uint_as_float(w[k * LINE]);
    const unsigned two = w[k / 2 * LINE];
    return __uint_as_float(k % 2 ? two & 0xffff0000u : two << 16);
  }
  // Adds a part, with which so many inputs begin. w is the thread's dword of the first line.
  static __device__ __forceinline__ void add(float *acc, float *, const unsigned *w,
                                             const unsigned (*x)[words], int rows, long long,
                                             long long left) {
    if (left < inputs) {
      for (int k = 0; k < left; k++)
#pragma unroll
        for (int i = 0; i < ROWS; i++)
          if (i < rows) acc[i] = __fmaf_rn(weight(w, k), __uint_as_float(x[i][k]), acc[i]);
      return;
    }
#pragma unroll 4
    for (int k = 0; k < inputs; k += 4) {
      const float a = weight(w, k), b = weight(w, k + 1), c = weight(w, k + 2),
                  d = weight(w, k + 3);
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        if (i >= rows) break;
        const float4 in = *reinterpret_cast<const float4 *>(&x[i][k]);
        acc[i] = __fmaf_rn(a, in.x, acc[i]);
        acc[i] = __fmaf_rn(b, in.y, acc[i]);
        acc[i] = __fmaf_rn(c, in.z, acc[i]);
        acc[i] = __fmaf_rn(d, in.w, acc[i]);
      }
    }
  }
};

// A part of codes is a group of 64 inputs: 16 dwords of a row, then its scale. Sums of a span are
// times the weights' scales only.
template <typename F, int STAGES> struct FewCodes {
  static const int stages = STAGES, lines = F::lines, inputs = GROUP, words = GROUP / 4 + 4;
  typedef const int *Rows;
  static __device__ __forceinline__ long long all_lines(long long k) {
    return (k + GROUP - 1) / GROUP * lines;
  }
  static __device__ __forceinline__ void begin(unsigned *x, const int *codes, const float *scales,
                                               long long row, long long k, long long part) {
    const long long at = row * ((k + GROUP - 1) / GROUP) + part;
    const int i = threadIdx.x;
    if (i < GROUP / 4) begin_copy4(x + i, codes + at * (GROUP / 4) + i);
    if (i == GROUP / 4) begin_copy4(x + i, scales + at);
  }
  static __device__ __forceinline__ void add(float *acc, float *span, const unsigned *w,
                                             const unsigned (*x)[words], int rows, long long part,
                                             long long left) {
    const bool ends = ends_span(part, left);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      if (i >= rows) break;
      span[i] = F()(span[i], w, reinterpret_cast<const int *>(x[i]), threadIdx.x % 16);
      if (!ends) continue;
      acc[i] = __fmaf_rn(span[i], __uint_as_float(x[i][GROUP / 4]), acc[i]);
      span[i] = 0.0f;
    }
  }
};

template <typename F> struct alignas(16) FewShared {
  unsigned w[F::stages][FEW_BLOCKS][F::lines * LINE];
  unsigned x[F::stages][ROWS][F::words];
};

// Begins to copy a part of the weights and rows.
template <typename F>
__device__ __forceinline__ void begin_part(FewShared<F> &s, const MulPanel &p,
                                           typename F::Rows x, const float *scales, long long block,
                                           long long outputs, long long inputs, long long part) {
  const int stage = (int)(part % F::stages);
  const long long all = F::all_lines(inputs), first = part * F::lines;
  const int lines = all - first < F::lines ? (int)(all - first) : F::lines;
  for (int b = 0; b < FEW_BLOCKS && (block + b) * 16 < outputs; b++) {
    const unsigned *from = p.packed + ((block + b) * all + first) * LINE;
    for (int i = threadIdx.x; i < lines * (LINE / 4); i += FEW_THREADS)
      begin_copy16(s.w[stage][b] + 4 * i, from + 4 * i);
  }
  for (int i = 0; i < p.rows; i++) F::begin(s.x[stage][i], x, scales, p.first + i, inputs, part);
}

template <typename F>
__device__ __forceinline__ void mul_few(FewShared<F> &s, float *y, typename F::Rows x,
                                        const float *scales, const MulPanel *panels,
                                        long long outputs, long long inputs) {
  const MulPanel p = panels[blockIdx.x];
  const long long block = (long long)blockIdx.y * FEW_BLOCKS, n = block * 16 + threadIdx.x;
  const long long parts = (inputs + F::inputs - 1) / F::inputs;
  float acc[ROWS], span[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i++) acc[i] = span[i] = 0.0f;
  for (int part = 0; part < F::stages - 1; part++) {
    if (part < parts) begin_part(s, p, x, scales, block, outputs, inputs, part);
    end_copies();
  }
  for (long long part = 0; part < parts; part++) {
    wait_copies<F::stages - 2>();
    __syncthreads();  // all threads' copies of this part are there, and the last part was used
    const long long next = part + F::stages - 1;
    if (next < parts) begin_part(s, p, x, scales, block, outputs, inputs, next);
    end_copies();
    if (n >= outputs) continue;
    const int stage = (int)(part % F::stages);
    F::add(acc, span, s.w[stage][threadIdx.x / 16] + threadIdx.x % 16, s.x[stage], p.rows, part,
           inputs - part * F::inputs);
  }
  if (n >= outputs) return;
#pragma unroll
  for (int i = 0; i < ROWS; i++)
    if (i < p.rows) y[(p.first + i) * outputs + n] = acc[i];
}

extern "C" __global__ void __launch_bounds__(FEW_THREADS)
mul_few_f32(float *y, const float *x, const MulPanel *panels, long long outputs,
            long long inputs) {
  __shared__ FewShared<FewFloats<false>> s;
  mul_few(s, y, x, nullptr, panels, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(FEW_THREADS)
mul_few_bf16(float *y, const float *x, const MulPanel *panels, long long outputs,
             long long inputs) {
  __shared__ FewShared<FewFloats<true>> s;
  mul_few(s, y, x, nullptr, panels, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(FEW_THREADS)
mul_few_int8(float *y, const int *codes, const float *scales, const MulPanel *panels,
             long long outputs, long long inputs) {
  __shared__ FewShared<FewCodes<Int8<false>, 12>> s;
  mul_few(s, y, codes, scales, panels, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(FEW_THREADS)
mul_few_int4(float *y, const int *codes, const float *scales, const MulPanel *panels,
             long long outputs, long long inputs) {
  __shared__ FewShared<FewCodes<Int4<false>, 20>> s;
  mul_few(s, y, codes, scales, panels, outputs, inputs);
}
