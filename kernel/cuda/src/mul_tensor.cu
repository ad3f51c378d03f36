// Products on tensor cores, of panels of rows with a matrix each, as mul_grouped has them.
// Weights are A, 16 outputs of a block, and rows are B: a dword of the packed weights
// (kernel/format.go) is a word of A as it stands.
//
// Weights and rows come in slabs of 16 lines to shared memory, some slabs ahead: of 8-bit
// codes a slab is a group of 64 inputs, of 4-bit codes 8 lines are. Sums of integers within a
// group are exact, so which inputs meet in one product is free; a thread adds its groups to the
// sum of a span and its spans, each in one ascending chain, and the bytes are those of mul_few and
// of a CPU (K3).

#pragma once
#include "integer.cu"
#include "mul_grouped.cu"
#include "tensor.h"

#define SLAB_WORDS 16  // of a row
#define TILE_ROWS 8    // rows of a product
#define WARP_BLOCKS 2  // of 16 outputs, of a warp

// Sums of codes begin here: an integer below 2^22 added to the bits of 1.5*2^23 gives those of
// the float32 that is as much more, and float32 additions are faster than conversions.
#define SUM_BEGIN 0x4b400000
__device__ __forceinline__ float sum_of(int bits) {
  return __fsub_rn(__uint_as_float((unsigned)bits), __uint_as_float(SUM_BEGIN));
}

// Where a thread of a warp is in a product: see tensor.h.
struct Lane {
  int row, word;  // t/4, t%4
  __device__ __forceinline__ Lane()
      : row((int)(threadIdx.x % 32) / 4), word((int)threadIdx.x % 4) {}
};

// The outputs 2*row and 2*row+1 of a block are the thread's rows of A. Of the lines l of 16
// (of 4 bits, 8), piece j of 16 bytes in shared memory is
//
//	lines 16:  l = 4*(j/2%4) + j/16    lines 8:  l = j/2%4 + 4*(j/16)
//	its quarter is 2*(j/8%2) + j%2
//
// so that 16 threads read 128 bytes together, and copy a line, or four, after the other.
__device__ __forceinline__ uint2 weight_words(const unsigned *w, int part, Lane at) {
  const int piece = part * 16 + at.row / 4 * 8 + 2 * at.word + at.row / 2 % 2;
  return *reinterpret_cast<const uint2 *>(w + 4 * piece + 2 * (at.row % 2));
}

// Pieces of 16 bytes of a row in shared memory: of every other two rows the halves are swapped,
// so that what a warp reads together is in different banks.
__device__ __forceinline__ int row_piece(int row, int piece) { return piece ^ row / 2 % 2 * 2; }

// What a format of weights is in a slab: its lines, of which the last one has scales if they are
// scaled, its inputs, how many parts a row's numbers have, and whether rows have scales, too: then
// sums of a slab are added to those of a span, see Sums.
struct TensorInt8 {
  static const int lines = 17, inputs = GROUP, parts = 1;
  static const bool scaled = true, row_scales = true;
  unsigned a[2][4];
  float scales[2];

