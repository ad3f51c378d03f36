// RMSNorm and SwiGLU: kernel/ops.go and kernel/exp.go have the formulas. A norm is three
// launches, none of whose threads waits for another: sums of squares, a thread for each of
// a row's 16 sums; the rows' factors; the elements.

#include "drover.h"

#define LANES 16

// sums is (rows, 16): element i of a row belongs to sum i % 16.
extern "C" __global__ void norm_sums(double *sums, const float *x, long long rows,
                                     long long dim) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * LANES) return;
  const float *in = x + i / LANES * dim;
  double sum = 0.0;
  for (long long k = i % LANES; k < dim; k += LANES) {
    const double v = in[k];
    sum = __dadd_rn(sum, __dmul_rn(v, v));
  }
  sums[i] = sum;
}

// Sums that lie half of them apart are added in pairs.
extern "C" __global__ void norm_factors(float *factors, const double *sums, long long rows,
                                        long long dim, double eps) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows) return;
  double s[LANES];
#pragma unroll
  for (int l = 0; l < LANES; l++) s[l] = sums[i * LANES + l];
#pragma unroll
  for (int n = LANES / 2; n > 0; n /= 2) {
#pragma unroll
    for (int l = 0; l < LANES / 2; l++)
      if (l < n) s[l] = __dadd_rn(s[l], s[l + n]);
  }
  const double mean = __ddiv_rn(s[0], (double)dim);
  factors[i] = __double2float_rn(__ddiv_rn(1.0, __dsqrt_rn(__dadd_rn(mean, eps))));
}

// y = weight * (x * factor), or without weight if weighted is 0.
extern "C" __global__ void norm_apply(float *y, const float *x, const float *factors,
                                      const float *weight, long long n, long long dim,
                                      long long weighted) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float v = __fmul_rn(x[i], factors[i / dim]);
  y[i] = weighted ? __fmul_rn(weight[i % dim], v) : v;
}

// y = silu(gate) * up; h is (rows, 2*width), gate then up, y (rows, width).
extern "C" __global__ void swiglu_rows(float *y, const float *h, long long n,
                                       long long width) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float *gate = h + i / width * 2 * width + i % width;
  const float g = *gate;
  if (g != g) {  // the steps of exp32 on a NaN mean nothing
    y[i] = g;
    return;
  }
  y[i] = __fmul_rn(__fdiv_rn(g, __fadd_rn(1.0f, exp32(-g))), gate[width]);
}
