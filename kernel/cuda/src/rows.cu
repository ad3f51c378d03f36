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