  static __device__ __forceinline__ long long all_lines(long long k) {
    return (k + GROUP - 1) / GROUP * lines;
  }
  // From a slab's first line to its scales, and to the next slab; odd is whether its number is.
  static __device__ __forceinline__ int scale_line(int) { return lines - 1; }
  static __device__ __forceinline__ int step(int) { return lines; }
  // The line of which thread t of 16 copies the i-th piece.
  static const int copies = 4;
  static __device__ __forceinline__ int line(int t, int i) { return 4 * (t / 2 % 4) + i; }
  __device__ __forceinline__ void load(const unsigned *w, Lane at) {
#pragma unroll
    for (int j = 0; j < 4; j++) {  // codes are stored +128
      const uint2 two = weight_words(w, j, at);
      a[j / 2][j % 2 * 2] = two.x ^ 0x80808080u;
      a[j / 2][j % 2 * 2 + 1] = two.y ^ 0x80808080u;
    }
    scales[0] = __uint_as_float(w[16 * LINE + 2 * at.row]);
    scales[1] = __uint_as_float(w[16 * LINE + 2 * at.row + 1]);
  }
  // Words of a row of B, for both products.
  static __device__ __forceinline__ uint4 row_words(const unsigned *x, Lane at) {
    return *reinterpret_cast<const uint4 *>(x + 4 * row_piece(at.row, at.word));
  }
  __device__ __forceinline__ void add(float (&span)[4], const uint4 (&words)[parts]) const {
    const uint4 b = words[0];
    int c[4] = {SUM_BEGIN, SUM_BEGIN, SUM_BEGIN, SUM_BEGIN};
    mma_int8(c, a[0], b.x, b.y);
    mma_int8(c, a[1], b.z, b.w);
#pragma unroll
    for (int i = 0; i < 4; i++) add_sum(span[i], sum_of(c[i]), i);
  }
  // Adds the i-th sum of a group to that of a span.
  __device__ __forceinline__ void add_sum(float &span, float sum, int i) const {
    span = __fmaf_rn(sum, scales[i / 2], span);
  }
};

struct TensorInt4 {
  static const int lines = 9, inputs = GROUP, parts = 1;
  static const bool scaled = true, row_scales = true;
  unsigned a[2][4];
  float scales[2][2];  // of half a group, of an output

  static __device__ __forceinline__ long long all_lines(long long k) {
    return (k + GROUP - 1) / GROUP * lines;
  }
  static __device__ __forceinline__ int scale_line(int) { return lines - 1; }
  static __device__ __forceinline__ int step(int) { return lines; }
  static const int copies = 2;
  static __device__ __forceinline__ int line(int t, int i) { return t / 2 % 4 + 4 * i; }
  // Codes are stored +8: as bytes of 16 times themselves they have a sign. Scales of a 16th
  // make up for it, and lose nothing.
  __device__ __forceinline__ void load(const unsigned *w, Lane at) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint2 two = weight_words(w, half, at);
      a[half][0] = (two.x << 4 & 0xf0f0f0f0u) ^ 0x80808080u;
      a[half][1] = (two.y << 4 & 0xf0f0f0f0u) ^ 0x80808080u;
      a[half][2] = (two.x & 0xf0f0f0f0u) ^ 0x80808080u;
      a[half][3] = (two.y & 0xf0f0f0f0u) ^ 0x80808080u;
      const unsigned both = w[8 * LINE + 8 * half + at.row];
      scales[half][0] = __fmul_rn(widen_half(both & 0xffffu), 0.0625f);
      scales[half][1] = __fmul_rn(widen_half(both >> 16), 0.0625f);
    }
  }
  // Line l has inputs of the words 2*l and 2*l+1 of a row.
  static __device__ __forceinline__ uint4 row_words(const unsigned *x, Lane at) {
    const int piece = at.word / 2, in = at.word % 2 * 2;
    const uint2 low =
        *reinterpret_cast<const uint2 *>(x + 4 * row_piece(at.row, piece) + in);
    const uint2 high =
        *reinterpret_cast<const uint2 *>(x + 4 * row_piece(at.row, piece + 2) + in);
    return uint4{low.x, low.y, high.x, high.y};
  }
  __device__ __forceinline__ void add(float (&span)[4], const uint4 (&words)[parts]) const {
    const uint4 b = words[0];
    int c[2][4] = {{SUM_BEGIN, SUM_BEGIN, SUM_BEGIN, SUM_BEGIN},
                   {SUM_BEGIN, SUM_BEGIN, SUM_BEGIN, SUM_BEGIN}};
    mma_int8(c[0], a[0], b.x, b.y);
    mma_int8(c[1], a[1], b.z, b.w);
#pragma unroll
    for (int i = 0; i < 4; i++) add_sums(span[i], sum_of(c[0][i]), sum_of(c[1][i]), i);
  }
  // Adds the i-th sums of both halves of a group to that of a span.
  __device__ __forceinline__ void add_sums(float &span, float first, float second, int i) const {
    span = __fmaf_rn(second, scales[1][i / 2], __fmaf_rn(first, scales[0][i / 2], span));
  }
};

