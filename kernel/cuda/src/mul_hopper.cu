// Products of many rows on Hopper's tensor cores, by warpgroups (hopper.h): 256 outputs of up to
// 128 rows; of integers, which have sums of spans as well, 128 outputs. Weights are A, from
// registers, as in mul_tensor.cu, so that a dword of the packed weights is a word of A as it
// stands; rows are B, which tensor cores read from shared memory themselves. Words of rows come in
// the order that makes them the words of the same inputs: see word_place. Sums of integers are
// exact, and those of bfloat16 take the same inputs in the same steps, so the bytes are those of
// mul_tensor: of integers by arithmetic, of floats if the hardware rounds both kinds of products
// alike, which the self-test asks it.

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
  __device__ __forceinline__ void add(float (&span)[4], const Sum (&c)[sums][unit][4],
                                      int tile) const {
#pragma unroll
    for (int i = 0; i < 4; i++) add_sum(span[i], __int2float_rn(c[0][tile][i]), i);
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
  __device__ __forceinline__ void add(float (&span)[4], const Sum (&c)[sums][unit][4],
                                      int tile) const {
#pragma unroll
    for (int i = 0; i < 4; i++)
      add_sums(span[i], __int2float_rn(c[0][tile][i]), __int2float_rn(c[1][tile][i]), i);
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
  __device__ __forceinline__ void add(float (&acc)[4], const Sum (&c)[sums][unit][4],
                                      int tile) const {
#pragma unroll
    for (int i = 0; i < 4; i++) add_sum(acc[i], c[0][tile][i], i);
  }
};

// Two warpgroups, whose warps have BLOCKS blocks of outputs each and all rows. Of STAGES slabs in
// shared memory STAGES - 2 are copied ahead, one is multiplied, and of the one before the last
// unit may still be. Formats with scales have round slabs in one round of a loop: a span where
// rows have scales, too.
template <typename FORMAT, int BLOCKS, int STAGES> struct Hopper {
  typedef FORMAT F;
  static const int warps = 8, warp_blocks = BLOCKS, tiles = 16, stages = STAGES;
  static const int round = F::row_scales ? SPAN : 2;
  static_assert(STAGES % round == 0 || !F::scaled, "slabs come in rounds");
  static const int blocks = warps * BLOCKS, threads = warps * 32, rows = tiles * TILE_ROWS;
  static const int copies = F::copies * blocks * 16 / threads;  // of a thread, of weights
  static __device__ __forceinline__ int piece(int row, int piece) {
    return column_piece(row, piece);
  }

  struct Shared {
    alignas(1024) unsigned x[STAGES][F::parts][rows][SLAB_WORDS];
    unsigned w[STAGES][blocks][F::lines * LINE];
  };
};
template <typename FORMAT, int BLOCKS, int STAGES>
struct HopperScaled : Hopper<FORMAT, BLOCKS, STAGES> {
  struct Shared : Hopper<FORMAT, BLOCKS, STAGES>::Shared {
    float scales[STAGES][Hopper<FORMAT, BLOCKS, STAGES>::rows];
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

// Adds a unit's sums, which are there, to those of block j. first and last say that its slab is the
// first or the last one of a whole span.
template <typename T>
__device__ __forceinline__ void add_unit(Sums<T> &sums, int j,
                                         typename T::F::Sum (&c)[T::F::sums][T::F::unit][4],
                                         const typename T::F &f, const typename T::Shared &s,
                                         int stage, int tile, bool first, bool last) {
  const Lane at;
#pragma unroll
  for (int i = 0; i < T::F::sums; i++) use_sums(c[i]);
#pragma unroll
  for (int i = 0; i < T::F::unit; i++) {
    if constexpr (T::F::row_scales) {
      float(&span)[4] = sums.span[j][tile + i];
#pragma unroll
      for (int k = 0; k < 4; k++) span[k] = first ? 0.0f : span[k];
      f.add(span, c, i);
      if (last)
        add_span(sums.acc[j][tile + i], span,
                 &s.scales[stage][(tile + i) * TILE_ROWS + 2 * at.word]);
    } else {
      f.add(sums.acc[j][tile + i], c, i);
    }
  }
}

// What a warp has of units: one that is multiplied and one that is added, and of both the weights.
template <typename T> struct Units {
  static const int block = T::tiles / T::F::unit;  // units of a block of outputs
  static const int slab = T::warp_blocks * block, round = T::round * slab;
  typename T::F::Sum c[2][T::F::sums][T::F::unit][4];
  typename T::F f[2];
};

// Adds a round of slabs, or the left ones where they are fewer, unit by unit: the one before NEXT
// while that is multiplied, and so on.
template <typename T, int NEXT>
__device__ __forceinline__ void add_units(Sums<T> &sums, typename T::Shared &s, Units<T> &q,
                                          TensorCopy<T> &copy, int stage, int left) {
  typedef Units<T> U;
  const int b = NEXT / U::block, slab = NEXT / U::slab;  // b counts blocks of all slabs
  const int now = NEXT - 1, a = now / U::block, of = now / U::slab;
  const int unit = now % U::block * T::F::unit;
  auto &c = q.c[NEXT % 2 ^ 1];
  if constexpr (NEXT > 0 && NEXT < U::round && NEXT % U::slab == 0)
    if (slab >= left) {
      wait_products<0>();
      add_unit<T>(sums, a % T::warp_blocks, c, q.f[a % 2], s, stage + of, unit, of == 0, false);
      if constexpr (T::F::row_scales) end_span(sums, s, stage + of, 0);
      return;
    }
  if constexpr (NEXT < U::round) {
    if (NEXT % U::slab == 0) next_slab<T>(s, copy, stage + slab, slab + T::stages - 2 < left);
    if (NEXT % U::block == 0)
      q.f[b % 2].load(s.w[stage + slab][threadIdx.x / 32 * T::warp_blocks + b % T::warp_blocks],
                      Lane());
    begin_unit<T>(q.c[NEXT % 2], q.f[b % 2], s, stage + slab, NEXT % U::block * T::F::unit);
  }
  if constexpr (NEXT > 0) {
    wait_products<(NEXT < U::round)>();
    add_unit<T>(sums, a % T::warp_blocks, c, q.f[a % 2], s, stage + of, unit, of == 0,
                of == T::round - 1);
  }
  if constexpr (NEXT < U::round) add_units<T, NEXT + 1>(sums, s, q, copy, stage, left);
}

// Formats with scales: sums of a slab are added on ordinary lanes, unit by unit, while the next
// one is multiplied. Only behind each round there is none, since the compiler has products that
// go on from one round of a loop to the next wait for each other.
template <typename T>
__device__ __forceinline__ void mul_units(typename T::Shared &s, float *y, const int *x,
                                          const float *scales, const MulPanel *panels,
                                          long long outputs, long long inputs) {
  typedef typename T::F F;
  const MulPanel p = panels[blockIdx.x];
  int left = (int)((inputs + F::inputs - 1) / F::inputs);
  TensorCopy<T> copy(p, x, scales, outputs, inputs);
  Sums<T> sums;
  first_copies<T>(s, copy, left);
  for (int stage = 0; left > 0; left -= T::round) {
    Units<T> q;
    add_units<T, 0>(sums, s, q, copy, stage, left);
    stage = stage == T::stages - T::round ? 0 : stage + T::round;
  }
  const long long block = (long long)blockIdx.y * T::blocks + threadIdx.x / 32 * T::warp_blocks;
  store_sums(y, sums, p, 0, block * 16, outputs);
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
  Sums<T> sums;
#pragma unroll
  for (int j = 0; j < T::warp_blocks; j++) use_sums(sums.acc[j]);
  first_copies<T>(s, copy, slabs);
  const Lane at;
  const int block = threadIdx.x / 32 * T::warp_blocks;
  F f[T::warp_blocks];
  int stage = 0;
  for (long long slab = 0; slab < slabs; slab++) {
    next_slab<T>(s, copy, stage, slab + T::stages - 2 < slabs);
#pragma unroll
    for (int j = 0; j < T::warp_blocks; j++) {
      wait_products<1>();  // of this block and the last slab
      f[j].load(s.w[stage][block + j], at);
      begin_products();
#pragma unroll
      for (int part = 0; part < F::parts; part++) {
        const unsigned long long rows = columns_at(s.x[stage][part][0]);
        group_bf16<true>(sums.acc[j], f[j].a[0], rows);
        group_bf16<true>(sums.acc[j], f[j].a[1], further(rows, 32));
      }
      end_products();
    }
    stage = stage == T::stages - 1 ? 0 : stage + 1;
  }
  wait_products<0>();
#pragma unroll
  for (int j = 0; j < T::warp_blocks; j++) use_sums(sums.acc[j]);
  store_sums(y, sums, p, 0, ((long long)blockIdx.y * T::blocks + block) * 16, outputs);
}

typedef HopperScaled<HopperInt8, 1, 8> BlockInt8;
typedef HopperScaled<HopperInt4, 1, 8> BlockInt4;
typedef Hopper<TensorBF16, 2, 5> BlockBF16;
typedef Hopper<HopperFP8, 2, 6> BlockFP8;

// What launches ask for: sharedBytes in kernel/cuda/hopper.go.
static_assert(sizeof(BlockInt8::Shared) == 139264, "");
static_assert(sizeof(BlockInt4::Shared) == 106496, "");
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
