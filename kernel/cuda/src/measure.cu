// What a GPU can do at most, for the kernels to be held against: reading memory, and
// arithmetic that nothing waits for. Each thread writes what came out, which is checked: a
// measurement counts only if the work was done.

#include "drover.h"
#include "hopper.h"
#include "tensor.h"

#define READS 16
#define CHAINS 8

// Thread t of a block adds up the words of READS pieces of 16 bytes, a block's width apart.
extern "C" __global__ void __launch_bounds__(256) measure_read(unsigned *sums, const uint4 *x) {
  const uint4 *p = x + (long long)blockIdx.x * READS * blockDim.x + threadIdx.x;
  uint4 v[READS];
#pragma unroll
  for (int i = 0; i < READS; i++) v[i] = p[i * blockDim.x];
  unsigned sum = 0;
#pragma unroll
  for (int i = 0; i < READS; i++) sum += v[i].x + v[i].y + v[i].z + v[i].w;
  sums[(long long)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// CHAINS sums of times products of a and b. They begin at 0, 1, 2 and so on: were they alike,
// the compiler would compute one.
extern "C" __global__ void __launch_bounds__(256) measure_fma(float *sums, const float *ab,
                                                               long long times) {
  const float a = ab[0], b = ab[1];
  float c[CHAINS];
#pragma unroll
  for (int i = 0; i < CHAINS; i++) c[i] = __int2float_rn(i);
#pragma unroll 4
  for (long long n = 0; n < times; n++) {
#pragma unroll
    for (int i = 0; i < CHAINS; i++) c[i] = __fmaf_rn(a, b, c[i]);
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < CHAINS; i++) sum = __fadd_rn(sum, c[i]);
  sums[(long long)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// The same for four products of 8 bits at a time.
extern "C" __global__ void __launch_bounds__(256) measure_int8(int *sums, const int *ab,
                                                                long long times) {
  const int a = ab[0], b = ab[1];
  int c[CHAINS];
#pragma unroll
  for (int i = 0; i < CHAINS; i++) c[i] = i;
#pragma unroll 4
  for (long long n = 0; n < times; n++) {
#pragma unroll
    for (int i = 0; i < CHAINS; i++) c[i] = __dp4a(a, b, c[i]);
  }
  int sum = 0;
#pragma unroll
  for (int i = 0; i < CHAINS; i++) sum += c[i];
  sums[(long long)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// CHAINS sums of times products on tensor cores, of bfloat16; all elements of A are alike, and
// all of B.
extern "C" __global__ void __launch_bounds__(256) measure_bf16(float *sums, const unsigned *ab,
                                                                long long times) {
  const unsigned a[4] = {ab[0], ab[0], ab[0], ab[0]}, b = ab[1];
  float c[CHAINS][4];
#pragma unroll
  for (int i = 0; i < CHAINS; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) c[i][j] = __int2float_rn(i);
  }
#pragma unroll 4
  for (long long n = 0; n < times; n++) {
#pragma unroll
    for (int i = 0; i < CHAINS; i++) mma_bf16(c[i], a, b, b);
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < CHAINS; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) sum = __fadd_rn(sum, c[i][j]);
  }
  sums[(long long)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// The same of 8-bit integers.
extern "C" __global__ void __launch_bounds__(256)
measure_tensor_int8(int *sums, const unsigned *ab, long long times) {
  const unsigned a[4] = {ab[0], ab[0], ab[0], ab[0]}, b = ab[1];
  int c[CHAINS][4];
#pragma unroll
  for (int i = 0; i < CHAINS; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) c[i][j] = i;
  }
#pragma unroll 4
  for (long long n = 0; n < times; n++) {
#pragma unroll
    for (int i = 0; i < CHAINS; i++) mma_int8(c[i], a, b, b);
  }
  int sum = 0;
#pragma unroll
  for (int i = 0; i < CHAINS; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) sum += c[i][j];
  }
  sums[(long long)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

#define GROUP_CHAINS 2  // of 64 outputs and as many rows, of a warpgroup

// 64 rows in shared memory that are all alike.
__device__ __forceinline__ unsigned long long alike_rows(const unsigned *ab) {
  begin_copy16(dynamic_shared + 16 * threadIdx.x, ab);
  end_copies();
  wait_copies<0>();
  show_copies();
  __syncthreads();
  return columns_at(dynamic_shared);
}

// The same by products of warpgroups, of bfloat16; ab is four words.
extern "C" __global__ void __launch_bounds__(256)
measure_hopper_bf16(float *sums, const unsigned *ab, long long times) {
  const unsigned a[4] = {ab[0], ab[0], ab[0], ab[0]};
  const unsigned long long rows = alike_rows(ab);
  float c[GROUP_CHAINS][8][4];
#pragma unroll
  for (int i = 0; i < GROUP_CHAINS * 32; i++) c[i / 32][i / 4 % 8][i % 4] = __int2float_rn(i / 32);
#pragma unroll
  for (int i = 0; i < GROUP_CHAINS; i++) use_sums(c[i]);
  for (long long n = 0; n < times; n++) {
    begin_products();
#pragma unroll
    for (int i = 0; i < GROUP_CHAINS; i++) group_bf16<true>(c[i], a, rows);
    end_products();
    wait_products<1>();
  }
  wait_products<0>();
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < GROUP_CHAINS; i++) {
    use_sums(c[i]);
#pragma unroll
    for (int j = 0; j < 32; j++) sum = __fadd_rn(sum, c[i][j / 4][j % 4]);
  }
  sums[(long long)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// And of 8-bit integers.
extern "C" __global__ void __launch_bounds__(256)
measure_hopper_int8(int *sums, const unsigned *ab, long long times) {
  const unsigned a[4] = {ab[0], ab[0], ab[0], ab[0]};
  const unsigned long long rows = alike_rows(ab);
  int c[GROUP_CHAINS][8][4];
#pragma unroll
  for (int i = 0; i < GROUP_CHAINS * 32; i++) c[i / 32][i / 4 % 8][i % 4] = i / 32;
#pragma unroll
  for (int i = 0; i < GROUP_CHAINS; i++) use_sums(c[i]);
  for (long long n = 0; n < times; n++) {
    begin_products();
#pragma unroll
    for (int i = 0; i < GROUP_CHAINS; i++) group_int8<true>(c[i], a, rows);
    end_products();
    wait_products<1>();
  }
  wait_products<0>();
  int sum = 0;
#pragma unroll
  for (int i = 0; i < GROUP_CHAINS; i++) {
    use_sums(c[i]);
#pragma unroll
    for (int j = 0; j < 32; j++) sum += c[i][j / 4][j % 4];
  }
  sums[(long long)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

#endif
