// Attention over keys and values of bfloat16 on tensor cores, as attend.cu has it but for the
// products with keys and values: queries, and the exponentials that values are multiplied with,
// are sums of two bfloat16, and the order within 16 elements of a head, or 16 positions, is the
// hardware's. So this is a kernel class of its own.
//
// Rows are A, 16 of them whatever their number, and keys or values B. Sums go over ascending
// elements, or positions by 16 from a multiple of 16 on, first of the larger halves and then of
// the smaller ones. Positions that a row does not see are zeros in its products, on both sides,
// so that nothing of a row's depends on the rows and positions beside it.

#pragma once
#include "attend.cu"
#include "mul_tensor.cu"

// A number as its halves: see split_rows.
__device__ __forceinline__ unsigned halves_of(float x) {
  const unsigned first = narrow_bf16(x);
  if ((first & 0x7f80u) == 0x7f80u) return first << 16;
  return first << 16 | narrow_bf16(__fsub_rn(x, __uint_as_float(first << 16)));
}

struct KvTensor : KvBF16 {
  static __device__ __forceinline__ float operand(float x) {
    return __uint_as_float(halves_of(x));
  }
};

// Of two words the lower halves, or the upper ones.
__device__ __forceinline__ unsigned lower(unsigned a, unsigned b) {
  return __byte_perm(a, b, 0x5410);
}
__device__ __forceinline__ unsigned upper(unsigned a, unsigned b) {
  return __byte_perm(a, b, 0x7632);
}

// 16 numbers of 16 rows in shared memory, as both of their halves.
struct AttendRows {
  unsigned first[4], rest[4];

  __device__ __forceinline__ void load(const float *rows, int stride, Lane at) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint2 two = *reinterpret_cast<const uint2 *>(rows + (at.row + i % 2 * 8) * stride +
                                                         2 * at.word + i / 2 * 8);
      first[i] = upper(two.x, two.y), rest[i] = lower(two.x, two.y);
    }
  }
};

// 16 by 16 numbers of keys or values: a word is two neighbours in memory, which belong to two
// products, so that columns 0 to 7 of the first are every second of them, and of the other those
// between.
struct AttendColumns {
  unsigned words[4];  // of k = 2*word, and 1, 8 and 9 more

  static __device__ __forceinline__ int k(Lane at, int i) {
    return 2 * at.word + i % 2 + i / 2 * 8;
  }
  __device__ __forceinline__ void add_to(float (&c)[2][4], const AttendRows &rows) const {
    const unsigned even[2] = {lower(words[0], words[1]), lower(words[2], words[3])};
    const unsigned odd[2] = {upper(words[0], words[1]), upper(words[2], words[3])};
    mma_bf16(c[0], rows.first, even[0], even[1]);
    mma_bf16(c[1], rows.first, odd[0], odd[1]);
    mma_bf16(c[0], rows.rest, even[0], even[1]);
    mma_bf16(c[1], rows.rest, odd[0], odd[1]);
  }
};

__device__ __forceinline__ unsigned word_at(const char *elements, long long i) {
  return __ldg(reinterpret_cast<const unsigned *>(elements + 2 * i));
}

#define WARP_TILES (STEP / TILE / (ATTEND_THREADS / 32))  // of keys, of a warp