// Weights of bfloat16, of which a slab is 32 inputs. A row's numbers are sums of two bfloat16:
// see split_rows. A sum is one chain over slabs, parts, halves of slabs, and what the hardware
// makes of 16 inputs, the same for each row whatever stands beside it; but not that of a CPU,
// nor of other kernels: this is a kernel class of its own.
struct TensorBF16 {
  static const int lines = 16, inputs = 32, parts = 2;
  static const bool scaled = false, row_scales = false;
  unsigned a[2][4];

  static __device__ __forceinline__ long long all_lines(long long k) { return (k + 1) / 2; }
  static __device__ __forceinline__ int step(int) { return lines; }
  static const int copies = 4;
  static __device__ __forceinline__ int line(int t, int i) { return TensorInt8::line(t, i); }
  __device__ __forceinline__ void load(const unsigned *w, Lane at) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const uint2 two = weight_words(w, j, at);
      a[j / 2][j % 2 * 2] = two.x;
      a[j / 2][j % 2 * 2 + 1] = two.y;
    }
  }
  static __device__ __forceinline__ uint4 row_words(const unsigned *x, Lane at) {
    return TensorInt8::row_words(x, at);
  }
  __device__ __forceinline__ void add(float (&acc)[4], const uint4 (&words)[parts]) const {
#pragma unroll
    for (int part = 0; part < parts; part++) {
      mma_bf16(acc, a[0], words[part].x, words[part].y);
      mma_bf16(acc, a[1], words[part].z, words[part].w);
    }
  }
};

template <bool SCALED, int STAGES, int N> struct TensorScales {
  float scales[STAGES][N];
};
template <int STAGES, int N> struct TensorScales<false, STAGES, N> {};

// What a block of threads computes: WARPS times ROW_WARPS warps, each with WARP_BLOCKS blocks of
// outputs and TILES times TILE_ROWS rows, STAGES - 1 slabs ahead.
template <typename FORMAT, int WARPS, int ROW_WARPS, int TILES, int STAGES> struct Tensor {
  typedef FORMAT F;
  static const int warps = WARPS, warp_blocks = WARP_BLOCKS, tiles = TILES, stages = STAGES;
  static const int blocks = WARPS * WARP_BLOCKS, threads = WARPS * ROW_WARPS * 32;
  static const int warp_rows = TILES * TILE_ROWS, rows = ROW_WARPS * warp_rows;
  static const int copies = F::copies / ROW_WARPS;  // of a thread, of weights
  // Whether there are enough for products of several tiles: more blocks do for 256 threads, where
  // those have sums of spans as well.
  static const bool registers = ROW_WARPS == 1 || F::row_scales;
  static __device__ __forceinline__ int piece(int row, int piece) { return row_piece(row, piece); }

  struct Shared : TensorScales<F::row_scales, STAGES, rows> {
    alignas(16) unsigned w[STAGES][blocks][F::lines * LINE];
    unsigned x[STAGES][F::parts][rows][SLAB_WORDS];
  };
};

