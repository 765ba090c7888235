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
};

// On the target chosen by dispatch.h.
void RunAttentionTile(const AttentionTile& tile);

}  // namespace tandem::kernels
