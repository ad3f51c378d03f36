// Choices of the largest: experts by the gate (moe/gate.go), and candidates for sampling
// (coordinator/sample.go). Of equal ones the lower number is better.

#include "drover.h"

// A thread has a row of logits, (rows, experts), and fills its k experts, best first, by
// insertion as moe.topK does, and their weights, the logits' sigmoids. k is at most experts.
extern "C" __global__ void gate_topk(int *experts, float *weights, const float *logits,
                                     long long rows, long long count, long long k) {
  const long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows || k < 1) return;
  const float *values = logits + row * count;
  int *best = experts + row * k;
  float last = 0.0f;  // the value of the last of best, once there are k
  for (int i = 0; i < count; i++) {
    const float v = __ldg(values + i);
    if (i >= k && !(v > last)) continue;
    int j = i < k ? i : (int)k - 1;
    for (; j > 0 && v > values[best[j - 1]]; j--) best[j] = best[j - 1];
    best[j] = i;
    last = values[best[i < k ? i : k - 1]];
  }
  for (int j = 0; j < k; j++) {
    const float v = values[best[j]];
    weights[row * k + j] = __fdiv_rn(1.0f, __fadd_rn(1.0f, exp32(-v)));
  }
}

#define CHOOSE_THREADS 512
#define CHOOSE_KEYS 2048  // what a block of threads sorts
#define CHOOSE_NONE 0ull

// A key is larger for a better candidate: the logit's bits in the order of numbers, then
// the token's complement. Both zeros are one number; NaN is behind all.
__device__ __forceinline__ unsigned long long choose_key(float v, unsigned token) {
  const unsigned u = v == 0.0f ? 0u : __float_as_uint(v);
  const unsigned order = v != v ? 0u : u >> 31 ? ~u : u | 0x80000000u;
  return (unsigned long long)order << 32 | (0xffffffffu - token);
}

// Sorts keys, best first: Batcher's bitonic network.
__device__ __forceinline__ void choose_sort(unsigned long long *keys) {
  for (int size = 2; size <= CHOOSE_KEYS; size *= 2) {
    for (int apart = size / 2; apart > 0; apart /= 2) {
      __syncthreads();
      for (int t = threadIdx.x; t < CHOOSE_KEYS / 2; t += CHOOSE_THREADS) {
        const int i = t / apart * 2 * apart + t % apart, j = i + apart;
        const unsigned long long a = keys[i], b = keys[j];
        if ((a < b) == ((i & size) == 0)) keys[i] = b, keys[j] = a;
      }
    }
  }
  __syncthreads();
}

// Each block of threads chooses the k best, at most 1024, of 2048 logits of a row: row
// blockIdx.y of (rows, count). best is (rows, gridDim.x, k) keys; missing ones are 0.
extern "C" __global__ void __launch_bounds__(CHOOSE_THREADS)
sample_topk(unsigned long long *best, const float *logits, long long count, long long k) {
  __shared__ unsigned long long keys[CHOOSE_KEYS];
  const long long first = (long long)blockIdx.x * CHOOSE_KEYS;
  const float *row = logits + blockIdx.y * count;
  for (int t = threadIdx.x; t < CHOOSE_KEYS; t += CHOOSE_THREADS)
    keys[t] = first + t < count ? choose_key(row[first + t], (unsigned)(first + t)) : CHOOSE_NONE;
  choose_sort(keys);
  best += ((long long)blockIdx.y * gridDim.x + blockIdx.x) * k;
  for (int t = threadIdx.x; t < k; t += CHOOSE_THREADS) best[t] = keys[t];
}

// Chooses the k best of keys, (rows, count), that launches before this one chose. It is
// repeated until a row has one block of threads.
extern "C" __global__ void __launch_bounds__(CHOOSE_THREADS)
sample_merge(unsigned long long *best, const unsigned long long *chosen, long long count,
             long long k) {
  __shared__ unsigned long long keys[CHOOSE_KEYS];
  const long long first = (long long)blockIdx.x * CHOOSE_KEYS;
  const unsigned long long *row = chosen + blockIdx.y * count;
  for (int t = threadIdx.x; t < CHOOSE_KEYS; t += CHOOSE_THREADS)
    keys[t] = first + t < count ? row[first + t] : CHOOSE_NONE;
  choose_sort(keys);
  best += ((long long)blockIdx.y * gridDim.x + blockIdx.x) * k;
  for (int t = threadIdx.x; t < k; t += CHOOSE_THREADS) best[t] = keys[t];
}

// The tokens and logits of keys.
extern "C" __global__ void sample_read(int *tokens, float *logits, const unsigned long long *best,
                                       long long n) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const unsigned order = (unsigned)(best[i] >> 32);
  tokens[i] = (int)(0xffffffffu - (unsigned)best[i]);
  logits[i] = __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
}
