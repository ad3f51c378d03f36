// Attention over tiles of keys and values: kernel/kv.go has their layout, kernel/attention.go
// the formulas and their order, which is a query head's own: blocks of 64 positions within
// spans, online softmax, spans merged in ascending order. So whatever goes together here,
// rows, steps of several blocks or spans, has the bytes of plain Go.
//
// Sums of 64 positions belong to one thread each, as do 16 sums of exponentials and each
// element of a result (K3). Threads of a block hand each other scores and exponentials
// through shared memory, and wait for each other between the passes.

#pragma once
#include "drover.h"

#define ATTEND_THREADS 256
#define ATTEND_ROWS 16   // query heads that go through keys and values together
#define STEP 256         // positions that go through together
#define BLOCK 64
#define STEP_BLOCKS (STEP / BLOCK)
#define TILE 16
#define SLICE 128        // elements of a head that go through together
#define LANES 16
#define QUERY_STRIDE (SLICE + 8)     // from a row to the next, which begins in other banks
#define SCORE_STRIDE (STEP + LANES)  // the same

// What all pieces of a launch share: see attendShape in kernel/cuda/attend.go.
struct AttendShape {
  int heads, kv_heads, head_dim, chunk, span, panels, block_tiles, first, tiles;
  float scale;
};

// Some queries of a sequence over the spans first to last; their result is the states from
// state on, or the output where that is negative.
struct AttendPiece { int row, queries, pos, table, first, last, state; };

// The spans of a query: its state of all heads in the first, and from one to the next.
struct AttendMerge { int row, state, stride, spans; };

// Where a block of threads is in its work. It is in shared memory, since it is the same for
// all and registers are few.
struct AttendAt {
  AttendShape a;
  AttendPiece p;
  int head, slice;  // key head, and which elements of its values
  int row, rows;    // of the piece: queries, and heads of the group in each
  int from, end;    // positions that any row sees
};

struct alignas(16) AttendShared {
  float scores[ATTEND_ROWS][SCORE_STRIDE];  // then exponentials
  float q[ATTEND_ROWS][QUERY_STRIDE];
  float result[ATTEND_ROWS][SLICE];  // of the spans before, each thread its own elements
  float most[ATTEND_ROWS][STEP_BLOCKS][LANES];
  float shrink[ATTEND_ROWS][STEP_BLOCKS];
  float sums[ATTEND_ROWS][LANES];
  float factors[ATTEND_ROWS][2];
  const char *tiles[STEP / TILE];  // of one head
  int ends[ATTEND_ROWS];           // the first position that a row does not see
  AttendAt w;
};

// How elements are kept; and queries and exponentials, before they are multiplied.
struct Plain {
  static __device__ __forceinline__ float operand(float x) { return x; }
};
struct KvF32 : Plain {
  static const int size = 4;
  static __device__ __forceinline__ float at(const char *p, long long i) {
    return __ldg(reinterpret_cast<const float *>(p) + i);
  }
};
struct KvBF16 : Plain {
  static const int size = 2;
  static __device__ __forceinline__ float at(const char *p, long long i) {
    return __uint_as_float((unsigned)__ldg(reinterpret_cast<const unsigned short *>(p) + i) << 16);
  }
};
struct KvInt8 : Plain {
  static const int size = 1;
  static __device__ __forceinline__ float at(const char *p, long long i) {
    return __int2float_rn(__ldg(reinterpret_cast<const signed char *>(p) + i));
  }
};

// scales has the size of a head's scales in a tile.
template <typename Kv> __device__ __forceinline__ int scale_bytes() {
  return Kv::size == 1 ? 2 * TILE * 4 : 0;
}
__device__ __forceinline__ int whole_dims(int head_dim) { return (head_dim + 15) & ~15; }
template <typename Kv> __device__ __forceinline__ long long head_bytes(int head_dim) {
  return scale_bytes<Kv>() + TILE * (long long)(head_dim + whole_dims(head_dim)) * Kv::size;
}

