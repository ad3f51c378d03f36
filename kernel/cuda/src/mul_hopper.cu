// Products of many rows on Hopper's tensor cores, by warpgroups (hopper.h): 256 outputs of up to
// 128 rows. Weights are A, from registers, as in mul_tensor.cu, so that a dword of the packed
// weights is a word of A as it stands; rows are B, which tensor cores read from shared memory
// themselves. Words of rows come in the order that makes them the words of the same inputs: see
// word_place. Sums of integers are exact, and those of bfloat16 take the same inputs in the same
// steps, so the bytes are those of mul_tensor: of integers by arithmetic, of floats if the
// hardware rounds both kinds of products alike, which the self-test asks it.

#pragma once
#include "hopper.h"
#include "mul_tensor.cu"
#include "mul_tensor_fp8.cu"

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// A unit is what is multiplied together, and then added while the next one is multiplied: of a
// warpgroup's 64 outputs the products of a slab of unit tiles of rows. sums is how many sums it
// has of each.
struct HopperInt8 : TensorInt8 {
  typedef int Sum;
  static const int unit = 8, sums = 1;
  // rows are the descriptors of a unit's rows, of each part.
  __device__ __forceinline__ void multiply(Sum (&c)[sums][unit][4],
                                           const unsigned long long (&rows)[parts]) const {
    group_int8<false>(c[0], a[0], rows[0]);
    group_int8<true>(c[0], a[1], further(rows[0], 32));
  }
  __device__ __forceinline__ void add(float (&acc)[4], const Sum (&c)[sums][unit][4], int tile,
                                      const float (&rows)[2]) const {
#pragma unroll
    for (int i = 0; i < 4; i++) add_sum(acc[i], __int2float_rn(c[0][tile][i]), i, rows);
  }
};

struct HopperInt4 : TensorInt4 {
  typedef int Sum;
  static const int unit = 4, sums = 2;
  __device__ __forceinline__ void multiply(Sum (&c)[sums][unit][4],
                                           const unsigned long long (&rows)[parts]) const {
    group_int8<false>(c[0], a[0], rows[0]);
    group_int8<false>(c[1], a[1], further(rows[0], 32));
  }
  __device__ __forceinline__ void add(float (&acc)[4], const Sum (&c)[sums][unit][4], int tile,
                                      const float (&rows)[2]) const {
#pragma unroll
    for (int i = 0; i < 4; i++)
      add_sums(acc[i], __int2float_rn(c[0][tile][i]), __int2float_rn(c[1][tile][i]), i, rows);
  }
};

struct HopperFP8 : TensorFP8 {
  typedef float Sum;
  static const int unit = 8, sums = 1;
  __device__ __forceinline__ void multiply(Sum (&c)[sums][unit][4],
                                           const unsigned long long (&rows)[parts]) const {
    group_bf16<false>(c[0], a[0], rows[0]);
    group_bf16<true>(c[0], a[1], further(rows[0], 32));
    group_bf16<true>(c[0], a[0], rows[1]);
    group_bf16<true>(c[0], a[1], further(rows[1], 32));
  }
  __device__ __forceinline__ void add(float (&acc)[4], const Sum (&c)[sums][unit][4], int tile,
                                      const float (&)[2]) const {
#pragma unroll
    for (int i = 0; i < 4; i++) add_sum(acc[i], c[0][tile][i], i);
  }
};

// Two warpgroups, whose warps have WARP_BLOCKS blocks of outputs each and all rows. Of STAGES
// slabs in shared memory STAGES - 2 are copied ahead, one is multiplied, and of the one before the
// last unit may still be.
template <typename FORMAT, int STAGES> struct Hopper {
  static_assert(STAGES % 2 == 0 || !FORMAT::scaled, "slabs come in pairs");
  typedef FORMAT F;
  static const int warps = 8, tiles = 16, stages = STAGES;
  static const int blocks = warps * WARP_BLOCKS, threads = warps * 32, rows = tiles * TILE_ROWS;
  static const int copies = F::copies;
  static __device__ __forceinline__ int piece(int row, int piece) {
    return column_piece(row, piece);
  }

  struct Shared {
    alignas(1024) unsigned x[STAGES][F::parts][rows][SLAB_WORDS];
    unsigned w[STAGES][blocks][F::lines * LINE];
  };
};
template <typename FORMAT, int STAGES> struct HopperScaled : Hopper<FORMAT, STAGES> {
  struct Shared : Hopper<FORMAT, STAGES>::Shared {
    float scales[STAGES][Hopper<FORMAT, STAGES>::rows];
  };
};