// What a thread copies of each slab: pieces of 16 bytes of a block of outputs, which 16 threads
// copy, and of some rows; and a row's scale. x is (rows, slabs, parts, 16) words.
template <typename T> struct TensorCopy {
  typedef typename T::F F;
  const unsigned *w, *x;
  const float *scale;
  long long skip;   // dwords from a row to the thread's next one
  long long lines;  // of the block that are left
  int panel;        // rows of the panel
  int odd;          // whether the next slab's number is
  bool outputs;     // whether the block has some

  __device__ __forceinline__ TensorCopy(const MulPanel &p, const int *rows, const float *scales,
                                        long long all_outputs, long long inputs)
      : lines(F::all_lines(inputs)), panel(p.rows), odd(0) {
    const long long slabs = (inputs + F::inputs - 1) / F::inputs;
    const long long words = slabs * F::parts * SLAB_WORDS;  // of a row
    const long long mine = (long long)blockIdx.y * T::blocks + block();
    outputs = mine * 16 < all_outputs;
    w = p.packed + mine * lines * LINE;
    x = reinterpret_cast<const unsigned *>(rows) + 4 * (threadIdx.x % 4) +
        (p.first + (int)threadIdx.x / 4) * words;
    skip = T::threads / 4 * words;
    scale = scales + (p.first + (int)threadIdx.x) * slabs;
  }
  static __device__ __forceinline__ int block() { return threadIdx.x / 16 % T::blocks; }

  // Lines behind the last one are zeros.
  __device__ __forceinline__ void weights(unsigned *to) {
    const int t = threadIdx.x % 16, quarter = 2 * (t / 8) + t % 2;
    const int first = threadIdx.x / 16 / T::blocks * T::copies;
#pragma unroll
    for (int i = 0; i < T::copies; i++) {
      const int line = F::line(t, first + i);
      unsigned *at = to + 4 * (16 * (first + i) + t);
      if (F::scaled || line < lines)
        begin_copy16(at, w + line * LINE + 4 * quarter);
      else
        *reinterpret_cast<uint4 *>(at) = uint4{0, 0, 0, 0};
    }
    if constexpr (F::scaled)
      if (first == 0 && t < 4)
        begin_copy16(to + (F::lines - 1) * LINE + 4 * t, w + F::scale_line(odd) * LINE + 4 * t);
  }
  // Begins to copy the next slab.
  __device__ __forceinline__ void begin(typename T::Shared &s, int stage) {
    if (outputs) weights(s.w[stage][block()]);
#pragma unroll
    for (int i = 0; i < T::rows * 4 / T::threads; i++) {
      const int r = threadIdx.x / 4 + i * (T::threads / 4);
      if (r >= panel) break;
#pragma unroll
      for (int part = 0; part < F::parts; part++)
        begin_copy16(&s.x[stage][part][r][4 * T::piece(r, threadIdx.x % 4)],
                     x + i * skip + part * SLAB_WORDS);
    }
    if constexpr (F::row_scales)
      if ((int)threadIdx.x < panel) begin_copy4(&s.scales[stage][threadIdx.x], scale);
    const int step = F::step(odd);
    w += step * LINE, x += F::parts * SLAB_WORDS, scale++, lines -= step, odd ^= 1;
  }
};

// A warp's sums. Where rows have scales, span has the current span's, without them.
template <typename T> struct Sums {
  float acc[T::warp_blocks][T::tiles][4], span[T::warp_blocks][T::tiles][4];
  __device__ __forceinline__ Sums() {
#pragma unroll
    for (int i = 0; i < T::warp_blocks * T::tiles * 4; i++) {
      acc[i / 4 / T::tiles][i / 4 % T::tiles][i % 4] = 0.0f;
      span[i / 4 / T::tiles][i / 4 % T::tiles][i % 4] = 0.0f;
    }
  }
};

// Adds the sums of a span times the scales of their rows.
__device__ __forceinline__ void add_span(float (&acc)[4], const float (&span)[4],
                                         const float *rows) {
#pragma unroll
  for (int i = 0; i < 4; i++) acc[i] = __fmaf_rn(span[i], rows[i % 2], acc[i]);
}

// Adds a slab to a warp's outputs, of rows from first on. FULL says that all of its rows are there:
// without branches in between, products of several tiles are under way.
template <typename T, bool FULL>
__device__ __forceinline__ void add_slab(Sums<T> &sums, const typename T::Shared &s, int stage,
                                         int block, int first, int rows) {
  const Lane at;
  typename T::F f[WARP_BLOCKS];
  __syncwarp();  // what was copied last differs from thread to thread; products need all at once
#pragma unroll
  for (int b = 0; b < WARP_BLOCKS; b++) f[b].load(s.w[stage][block + b], at);
#pragma unroll
  for (int i = 0; i < T::tiles; i++) {
    const int row = first + i * TILE_ROWS;
    if (!FULL && row >= rows) break;  // the same for a whole warp
    uint4 words[T::F::parts];
#pragma unroll
    for (int part = 0; part < T::F::parts; part++)
      words[part] = T::F::row_words(s.x[stage][part][row + at.row], at);
#pragma unroll
    for (int j = 0; j < WARP_BLOCKS; j++)
      f[j].add(T::F::row_scales ? sums.span[j][i] : sums.acc[j][i], words);
  }
}