// A head's part of the tile of a place: the number of the tile, times 16, plus where in it a
// position is.
template <typename Kv>
__device__ __forceinline__ char *place(char *memory, long long place, int head, int kv_heads,
                                       int head_dim) {
  return memory + (place / TILE * kv_heads + head) * head_bytes<Kv>(head_dim);
}

// A thread has an element of a key or a value. Those that fill a value up to a multiple of 16
// are zeros.
template <typename Kv>
__device__ __forceinline__ void store_element(char *memory, const float *k, const float *v,
                                              const long long *places, long long rows,
                                              int kv_heads, int head_dim) {
  const int dims = whole_dims(head_dim), both = head_dim + dims;
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * kv_heads * both) return;
  const long long row = i / both / kv_heads, at = places[row] % TILE;
  const int head = (int)(i / both % kv_heads), e = (int)(i % both), value = e - head_dim;
  const long long from = (row * kv_heads + head) * head_dim;
  const long long to = value < 0 ? e * TILE + at : (long long)TILE * head_dim + at * dims + value;
  const float x = value < 0 ? k[from + e] : value < head_dim ? v[from + value] : 0.0f;
  char *tile = place<Kv>(memory, places[row], head, kv_heads, head_dim);
  if (Kv::size == 4)
    reinterpret_cast<float *>(tile)[to] = x;
  else
    reinterpret_cast<unsigned short *>(tile)[to] = (unsigned short)narrow_bf16(x);
}

extern "C" __global__ void attend_store_f32(char *memory, const float *k, const float *v,
                                            const long long *places, long long rows,
                                            long long kv_heads, long long head_dim) {
  store_element<KvF32>(memory, k, v, places, rows, (int)kv_heads, (int)head_dim);
}

extern "C" __global__ void attend_store_bf16(char *memory, const float *k, const float *v,
                                             const long long *places, long long rows,
                                             long long kv_heads, long long head_dim) {
  store_element<KvBF16>(memory, k, v, places, rows, (int)kv_heads, (int)head_dim);
}

// A thread has a head's key, or its value, with the scale.
extern "C" __global__ void attend_store_int8(char *memory, const float *k, const float *v,
                                             const long long *places, long long rows,
                                             long long kv_heads, long long head_dim) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * kv_heads * 2) return;
  const long long row = i / 2 / kv_heads, at = places[row] % TILE;
  const int head = (int)(i / 2 % kv_heads), value = (int)(i % 2), n = (int)head_dim;
  const int dims = whole_dims(n), fill = value ? dims : n;
  const float *x = (value ? v : k) + (row * kv_heads + head) * n;
  char *tile = place<KvInt8>(memory, places[row], head, (int)kv_heads, n);
  float inverse;
  reinterpret_cast<float *>(tile)[value * TILE + at] = code_scale(largest_of(x, n), &inverse);
  signed char *codes = reinterpret_cast<signed char *>(tile + scale_bytes<KvInt8>());
  codes += value ? (long long)TILE * n + at * dims : at;
  for (int d = 0; d < fill; d++)
    codes[value ? d : d * TILE] = (signed char)(d < n ? code_of(x[d], inverse) : 0);
}

// Copies queries' elements from d on, times scale, and zeros behind the last.
template <typename Kv>
__device__ __forceinline__ void load_queries(AttendShared &s, const AttendAt &w, const float *q,
                                             int d) {
  const int group = w.a.heads / w.a.kv_heads;
  for (int i = threadIdx.x; i < w.rows * SLICE; i += ATTEND_THREADS) {
    const int r = i / SLICE, e = d + i % SLICE, row = w.row + r;
    const long long head = (w.p.row + row / group) * (long long)w.a.heads + w.head * group +
                           row % group;
    s.q[r][i % SLICE] = e >= w.a.head_dim ? 0.0f
        : Kv::operand(__fmul_rn(q[head * w.a.head_dim + e], w.a.scale));
  }
}

