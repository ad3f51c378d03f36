// Products of many rows with weights of e4m3 on tensor cores, as those of bfloat16 in
// mul_tensor.cu: rows are sums of two bfloat16, and codes are bfloat16 without loss. Sums of 32
// inputs, half a group, begin at zero and are multiplied by its scale, in one chain of
// multiply-adds over ascending halves, the same for each row whatever stands beside it. Weights
// are not rounded to float32 before they are multiplied, as those of mul_fp8 are, and the order
// of a sum is the hardware's: this is a kernel class of its own.

#pragma once
#include "mul_fp8.cu"
#include "mul_tensor.cu"

// Two codes of four as bfloat16 times 2^-8, so that the largest is less than 2: the first two, or
// the others. As in fp8_weight the bits of a code are those of a number times 2^-120.
__device__ __forceinline__ unsigned e4m3_pair(unsigned four, bool others) {
  const unsigned two = __byte_perm(four, 0, others ? 0x3424 : 0x1404);
  return times_2_112((two & 0x80008000u) | (two >> 4 & 0x07f007f0u));
}

// A slab is half a group: 8 lines of codes, and the group's scales behind them.
struct TensorFP8 {
  static const int lines = 9, inputs = 32, parts = 2;
  static const bool scaled = true, row_scales = false;
  unsigned a[2][4];
  float scales[2];

  static __device__ __forceinline__ long long all_lines(long long k) { return fp8_lines(k); }
  static __device__ __forceinline__ int scale_line(int odd) { return odd ? 8 : 16; }
  static __device__ __forceinline__ int step(int odd) { return odd ? 9 : 8; }
  static const int copies = 2;
  static __device__ __forceinline__ int line(int t, int i) { return TensorInt4::line(t, i); }
  __device__ __forceinline__ void load(const unsigned *w, Lane at) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint2 two = weight_words(w, half, at);
      a[half][0] = e4m3_pair(two.x, false), a[half][1] = e4m3_pair(two.y, false);
      a[half][2] = e4m3_pair(two.x, true), a[half][3] = e4m3_pair(two.y, true);
    }
    // Scales are stored times 2^120, codes are here times 2^-8.
#pragma unroll
    for (int i = 0; i < 2; i++)
      scales[i] = __fmul_rn(__uint_as_float(w[8 * LINE + 2 * at.row + i]), 0x1p-112f);
  }
  // Line l has inputs of the words 2*l and 2*l+1 of a row.
  static __device__ __forceinline__ uint4 row_words(const unsigned *x, Lane at) {
    return TensorInt4::row_words(x, at);
  }
  __device__ __forceinline__ void add(float (&acc)[4], const uint4 (&words)[parts]) const {
    float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int part = 0; part < parts; part++) {
      mma_bf16(c, a[0], words[part].x, words[part].y);
      mma_bf16(c, a[1], words[part].z, words[part].w);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) add_sum(acc[i], c[i], i);
  }
  // Adds the i-th sum of half a group to the thread's.
  __device__ __forceinline__ void add_sum(float &acc, float sum, int i) const {
    acc = __fmaf_rn(sum, scales[i / 2], acc);
  }
};

typedef Tensor<TensorFP8, 4, 2, 8, 2> ManyFP8;
typedef Tensor<TensorFP8, 1, 1, 2, 14> NarrowFP8;

extern "C" __global__ void __launch_bounds__(ManyFP8::threads)
mul_tensor_fp8(float *y, const int *halves, const MulPanel *panels, long long outputs,
               long long inputs) {
  __shared__ ManyFP8::Shared s;
  mul_tensor<ManyFP8>(s, y, halves, nullptr, panels, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(NarrowFP8::threads)
mul_narrow_fp8(float *y, const int *halves, const MulPanel *panels, long long outputs,
               long long inputs) {
  __shared__ NarrowFP8::Shared s;
  mul_tensor<NarrowFP8>(s, y, halves, nullptr, panels, outputs, inputs);
}