// Waits for the next slab of all threads, and begins to copy another one.
template <typename T>
__device__ __forceinline__ void next_slab(typename T::Shared &s, TensorCopy<T> &copy, int stage,
                                          bool more) {
  wait_copies<T::stages - 3>();
  show_copies();
  __syncthreads();
  if (more) copy.begin(s, stage < 2 ? stage + T::stages - 2 : stage - 2);
  end_copies();
}

template <typename T>
__device__ __forceinline__ void first_copies(typename T::Shared &s, TensorCopy<T> &copy,
                                             long long slabs) {
  for (int i = 0; i < T::stages - 2; i++) {
    if (i < slabs) copy.begin(s, i);
    end_copies();
  }
}

// Begins to multiply a unit: of its rows those from tile on.
template <typename T>
__device__ __forceinline__ void begin_unit(
    typename T::F::Sum (&c)[T::F::sums][T::F::unit][4], const typename T::F &f,
    const typename T::Shared &s, int stage, int tile) {
  unsigned long long rows[T::F::parts];
#pragma unroll
  for (int part = 0; part < T::F::parts; part++)
    rows[part] = columns_at(s.x[stage][part][tile * TILE_ROWS]);
  begin_products();
  f.multiply(c, rows);
  end_products();
}

// Adds a unit's sums, which are there.
template <typename T>
__device__ __forceinline__ void add_unit(float (&acc)[T::tiles][4],
                                         typename T::F::Sum (&c)[T::F::sums][T::F::unit][4],
                                         const typename T::F &f, const typename T::Shared &s,
                                         int stage, int tile) {
  const Lane at;
#pragma unroll
  for (int i = 0; i < T::F::sums; i++) use_sums(c[i]);
#pragma unroll
  for (int i = 0; i < T::F::unit; i++) {
    float rows[2] = {1.0f, 1.0f};
    if constexpr (T::F::row_scales) {
      const float *scales = &s.scales[stage][(tile + i) * TILE_ROWS + 2 * at.word];
      rows[0] = scales[0], rows[1] = scales[1];
    }
    f.add(acc[tile + i], c, i, rows);
  }
}

// What a warp has of a unit that is multiplied and one that is added, and of weights.
template <typename T> struct Units {
  static const int count = T::tiles / T::F::unit;  // of a block
  typename T::F::Sum c[2][T::F::sums][T::F::unit][4];
  typename T::F f[WARP_BLOCKS];
};

// Adds a slab, whose first unit is multiplied when it begins; as the next one's is at the end,
// unless this is the LAST of two: more says whether there is another one to copy.
template <typename T, bool LAST>
__device__ __forceinline__ void add_slab_units(float (&acc)[WARP_BLOCKS][T::tiles][4],
                                               typename T::Shared &s, Units<T> &q,
                                               TensorCopy<T> &copy, int stage, bool more) {
  const int units = Units<T>::count, unit = T::F::unit;
  const int block = threadIdx.x / 32 * WARP_BLOCKS;
  const Lane at;
#pragma unroll
  for (int u = 0; u < WARP_BLOCKS * units; u++) {
    const int j = u / units, after = u + 1;
    if (after < WARP_BLOCKS * units) {
      if (after % units == 0) q.f[after / units].load(s.w[stage][block + after / units], at);
      begin_unit<T>(q.c[after % 2], q.f[after / units], s, stage, after % units * unit);
    } else if (!LAST) {
      next_slab<T>(s, copy, stage + 1, more);
      q.f[0].load(s.w[stage + 1][block], at);
      begin_unit<T>(q.c[0], q.f[0], s, stage + 1, 0);
    }
    if (LAST && after == WARP_BLOCKS * units)
      wait_products<0>();
    else
      wait_products<1>();
    add_unit<T>(acc[j], q.c[u % 2], q.f[j], s, stage, u % units * unit);
  }
}

// Formats with scales: sums of a slab are added on ordinary lanes, unit by unit, while the next
// one is multiplied. Only behind each second slab there is none, since the compiler has
// products that go on from one round of a loop to the next wait for each other.
template <typename T>
__device__ __forceinline__ void mul_units(typename T::Shared &s, float *y, const int *x,
                                          const float *scales, const MulPanel *panels,
                                          long long outputs, long long inputs) {
  typedef typename T::F F;
  const MulPanel p = panels[blockIdx.x];
  const long long slabs = (inputs + F::inputs - 1) / F::inputs;
  TensorCopy<T> copy(p, x, scales, outputs, inputs);
  float acc[WARP_BLOCKS][T::tiles][4];
  clear_sums<T>(acc);
  first_copies<T>(s, copy, slabs);
  const int block = threadIdx.x / 32 * WARP_BLOCKS;
  int stage = 0;
  for (long long slab = 0; slab < slabs; slab += 2) {
    Units<T> q;
    next_slab<T>(s, copy, stage, slab + T::stages - 2 < slabs);
    q.f[0].load(s.w[stage][block], Lane());
    begin_unit<T>(q.c[0], q.f[0], s, stage, 0);
    if (slab + 1 < slabs) {
      const bool more = slab + T::stages - 1 < slabs;
      add_slab_units<T, false>(acc, s, q, copy, stage, more);
      add_slab_units<T, true>(acc, s, q, copy, stage + 1, false);
    } else {
      add_slab_units<T, true>(acc, s, q, copy, stage, false);
    }
    stage = stage == T::stages - 2 ? 0 : stage + 2;
  }
  store_sums<T>(y, acc, p, 0, ((long long)blockIdx.y * T::blocks + block) * 16, outputs);
}

