// What products with weights of 8 and 4 bits need: kernel/integer.go has the formulas. Rows
// are quantised first, a thread for each group of 64 inputs; products of codes are exact
// integers, and a thread adds its groups in one chain over ascending groups (K1, K3):
// mul_few.cu for the fewest rows, mul_tensor.cu for more.

#pragma once
#include "drover.h"

#define GROUP 64
#define LINE8 16  // dwords

// Where a word of the 16 of a row's slab stands. Products of warpgroups want those in a row that
// the threads of a warp have of weights, a word of a line each (mul_hopper.cu):
//
//	order 0  where it is
//	      1  words 0, 4, 8, 12 first, then 1, 5, 9, 13, and so on
//	      2  of each 8 the even ones first
__device__ __forceinline__ int word_place(int word, long long order) {
  return order == 0   ? word
         : order == 1 ? word % 4 * 4 + word / 4
                      : word / 8 * 8 + word % 2 * 4 + word % 8 / 2;
}

// x is (rows, inputs); codes (rows, groups, 64) int8, in words of an order, scales (rows, groups).
extern "C" __global__ void quantise_rows(int *codes, float *scales, const float *x,
                                         long long rows, long long inputs, long long order) {
  const long long groups = (inputs + GROUP - 1) / GROUP;
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * groups) return;
  const float *in = x + i / groups * inputs + i % groups * GROUP;
  const long long left = inputs - i % groups * GROUP;
  const int n = left < GROUP ? (int)left : GROUP;
  float inverse;
  scales[i] = code_scale(in, n, &inverse);
  for (int four = 0; four < GROUP / 4; four++) {
    unsigned word = 0;
    for (int j = 0; j < 4; j++) {
      const int k = 4 * four + j;
      const int code = k >= n ? 0 : code_of(in[k], inverse);
      word |= ((unsigned)code & 255u) << 8 * j;
    }
    codes[i * (GROUP / 4) + word_place(four, order)] = (int)word;
  }
}

// A group of a row times a group of an output, without the row's scale. Weights are in global
// memory, or shared.
template <bool GLOBAL> __device__ __forceinline__ unsigned weights_at(const unsigned *w) {
  return GLOBAL ? __ldg(w) : *w;
}

template <bool GLOBAL> struct Int8 {
  static const int lines = 17;
  __device__ __forceinline__ float operator()(const unsigned *w, const int *codes) const {
    int dot = 0;
#pragma unroll
    for (int l = 0; l < 16; l++)  // codes are stored +128
      dot = __dp4a((int)(weights_at<GLOBAL>(w + l * LINE8) ^ 0x80808080u), codes[l], dot);
    const float scale = __uint_as_float(weights_at<GLOBAL>(w + 16 * LINE8));
    return __fmul_rn(__int2float_rn(dot), scale);
  }
};

template <bool GLOBAL> struct Int4 {
  static const int lines = 9;
  __device__ __forceinline__ int half(const unsigned *w, const int *codes) const {
    int dot = 0, sum = 0;
#pragma unroll
    for (int l = 0; l < 4; l++) {  // codes are stored +8
      const unsigned eight = weights_at<GLOBAL>(w + l * LINE8);
      dot = __dp4a((int)(eight & 0x0f0f0f0fu), codes[2 * l], dot);
      dot = __dp4a((int)(eight >> 4 & 0x0f0f0f0fu), codes[2 * l + 1], dot);
      sum = __dp4a(0x01010101, codes[2 * l], sum);
      sum = __dp4a(0x01010101, codes[2 * l + 1], sum);
    }
    return dot - 8 * sum;
  }
  // w is the output's dword of a line, so r is its number in the block.
  __device__ __forceinline__ float operator()(const unsigned *w, const int *codes, int r) const {
    const unsigned *scales = w - r + 8 * LINE8;
    const unsigned first = weights_at<GLOBAL>(scales + r / 2) >> 16 * (r % 2) & 0xffffu;
    const unsigned second = weights_at<GLOBAL>(scales + 8 + r / 2) >> 16 * (r % 2) & 0xffffu;
    const float t = __fmul_rn(__int2float_rn(half(w, codes)), widen_half(first));
    return __fmaf_rn(__int2float_rn(half(w + 4 * LINE8, codes + 8)), widen_half(second), t);
  }
};

template <bool GLOBAL>
__device__ __forceinline__ float group(const Int8<GLOBAL> &f, const unsigned *w, const int *c,
                                       int) {
  return f(w, c);
}
template <bool GLOBAL>
__device__ __forceinline__ float group(const Int4<GLOBAL> &f, const unsigned *w, const int *c,
                                       int r) {
  return f(w, c, r);
}