// Finds the tiles of positions lo to hi of the step that begins at position at.
template <typename Kv>
__device__ __forceinline__ void find_tiles(AttendShared &s, const AttendAt &w, const char *memory,
                                           const int *tables, int at, int lo, int hi) {
  const int i = at / TILE + threadIdx.x;
  if (threadIdx.x >= STEP / TILE || i < lo / TILE || i > (hi - 1) / TILE) return;
  const long long tile = tables[w.p.table + i / w.a.tiles] * (long long)w.a.block_tiles +
                         w.a.first + i % w.a.tiles;
  s.tiles[threadIdx.x] = memory + (tile * w.a.kv_heads + w.head) * head_bytes<Kv>(w.a.head_dim);
}

// A thread has a position of the step, and its scores with all rows. Those that a row does
// not see are -infinity.
template <typename Kv>
__device__ __forceinline__ void score(AttendShared &s, const AttendAt &w, const float *q, int at,
                                      int lo, int hi) {
  const int pos = at + threadIdx.x, n = w.a.head_dim;
  const bool seen = pos >= lo && pos < hi;
  const char *head = seen ? s.tiles[threadIdx.x / TILE] : nullptr;
  const char *keys = seen ? head + scale_bytes<Kv>() : nullptr;
  float sum[ATTEND_ROWS];
#pragma unroll
  for (int r = 0; r < ATTEND_ROWS; r++) sum[r] = 0.0f;
  for (int slice = 0; slice < n; slice += SLICE) {
    if (n > SLICE) {
      __syncthreads();
      load_queries<Kv>(s, w, q, slice);
      __syncthreads();
    }
    const int m = n - slice < SLICE ? n - slice : SLICE;
    int d = 0;
    for (; seen && d + 4 <= m; d += 4) {
      float key[4];
#pragma unroll
      for (int i = 0; i < 4; i++) key[i] = Kv::at(keys, (slice + d + i) * TILE + pos % TILE);
#pragma unroll
      for (int r = 0; r < ATTEND_ROWS; r++) {
        if (r >= w.rows) break;
        const float4 v = *reinterpret_cast<const float4 *>(&s.q[r][d]);
        sum[r] = __fmaf_rn(v.x, key[0], sum[r]);
        sum[r] = __fmaf_rn(v.y, key[1], sum[r]);
        sum[r] = __fmaf_rn(v.z, key[2], sum[r]);
        sum[r] = __fmaf_rn(v.w, key[3], sum[r]);
      }
    }
    for (; seen && d < m; d++) {
      const float key = Kv::at(keys, (slice + d) * TILE + pos % TILE);
#pragma unroll
      for (int r = 0; r < ATTEND_ROWS; r++)
        if (r < w.rows) sum[r] = __fmaf_rn(s.q[r][d], key, sum[r]);
    }
  }
  const float scale =
      seen && Kv::size == 1 ? __ldg(reinterpret_cast<const float *>(head) + pos % TILE) : 1.0f;
#pragma unroll
  for (int r = 0; r < ATTEND_ROWS; r++) {
    if (r >= w.rows) break;
    const float v = Kv::size == 1 ? __fmul_rn(sum[r], scale) : sum[r];
    s.scores[r][threadIdx.x] = seen && pos < s.ends[r] ? v : __uint_as_float(0xff800000u);
  }
}