// bfloat16: sums stay where tensor cores add to them. While one block is multiplied, the other
// one's weights of the next slab come to registers.
template <typename T>
__device__ __forceinline__ void mul_chain(typename T::Shared &s, float *y, const int *x,
                                          const MulPanel *panels, long long outputs,
                                          long long inputs) {
  typedef typename T::F F;
  const MulPanel p = panels[blockIdx.x];
  const long long slabs = (inputs + F::inputs - 1) / F::inputs;
  TensorCopy<T> copy(p, x, nullptr, outputs, inputs);
  float acc[WARP_BLOCKS][T::tiles][4];
  clear_sums<T>(acc);
#pragma unroll
  for (int j = 0; j < WARP_BLOCKS; j++) use_sums(acc[j]);
  first_copies<T>(s, copy, slabs);
  const Lane at;
  const int block = threadIdx.x / 32 * WARP_BLOCKS;
  F f[WARP_BLOCKS];
  int stage = 0;
  for (long long slab = 0; slab < slabs; slab++) {
    next_slab<T>(s, copy, stage, slab + T::stages - 2 < slabs);
#pragma unroll
    for (int j = 0; j < WARP_BLOCKS; j++) {
      wait_products<1>();  // of this block and the last slab
      f[j].load(s.w[stage][block + j], at);
      begin_products();
#pragma unroll
      for (int part = 0; part < F::parts; part++) {
        const unsigned long long rows = columns_at(s.x[stage][part][0]);
        group_bf16<true>(acc[j], f[j].a[0], rows);
        group_bf16<true>(acc[j], f[j].a[1], further(rows, 32));
      }
      end_products();
    }
    stage = stage == T::stages - 1 ? 0 : stage + 1;
  }
  wait_products<0>();
#pragma unroll
  for (int j = 0; j < WARP_BLOCKS; j++) use_sums(acc[j]);
  store_sums<T>(y, acc, p, 0, ((long long)blockIdx.y * T::blocks + block) * 16, outputs);
}

typedef HopperScaled<HopperInt8, 6> BlockInt8;
typedef HopperScaled<HopperInt4, 6> BlockInt4;
typedef Hopper<TensorBF16, 5> BlockBF16;
typedef Hopper<HopperFP8, 6> BlockFP8;

// What launches ask for: sharedBytes in kernel/cuda/hopper.go.
static_assert(sizeof(BlockInt8::Shared) == 156672, "");
static_assert(sizeof(BlockInt4::Shared) == 107520, "");
static_assert(sizeof(BlockBF16::Shared) == 163840, "");
static_assert(sizeof(BlockFP8::Shared) == 153600, "");

extern "C" __global__ void __launch_bounds__(BlockInt8::threads, 1)
mul_hopper_int8(float *y, const int *codes, const float *scales, const MulPanel *panels,
                long long outputs, long long inputs) {
  mul_units<BlockInt8>(*reinterpret_cast<BlockInt8::Shared *>(dynamic_shared), y, codes, scales,
                       panels, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(BlockInt4::threads, 1)
mul_hopper_int4(float *y, const int *codes, const float *scales, const MulPanel *panels,
                long long outputs, long long inputs) {
  mul_units<BlockInt4>(*reinterpret_cast<BlockInt4::Shared *>(dynamic_shared), y, codes, scales,
                       panels, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(BlockBF16::threads, 1)
mul_hopper_bf16(float *y, const int *halves, const MulPanel *panels, long long outputs,
                long long inputs) {
  mul_chain<BlockBF16>(*reinterpret_cast<BlockBF16::Shared *>(dynamic_shared), y, halves, panels,
                       outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(BlockFP8::threads, 1)
mul_hopper_fp8(float *y, const int *halves, const MulPanel *panels, long long outputs,
               long long inputs) {
  mul_units<BlockFP8>(*reinterpret_cast<BlockFP8::Shared *>(dynamic_shared), y, halves, nullptr,
                      panels, outputs, inputs);
}

#endif