// Ends a span, of rows from first on, those that are not there among them: each of its slabs has
// its scales. The next one begins with nothing.
template <typename T>
__device__ __forceinline__ void end_span(Sums<T> &sums, const typename T::Shared &s, int stage,
                                         int first) {
  const Lane at;
#pragma unroll
  for (int i = 0; i < T::tiles; i++) {
    const float *scales = &s.scales[stage][first + i * TILE_ROWS + 2 * at.word];
#pragma unroll
    for (int j = 0; j < T::warp_blocks; j++) {
      add_span(sums.acc[j][i], sums.span[j][i], scales);
#pragma unroll
      for (int c = 0; c < 4; c++) sums.span[j][i][c] = 0.0f;
    }
  }
}

// Stores a warp's sums of the outputs from n on, and of the rows from row on.
template <typename T>
__device__ __forceinline__ void store_sums(float *y, const Sums<T> &sums, const MulPanel &p,
                                           int row, long long n, long long outputs) {
  const Lane at;
#pragma unroll
  for (int i = 0; i < T::warp_blocks * T::tiles * 4; i++) {
    const int j = i / 4 / T::tiles, tile = i / 4 % T::tiles, c = i % 4;
    const int r = row + tile * TILE_ROWS + 2 * at.word + c % 2;
    const long long output = n + 16 * j + 2 * at.row + c / 2;
    if (r < p.rows && output < outputs) y[(p.first + r) * outputs + output] = sums.acc[j][tile][c];
  }
}

// Rows that are not there have in shared memory what was there, and are not stored: no other
// row's sums know of it.
template <typename T>
__device__ __forceinline__ void mul_tensor(typename T::Shared &s, float *y, const int *x,
                                           const float *scales, const MulPanel *panels,
                                           long long outputs, long long inputs) {
  typedef typename T::F F;
  const MulPanel p = panels[blockIdx.x];
  const long long slabs = (inputs + F::inputs - 1) / F::inputs;
  TensorCopy<T> copy(p, x, scales, outputs, inputs);
  Sums<T> sums;
  for (int i = 0; i < T::stages - 1; i++) {
    if (i < slabs) copy.begin(s, i);
    end_copies();
  }
  const int warp = threadIdx.x / 32, block = warp % T::warps * WARP_BLOCKS;
  const int row = warp / T::warps * T::warp_rows;
  const long long n = ((long long)blockIdx.y * T::blocks + block) * 16;
  int stage = 0;
  for (long long slab = 0; slab < slabs; slab++) {
    wait_copies<T::stages - 2>();
    __syncthreads();  // all threads' copies of this slab are there, and the last slab was used
    if (slab + T::stages - 1 < slabs) copy.begin(s, stage == 0 ? T::stages - 1 : stage - 1);
    end_copies();
    if (T::registers && n < outputs && p.rows - row >= T::warp_rows)
      add_slab<T, true>(sums, s, stage, block, row, p.rows);
    else if (n < outputs)
      add_slab<T, false>(sums, s, stage, block, row, p.rows);
    if constexpr (F::row_scales)
      if (n < outputs && ends_span(slab, inputs - slab * F::inputs))
        end_span(sums, s, stage, row);
    stage = stage == T::stages - 1 ? 0 : stage + 1;
  }
  store_sums(y, sums, p, row, n, outputs);
}

