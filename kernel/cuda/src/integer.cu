// What products with weights of 8 and 4 bits need: kernel/integer.go has the formulas. Rows
// are quantised first, a warp for each span of 256 inputs, four groups of 64; products of codes
// are exact integers. A thread adds the groups of a span times the weights' scales in one chain,
// and the spans times the row's in another one, both ascending (K1, K3): mul_few.cu for the
// fewest rows, mul_tensor.cu for more.

#pragma once
#include "drover.h"

#define GROUP 64
#define SPAN 4    // groups that share a row's scale
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

// Whether a group is the last one of its span: left inputs begin with it.
__device__ __forceinline__ bool ends_span(long long group, long long left) {
  return group % SPAN == SPAN - 1 || left <= GROUP;
}

// x is (rows, inputs); codes (rows, groups, 64) int8, in words of an order, scales (rows, groups):
// each group has its span's, so that products copy a group and its scale whichever it is. A warp
// has a span, and each of its threads two words. Of magnitudes the bits are in order, too, NaNs
// behind the infinity.
extern "C" __global__ void quantise_rows(int *codes, float *scales, const float *x,
                                         long long rows, long long inputs, long long order) {
  const long long groups = (inputs + GROUP - 1) / GROUP, spans = (groups + SPAN - 1) / SPAN;
  const long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (i >= rows * spans) return;
  const long long row = i / spans, first = i % spans * SPAN, left = inputs - first * GROUP;
  const float *in = x + row * inputs + first * GROUP;
  const int lane = threadIdx.x % 32;
  float v[2][4];
  unsigned bits = 0;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const int k = 4 * lane + j / 4 * 128 + j % 4;
    v[j / 4][j % 4] = k < left ? in[k] : 0.0f;
    const unsigned magnitude = __float_as_uint(fabsf(v[j / 4][j % 4]));
    if (magnitude > bits) bits = magnitude;
  }
  float inverse;
  const float scale = code_scale(__uint_as_float(warp_max(bits)), &inverse);
#pragma unroll
  for (int j = 0; j < 2; j++) {
    const long long group = first + 2 * j + lane / 16;
    if (group >= groups) return;
    unsigned word = 0;
    for (int k = 0; k < 4; k++) word |= ((unsigned)code_of(v[j][k], inverse) & 255u) << 8 * k;
    const long long at = row * groups + group;
    codes[at * (GROUP / 4) + word_place(lane % 16, order)] = (int)word;
    if (lane % 16 == 0) scales[at] = scale;
  }
}

// Adds a group of a row times a group of an output to a span's sum, without the row's scale.
// Weights are in global memory, or shared.
template <bool GLOBAL> __device__ __forceinline__ unsigned weights_at(const unsigned *w) {
  return GLOBAL ? __ldg(w) : *w;
}

template <bool GLOBAL> struct Int8 {
  static const int lines = 17;
  __device__ __forceinline__ float operator()(float span, const unsigned *w, const int *codes,
                                              int) const {
    int dot = 0;
#pragma unroll
    for (int l = 0; l < 16; l++)  // codes are stored +128
      dot = __dp4a((int)(weights_at<GLOBAL>(w + l * LINE8) ^ 0x80808080u), codes[l], dot);
    const float scale = __uint_as_float(weights_at<GLOBAL>(w + 16 * LINE8));
    return __fmaf_rn(__int2float_rn(dot), scale, span);
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
  __device__ __forceinline__ float operator()(float span, const unsigned *w, const int *codes,
                                              int r) const {
    const unsigned *scales = w - r + 8 * LINE8;
    const unsigned first = weights_at<GLOBAL>(scales + r / 2) >> 16 * (r % 2) & 0xffffu;
    const unsigned second = weights_at<GLOBAL>(scales + 8 + r / 2) >> 16 * (r % 2) & 0xffffu;
    span = __fmaf_rn(__int2float_rn(half(w, codes)), widen_half(first), span);
    return __fmaf_rn(__int2float_rn(half(w + 4 * LINE8, codes + 8)), widen_half(second), span);
  }
};
