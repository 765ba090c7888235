// Attention over the paged KV cache, for a ragged batch: causal, or blind to order among a sequence's rows of
// the step (blocks of drafts).
//
// One reduction for prefill and decode. Positions are cut at absolute multiples of 256 into spans, spans into
// tiles of 16 (= KV blocks). For the row that sees positions f to p (p its own, with whole_block the last
// row's; f = 0, with a window f = max(0, p - window + 1)), inside a span, over its tiles from f / 16 to p /
// 16 ascending, with running maximum m (first -inf), sum l and output o (first 0), all f32:
//   s[j] = sum_d fma(q[d] * scale, K[d][j]), d ascending from 0; lanes j with 16 * tile + j outside of f .. p
//          become -inf
//   m'   = max(m, max_j s[j]);  c = exp(m - m');  e[j] = exp(s[j] - m'), 0 in masked lanes
//   l    = fma(l, c, tree-sum_j e[j])         tree: (0+8, 1+9, ...), then +4, +2, +1
//   o[d] = o[d] * c, then for j ascending o[d] = fma(e[j], V[j][d], o[d])   (only j that are seen)
// Then the (m, l, o) of the spans from f's on, ascending, into (M, L, O), which starts as the first span's:
//   M' = max(M, m);  a = exp(M - M');  b = exp(m - M');  L = fma(L, a, l * b);  O[d] = fma(O[d], a, o[d] * b)
// and out[d] = O[d] / L. In int8 K[d][j] and V[j][d] above are the stored integers; s[j], its sum done, is
// multiplied with K's scale of j, and in o's sum (not in l's) e[j] with V's. max(a, b) is a > b ? a : b; exp
// is math.h's. What is computed for a row depends on nothing but its own q and the KV of its sequence,
// whatever else is in the batch. Spans of one row may run on several threads, which is what a step of few
// rows behind a long context does; each KV tile is read once per (sequence, KV head) for a whole group of
// rows of the step.
#pragma once

#include <cstdint>
#include <span>

#include "common/base/thread_pool.h"
#include "common/kernels/kv_cache.h"

namespace tandem::kernels {

inline constexpr int kAttentionSpan = 256;  // positions; part of the numerics, see above
inline constexpr int kMaxHeadDim = 512;     // what a tile's work on the stack is made for

// One sequence's rows in the flattened batch: rows [first_row, first_row + num_rows) at consecutive absolute
// positions from first_position. blocks[i] holds positions 16 i .. 16 i + 15 and reaches at least to the last
// row's.
struct SequenceRows {
  int32_t first_row = 0;
  int32_t num_rows = 0;
  int32_t first_position = 0;
  std::span<const int32_t> blocks;
  // Every row sees up to the last row's position, not to its own.
  bool whole_block = false;

  // Last position that row i sees.
  int32_t LastSeen(int32_t i) const { return first_position + (whole_block ? num_rows - 1 : i); }
  // The first, if it sees `window` positions; 0 = all.
  int32_t FirstSeen(int32_t i, int32_t window) const {
    return window == 0 || LastSeen(i) < window ? 0 : LastSeen(i) - window + 1;
  }
};

// Writes K and V of the batch's rows into the cache, rounded to its type, nearest even. In int8 the scale of
// a position and head is its largest magnitude / 127; 0 with all integers 0 where that is no normal float,
// NaN where a value is not finite. k, v [tokens, kv_heads, head_dim] with `stride` floats between tokens; kv
// heads and head_dim from the layout.
void WriteKv(const float* k, const float* v, int64_t stride, int layer,
             std::span<const SequenceRows> sequences, KvCache& cache, ThreadPool& pool);

// The inverse, for one position: k, v [kv_heads, head_dim] as the cache holds them.
void ReadKv(const KvCache& cache, int layer, std::span<const int32_t> blocks, int32_t position, float* k,
            float* v);

// q, out [tokens, num_heads, head_dim], strides in floats between tokens; query head h uses KV head
// h / (num_heads / kv_heads). The rows' own K and V have been written. out must not overlap q. With a
// `window` a row sees so many positions, its last included; 0 = all. Blocks that no row sees are not read.
void Attention(const float* q, int64_t q_stride, int layer, std::span<const SequenceRows> sequences,
               const KvCache& cache, int num_heads, float scale, float* out, int64_t out_stride,
               ThreadPool& pool, int32_t window = 0);

// The loops literally as above; the oracle of the tests.
void AttentionReference(const float* q, int64_t q_stride, int layer, std::span<const SequenceRows> sequences,
                        const KvCache& cache, int num_heads, float scale, float* out, int64_t out_stride,
                        int32_t window = 0);

}  // namespace tandem::kernels
