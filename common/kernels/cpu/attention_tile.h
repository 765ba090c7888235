// One tile of attention: some (row, query head) pairs of one sequence under one KV head, by one thread.
#pragma once

#include <cstdint>

#include "common/kernels/attention.h"

namespace tandem::kernels {

inline constexpr int kMaxPairs = 16;  // of one tile

// Pair i stands for row i / heads_per_kv of the sequence and query head kv_head * heads_per_kv + i %
// heads_per_kv.
struct AttentionTile {
  const float* q;
  int64_t q_stride;
  float* out;
  int64_t out_stride;
  const KvCache* cache;
  const SequenceRows* rows;
  int layer;
  int kv_head;
  int heads_per_kv;
  float scale;
  int32_t window;            // 0 = none
  int pair_begin, pair_end;  // at most kMaxPairs

  // Null: the whole reduction, into `out`. Else the (m, l, o) of the spans [span_begin, span_end), counted
  // from position 0, into partials[span * PartialFloats(pairs, head_dim)], for MergeAttentionTile.
  float* partials = nullptr;
  int span_begin = 0, span_end = 0;
};

// Of one span, of each pair: m and l, padded to 16, then o, padded to a multiple of 16.
inline int64_t PartialFloats(int pairs, int head_dim) {
  return int64_t{pairs} * (16 + (head_dim + 15) / 16 * 16);
}

// On the target chosen by dispatch.h.
void RunAttentionTile(const AttentionTile& tile);
// Joins the spans of `partials`, all of which have been written, into `out`: what RunAttentionTile without
// partials would have written.
void MergeAttentionTile(const AttentionTile& tile);

}  // namespace tandem::kernels
