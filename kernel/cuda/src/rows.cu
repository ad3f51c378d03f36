// Operations on rows. Each element, or each pair of elements that rotate together,
// belongs to one thread; products and sums are rounded one by one, never fused.

#include "drover.h"

__device__ __forceinline__ long long element() {
  return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}

// y += x
extern "C" __global__ void add_rows(float *y, const float *x, long long n) {
  const long long i = element();
  if (i < n) y[i] = __fadd_rn(y[i], x[i]);
}

// x, (rows, dim), times the factor of its row
extern "C" __global__ void scale_rows(float *x, const float *factors, long long n,
                                      long long dim) {
  const long long i = element();
  if (i < n) x[i] = __fmul_rn(x[i], factors[i / dim]);
}

// Rotates heads of 2*half elements by the angles in rows of cos and sin: element j of a
// head with its neighbour, or where halves is not 0, with element j + half.
extern "C" __global__ void rotate_rows(float *x, const float *cos, const float *sin,
                                       long long pairs, long long dim, long long half,
                                       long long halves) {
  const long long i = element();
  if (i >= pairs) return;
  const long long row = i / (dim / 2), at = i % (dim / 2), head = at / half, j = at % half;
  float *h = x + row * dim + head * 2 * half;
  float *first = halves ? h + j : h + 2 * j, *second = halves ? h + half + j : h + 2 * j + 1;
  const float a = *first, b = *second, c = cos[row * half + j], s = sin[row * half + j];
  *first = __fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s));
  *second = __fadd_rn(__fmul_rn(a, s), __fmul_rn(b, c));
}

// Rows of x, (tokens, dim), are the table's rows of those tokens. type is 0 for float32, 1
// for bfloat16, 2 for float16.
extern "C" __global__ void embed_rows(float *x, const void *table, const int *tokens,
                                      long long n, long long dim, long long type) {
  const long long i = element();
  if (i >= n) return;
  const long long at = tokens[i / dim] * dim + i % dim;
  if (type == 0) {
    x[i] = static_cast<const float *>(table)[at];
    return;
  }
  const unsigned h = static_cast<const unsigned short *>(table)[at];
  x[i] = type == 1 ? __uint_as_float(h << 16) : widen_half(h);
}

// Row i of y, (rows, dim), is row picks[i] of x, times weights[i] if weighted is not 0,
// rounded to bfloat16 if narrow is not 0.
extern "C" __global__ void gather_rows(float *y, const float *x, const int *picks,
                                       const float *weights, long long n, long long dim,
                                       long long weighted, long long narrow) {
  const long long i = element();
  if (i >= n) return;
  float v = x[picks[i / dim] * dim + i % dim];
  if (weighted) v = __fmul_rn(v, weights[i / dim]);
  if (narrow) v = __uint_as_float(narrow_bf16(v) << 16);
  y[i] = v;
}

// Row i of x, (rows, dim), times weights[i] if weighted is not 0, is added to row picks[i]
// of y. A thread has a column of y, so rows are added one after the other, ascending.
extern "C" __global__ void scatter_rows(float *y, const float *x, const int *picks,
                                        const float *weights, long long rows, long long dim,
                                        long long weighted) {
  const long long column = element();
  if (column >= dim) return;
  for (long long i = 0; i < rows; i++) {
    float v = x[i * dim + column];
    if (weighted) v = __fmul_rn(v, weights[i]);
    float *sum = y + picks[i] * dim + column;
    *sum = __fadd_rn(*sum, v);
  }
}