// Many rows: 128 outputs of up to 64 rows, or 128 where each of them is then read less often. Few
// rows, whose time is that of reading weights: 32 outputs of up to 16 rows, with many slabs under
// way.
typedef Tensor<TensorInt8, 4, 2, 8, 2> WideInt8;
typedef Tensor<TensorInt8, 4, 1, 8, 3> ManyInt8;
typedef Tensor<TensorInt4, 4, 1, 8, 5> ManyInt4;
typedef Tensor<TensorBF16, 4, 2, 8, 2> ManyBF16;
typedef Tensor<TensorInt8, 1, 1, 2, 12> NarrowInt8;
typedef Tensor<TensorInt4, 1, 1, 2, 20> NarrowInt4;
typedef Tensor<TensorBF16, 1, 1, 2, 11> NarrowBF16;

extern "C" __global__ void __launch_bounds__(WideInt8::threads)
mul_wide_int8(float *y, const int *codes, const float *scales, const MulPanel *panels,
              long long outputs, long long inputs) {
  __shared__ WideInt8::Shared s;
  mul_tensor<WideInt8>(s, y, codes, scales, panels, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(ManyInt8::threads)
mul_tensor_int8(float *y, const int *codes, const float *scales, const MulPanel *panels,
                long long outputs, long long inputs) {
  __shared__ ManyInt8::Shared s;
  mul_tensor<ManyInt8>(s, y, codes, scales, panels, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(ManyInt4::threads)
mul_tensor_int4(float *y, const int *codes, const float *scales, const MulPanel *panels,
                long long outputs, long long inputs) {
  __shared__ ManyInt4::Shared s;
  mul_tensor<ManyInt4>(s, y, codes, scales, panels, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(NarrowInt8::threads)
mul_narrow_int8(float *y, const int *codes, const float *scales, const MulPanel *panels,
                long long outputs, long long inputs) {
  __shared__ NarrowInt8::Shared s;
  mul_tensor<NarrowInt8>(s, y, codes, scales, panels, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(NarrowInt4::threads)
mul_narrow_int4(float *y, const int *codes, const float *scales, const MulPanel *panels,
                long long outputs, long long inputs) {
  __shared__ NarrowInt4::Shared s;
  mul_tensor<NarrowInt4>(s, y, codes, scales, panels, outputs, inputs);
}

// Rows as sums of two bfloat16: the number rounded to even, and so what is left of it, which
// together have 16 bits of 24 at least. What is no finite bfloat16 has nothing left. x is (rows,
// inputs), halves (rows, slabs, 2, 16) words of two in an order, see word_place, behind the last
// input zeros. A thread has a word of both parts.
extern "C" __global__ void split_rows(unsigned *halves, const float *x, long long rows,
                                      long long inputs, long long order) {
  const long long words = (inputs + TensorBF16::inputs - 1) / TensorBF16::inputs * SLAB_WORDS;
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x, k = 2 * (i % words);
  if (i >= rows * words) return;
  unsigned parts[2] = {0, 0};
  for (int j = 0; j < 2 && k + j < inputs; j++) {
    const float v = x[i / words * inputs + k + j];
    const unsigned first = narrow_bf16(v);
    parts[0] |= first << 16 * j;
    if ((first & 0x7f80u) != 0x7f80u)
      parts[1] |= narrow_bf16(__fsub_rn(v, __uint_as_float(first << 16))) << 16 * j;
  }
  unsigned *out =
      halves + i / SLAB_WORDS * (2 * SLAB_WORDS) + word_place((int)(i % SLAB_WORDS), order);
  out[0] = parts[0], out[SLAB_WORDS] = parts[1];
}

extern "C" __global__ void __launch_bounds__(ManyBF16::threads)
mul_tensor_bf16(float *y, const int *halves, const MulPanel *panels, long long outputs,
                long long inputs) {
  __shared__ ManyBF16::Shared s;
  mul_tensor<ManyBF16>(s, y, halves, nullptr, panels, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(NarrowBF16::threads)
mul_narrow_bf16(float *y, const int *halves, const MulPanel *panels, long long outputs,
                long long inputs) {
  __shared__ NarrowBF16::Shared s;
  mul_tensor<NarrowBF16>(s, y, halves, nullptr, panels, outputs, inputs);
}