// A thread has one of a row's 16 sums, in sum, and the row's largest score so far, in most.
template <typename Kv>
__device__ __forceinline__ void soften(AttendShared &s, const AttendAt &w, int at, int lo, int hi,
                                       float &sum, float &most) {
  const int r = threadIdx.x / LANES, lane = threadIdx.x % LANES;
  const int blocks = (hi - at + BLOCK - 1) / BLOCK;
  for (int b = 0; b < STEP_BLOCKS && b < blocks && r < w.rows; b++) {
    float best = __uint_as_float(0xff800000u);
    for (int t = b * BLOCK + lane; t < (b + 1) * BLOCK; t += LANES)
      if (s.scores[r][t] > best) best = s.scores[r][t];
    s.most[r][b][lane] = best;
  }
  __syncthreads();
  for (int b = 0; b < STEP_BLOCKS && b < blocks && r < w.rows; b++) {
    if (at + b * BLOCK >= s.ends[r]) break;  // it sees nothing of this block, nor of later ones
    float best = most;
    for (int l = 0; l < LANES; l++)
      if (s.most[r][b][l] > best) best = s.most[r][b][l];
    const float shrink = exp32(__fsub_rn(most, best));
    sum = __fmul_rn(sum, shrink);
    for (int t = b * BLOCK + lane; t < (b + 1) * BLOCK; t += LANES) {
      float p = exp32(__fsub_rn(s.scores[r][t], best));
      sum = __fadd_rn(sum, p);
      const int pos = at + t;
      if (Kv::size == 1 && pos >= lo && pos < hi) {
        const float *scales = reinterpret_cast<const float *>(s.tiles[t / TILE]);
        p = __fmul_rn(p, __ldg(scales + TILE + t % TILE));
      }
      s.scores[r][t] = Kv::operand(p);
    }
    if (lane == 0) s.shrink[r][b] = shrink;
    most = best;
  }
}

#define ATTEND_OWN (ATTEND_ROWS / 2)  // rows of which a thread has an element

// A thread has an element of every second row's result.
template <typename Kv>
__device__ __forceinline__ void add_values(const AttendShared &s, const AttendAt &w, int at, int lo,
                                           int hi, float *out) {
  const int n = w.a.head_dim, half = threadIdx.x / SLICE;
  const int d = w.slice * SLICE + threadIdx.x % SLICE;
  if (d >= n) return;
  const long long values = (long long)TILE * n, dims = whole_dims(n);
  for (int b = 0; b < STEP_BLOCKS && at + b * BLOCK < hi; b++) {
    const int begin = at + b * BLOCK, t0 = lo > begin ? lo - at : b * BLOCK;
    const int t1 = (hi < begin + BLOCK ? hi : begin + BLOCK) - at;
#pragma unroll
    for (int i = 0; i < ATTEND_OWN; i++) {
      const int r = 2 * i + half;
      if (r < w.rows && begin < s.ends[r]) out[i] = __fmul_rn(out[i], s.shrink[r][b]);
    }
#pragma unroll 4
    for (int t = t0; t < t1; t++) {
      const char *head = s.tiles[t / TILE] + scale_bytes<Kv>();
      const float value = Kv::at(head, values + t % TILE * dims + d);
#pragma unroll
      for (int i = 0; i < ATTEND_OWN; i++) {
        const int r = 2 * i + half;
        if (r < w.rows && at + t < s.ends[r]) out[i] = __fmaf_rn(s.scores[r][t], value, out[i]);
      }
    }
  }
}

// The products of a piece's rows with keys and values, and their sums over a span: here each
// thread's own.
template <typename Kv> struct AttendProducts {
  float own[ATTEND_OWN];

  __device__ __forceinline__ void begin() {
#pragma unroll
    for (int i = 0; i < ATTEND_OWN; i++) own[i] = 0.0f;
  }
  __device__ __forceinline__ void keys(AttendShared &s, const AttendAt &w, const float *q, int at,
                                       int lo, int hi) {
    score<Kv>(s, w, q, at, lo, hi);
  }
  __device__ __forceinline__ void values(const AttendShared &s, const AttendAt &w, int at, int lo,
                                         int hi) {
    add_values<Kv>(s, w, at, lo, hi, own);
  }
  // The elements of a thread: of every second row one.
  __device__ __forceinline__ void elements(AttendShared &, float *out) const {
#pragma unroll
    for (int i = 0; i < ATTEND_OWN; i++) out[i] = own[i];
  }
};