// A warp has the scores of some tiles with all rows, and of the values 16 elements.
template <> struct AttendProducts<KvTensor> {
  float acc[2][4];

  __device__ __forceinline__ void begin() {
#pragma unroll
    for (int i = 0; i < 8; i++) acc[i / 4][i % 4] = 0.0f;
  }

  __device__ __forceinline__ void keys(AttendShared &s, const AttendAt &w, const float *q, int at,
                                       int lo, int hi) {
    const Lane lane;
    const int n = w.a.head_dim, tile = threadIdx.x / 32 * WARP_TILES;
    float c[WARP_TILES][2][4];
#pragma unroll
    for (int i = 0; i < WARP_TILES * 8; i++) c[i / 8][i / 4 % 2][i % 4] = 0.0f;
    for (int slice = 0; slice < n; slice += SLICE) {
      if (n > SLICE) {
        __syncthreads();
        load_queries<KvTensor>(s, w, q, slice);
        __syncthreads();
      }
      __syncwarp();  // products need all threads of a warp at once
      for (int d = slice; d < n && d < slice + SLICE; d += 16) {
        AttendRows rows;
        rows.load(&s.q[0][d - slice], QUERY_STRIDE, lane);
#pragma unroll
        for (int j = 0; j < WARP_TILES; j++) {
          const int first = at + (tile + j) * TILE;
          if (first + TILE <= lo || first >= hi) continue;  // the same for a whole warp
          AttendColumns columns;
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int e = d + AttendColumns::k(lane, i);
            columns.words[i] = e < n ? word_at(s.tiles[tile + j], e * TILE + 2 * lane.row) : 0;
          }
          columns.add_to(c[j], rows);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < WARP_TILES * 8; i++) {
      const int r = lane.row + i % 4 / 2 * 8;
      const int t = (tile + i / 8) * TILE + 2 * (2 * lane.word + i % 2) + i / 4 % 2, pos = at + t;
      s.scores[r][t] = pos >= lo && pos < hi && pos < s.ends[r] ? c[i / 8][i / 4 % 2][i % 4]
                                                                : __uint_as_float(0xff800000u);
    }
  }

  // Adds 16 positions, without those before lo and from end on.
  __device__ __forceinline__ void add(float (&c)[2][4], const AttendRows &rows,
                                      const AttendColumns &all, int first, int lo, int end,
                                      Lane lane) const {
    AttendColumns seen;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int pos = first + AttendColumns::k(lane, i);
      seen.words[i] = pos >= lo && pos < end ? all.words[i] : 0;
    }
    seen.add_to(c, rows);
  }

  __device__ __forceinline__ void values(const AttendShared &s, const AttendAt &w, int at, int lo,
                                         int hi) {
    const Lane lane;
    const int n = w.a.head_dim, d = w.slice * SLICE + threadIdx.x / 32 * 16;
    if (d >= n) return;
    const long long values = (long long)TILE * n, dims = whole_dims(n);
    for (int b = 0; b < STEP_BLOCKS && at + b * BLOCK < hi; b++) {
      const int begin = at + b * BLOCK;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int r = lane.row + i % 4 / 2 * 8;
        if (r < w.rows && begin < s.ends[r])
          acc[i / 4][i % 4] = __fmul_rn(acc[i / 4][i % 4], s.shrink[r][b]);
      }
      __syncwarp();  // as above
#pragma unroll
      for (int g = 0; g < BLOCK / TILE; g++) {
        const int first = begin + g * TILE;
        if (first + TILE <= lo || first >= hi) continue;
        AttendRows rows;
        rows.load(&s.scores[0][first - at], SCORE_STRIDE, lane);
        AttendColumns all;
#pragma unroll
        for (int i = 0; i < 4; i++)
          all.words[i] = word_at(s.tiles[(first - at) / TILE],
                                 values + AttendColumns::k(lane, i) * dims + d + 2 * lane.row);
        add_seen(s, w, rows, all, first, lo, lane);
      }
    }
  }

  // Adds 16 positions to the rows that see them. Where rows see different ones, each query's
  // are added by themselves.
  __device__ __forceinline__ void add_seen(const AttendShared &s, const AttendAt &w,
                                           const AttendRows &rows, const AttendColumns &all,
                                           int first, int lo, Lane lane) {
    if (first + TILE <= s.ends[0]) {
      add(acc, rows, all, first, lo, first + TILE, lane);
      return;
    }
    for (int end = s.ends[0]; end <= s.ends[w.rows - 1]; end++) {
      if (end <= first) continue;
      float c[2][4];
#pragma unroll
      for (int i = 0; i < 8; i++) c[i / 4][i % 4] = acc[i / 4][i % 4];
      add(c, rows, all, first, lo, end, lane);
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (s.ends[lane.row + i % 4 / 2 * 8] == end) acc[i / 4][i % 4] = c[i / 4][i % 4];
    }
  }

  __device__ __forceinline__ void elements(AttendShared &s, float *out) const {
    const Lane lane;
    const int d = threadIdx.x / 32 * 16;
#pragma unroll
    for (int i = 0; i < 8; i++)
      s.scores[lane.row + i % 4 / 2 * 8][d + 2 * (2 * lane.word + i % 2) + i / 4] =
          acc[i / 4][i % 4];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ATTEND_OWN; i++)
      out[i] = s.scores[2 * i + threadIdx.x / SLICE][threadIdx.x % SLICE];
  }
};

extern "C" __global__ void __launch_bounds__(ATTEND_THREADS, 3)
attend_tensor_bf16(float *out, float *states, const float *q, const char *memory,
                   const int *tables, const AttendPiece *pieces, const AttendShape *shape) {
  __shared__ AttendShared s;
  attend<KvTensor>(s, out, states, q, memory, tables, pieces, shape);
}