// Adds the results of a span to those of the spans before.
__device__ __forceinline__ void merge_span(AttendShared &s, const AttendAt &w, int begin,
                                           float sum, float most, const float *out, float &total,
                                           float &best) {
  const int r = threadIdx.x / LANES, half = threadIdx.x / SLICE;
  if (r < w.rows && begin < s.ends[r]) {
    const float both = most > best ? most : best;
    const float a = exp32(__fsub_rn(best, both)), b = exp32(__fsub_rn(most, both));
    total = __fadd_rn(__fmul_rn(total, a), __fmul_rn(sum, b));
    best = both;
    if (threadIdx.x % LANES == 0) s.factors[r][0] = a, s.factors[r][1] = b;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < ATTEND_OWN; i++) {
    const int r = 2 * i + half;
    float &result = s.result[r][threadIdx.x % SLICE];
    if (r < w.rows && begin < s.ends[r])
      result = __fadd_rn(__fmul_rn(result, s.factors[r][0]), __fmul_rn(out[i], s.factors[r][1]));
  }
}

// What a state holds: the result's elements, 16 sums, and the largest score.
__device__ __forceinline__ long long state_floats(int head_dim) { return head_dim + LANES + 1; }

// Writes the rows' results: divided by their sums, or as states.
__device__ __forceinline__ void finish(AttendShared &s, const AttendAt &w, float *out,
                                       float *states, float total, float best) {
  const int group = w.a.heads / w.a.kv_heads, n = w.a.head_dim, half = threadIdx.x / SLICE;
  const int r = threadIdx.x / LANES, lane = threadIdx.x % LANES;
  const int d = w.slice * SLICE + threadIdx.x % SLICE;
  s.sums[r][lane] = total;
  __syncthreads();
  if (w.p.state >= 0 && w.slice == 0 && r < w.rows) {
    const int row = w.row + r;
    float *state = states + (w.p.state + row / group * (long long)w.a.heads + w.head * group +
                             row % group) * state_floats(n);
    state[n + lane] = total;
    if (lane == 0) state[n + LANES] = best;
  }
  if (d >= n) return;
#pragma unroll
  for (int i = 0; i < ATTEND_OWN; i++) {
    const int own = 2 * i + half, row = w.row + own;
    if (own >= w.rows) break;
    const long long head = row / group * (long long)w.a.heads + w.head * group + row % group;
    const float result = s.result[own][threadIdx.x % SLICE];
    if (w.p.state >= 0) {
      states[(w.p.state + head) * state_floats(n) + d] = result;
      continue;
    }
    float sum = 0.0f;
    for (int l = 0; l < LANES; l++) sum = __fadd_rn(sum, s.sums[own][l]);
    out[(w.p.row * (long long)w.a.heads + head) * n + d] = __fmul_rn(result, __fdiv_rn(1.0f, sum));
  }
}

__device__ __forceinline__ void find_work(AttendAt &w, const AttendPiece &p, const AttendShape &a) {
  const int group = a.heads / a.kv_heads, slices = (a.head_dim + SLICE - 1) / SLICE;
  w.a = a, w.p = p;
  w.slice = blockIdx.y % slices, w.head = blockIdx.y / slices / a.panels;
  w.row = blockIdx.y / slices % a.panels * ATTEND_ROWS;
  w.rows = p.queries * group - w.row;
  if (w.rows > ATTEND_ROWS) w.rows = ATTEND_ROWS;
  w.from = a.chunk ? p.pos - p.pos % a.chunk : 0;
  w.end = p.pos + (w.row + w.rows - 1) / group + 1;
}

// A block of threads has a piece, blockIdx.x, one key head, up to 16 of its rows, and up to
// 128 elements of its values.
template <typename Kv>
__device__ __forceinline__ void attend(AttendShared &s, float *out, float *states, const float *q,
                                       const char *memory, const int *tables,
                                       const AttendPiece *pieces, const AttendShape *shape) {
  if (threadIdx.x == 0) find_work(s.w, pieces[blockIdx.x], *shape);
  __syncthreads();
  const AttendAt &w = s.w;
  if (w.rows <= 0) return;
  const int group = w.a.heads / w.a.kv_heads;
  if (threadIdx.x < ATTEND_ROWS)
    s.ends[threadIdx.x] = w.p.pos + (w.row + (int)threadIdx.x) / group + 1;
  if (w.a.head_dim <= SLICE) load_queries<Kv>(s, w, q, 0);
  float total = 0.0f, best = 0.0f;
  for (int span = w.p.first; span <= w.p.last; span++) {
    const int begin = span * w.a.span;
    const int lo = w.from > begin ? w.from : begin;
    const int hi = w.end < begin + w.a.span ? w.end : begin + w.a.span;
    float next[ATTEND_OWN], sum = 0.0f, most = __uint_as_float(0xff800000u);
    AttendProducts<Kv> products;
    products.begin();
    for (int at = lo - lo % BLOCK; at < hi; at += STEP) {
      find_tiles<Kv>(s, w, memory, tables, at, lo > at ? lo : at, hi < at + STEP ? hi : at + STEP);
      __syncthreads();
      products.keys(s, w, q, at, lo, hi);
      __syncthreads();
      soften<Kv>(s, w, at, lo, hi, sum, most);
      __syncthreads();
      products.values(s, w, at, lo, hi);
      __syncthreads();
    }
    products.elements(s, next);
    if (span > w.p.first) {
      merge_span(s, w, begin, sum, most, next, total, best);
      continue;
    }
    total = sum, best = most;
#pragma unroll
    for (int i = 0; i < ATTEND_OWN; i++)
      s.result[2 * i + threadIdx.x / SLICE][threadIdx.x % SLICE] = next[i];
  }
  finish(s, w, out, states, total, best);
}

extern "C" __global__ void __launch_bounds__(ATTEND_THREADS, 3)
attend_f32(float *out, float *states, const float *q, const char *memory, const int *tables,
           const AttendPiece *pieces, const AttendShape *shape) {
  __shared__ AttendShared s;
  attend<KvF32>(s, out, states, q, memory, tables, pieces, shape);
}

extern "C" __global__ void __launch_bounds__(ATTEND_THREADS, 3)
attend_bf16(float *out, float *states, const float *q, const char *memory, const int *tables,
            const AttendPiece *pieces, const AttendShape *shape) {
  __shared__ AttendShared s;
  attend<KvBF16>(s, out, states, q, memory, tables, pieces, shape);
}

extern "C" __global__ void __launch_bounds__(ATTEND_THREADS, 3)
attend_int8(float *out, float *states, const float *q, const char *memory, const int *tables,
            const AttendPiece *pieces, const AttendShape *shape) {
  __shared__ AttendShared s;
  attend<KvInt8>(s, out, states, q, memory, tables, pieces, shape);
}

// Adds up the spans of queries, ascending: a thread has an element of a query head's result.
extern "C" __global__ void attend_merge(float *out, const float *states,
                                        const AttendMerge *merges, const AttendShape *shape,
                                        long long n) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int dim = shape->head_dim, heads = shape->heads;
  const AttendMerge m = merges[i / ((long long)heads * dim)];
  const int head = (int)(i / dim % heads), d = (int)(i % dim);
  const float *state = states + ((long long)m.state + head) * state_floats(dim);
  float sums[LANES], best = state[dim + LANES], result = state[d];
#pragma unroll
  for (int l = 0; l < LANES; l++) sums[l] = state[dim + l];
  for (int span = 1; span < m.spans; span++) {
    state += m.stride * state_floats(dim);
    const float most = state[dim + LANES], both = most > best ? most : best;
    const float a = exp32(__fsub_rn(best, both)), b = exp32(__fsub_rn(most, both));
    result = __fadd_rn(__fmul_rn(result, a), __fmul_rn(state[d], b));
#pragma unroll
    for (int l = 0; l < LANES; l++)
      sums[l] = __fadd_rn(__fmul_rn(sums[l], a), __fmul_rn(state[dim + l], b));
    best = both;
  }
  float sum = 0.0f;
#pragma unroll
  for (int l = 0; l < LANES; l++) sum = __fadd_rn(sum, sums[l]);
  out[((long long)m.row * heads + head) * dim + d] = __fmul_rn(result, __fdiv_rn(1.0f, sum));
}
