#include "common/kernels/attention.h"

#include <algorithm>
#include <cstring>

#include "common/kernels/half.h"

namespace tandem::kernels {
namespace {

// Rows of one sequence per parallel tile. Two tiles may write different lanes of one block.
constexpr int kRowsPerWrite = 16;

template <typename T>
void Store(std::byte* base, int64_t index, T value) {
  std::memcpy(base + index * sizeof(T), &value, sizeof(T));
}

void WriteRow(const float* k, const float* v, int position, int layer, const KvLayout& layout,
              std::byte* block) {
  const auto [heads, head_dim] = layout.layers[layer];
  const int64_t half_elements = int64_t{head_dim} * kKvBlockPositions;
  const int lane = position % kKvBlockPositions;
  std::byte* const base = block + layout.layer_offset[layer];
  for (int h = 0; h < heads; ++h) {
    const int64_t k_at = h * 2 * half_elements + lane;
    const int64_t v_at = (h * 2 + 1) * half_elements + int64_t{lane} * head_dim;
    const float* const k_head = k + int64_t{h} * head_dim;
    const float* const v_head = v + int64_t{h} * head_dim;
    for (int d = 0; d < head_dim; ++d) {
      if (layout.type == KvType::kF32) {
        Store(base, k_at + int64_t{d} * kKvBlockPositions, k_head[d]);
        Store(base, v_at + d, v_head[d]);
      } else {
        Store(base, k_at + int64_t{d} * kKvBlockPositions, BF16FromFloat(k_head[d]));
        Store(base, v_at + d, BF16FromFloat(v_head[d]));
      }
    }
  }
}

}  // namespace

void WriteKv(const float* k, const float* v, int64_t stride, int layer,
             std::span<const SequenceRows> sequences, KvCache& cache, ThreadPool& pool) {
  int tokens = 0;
  for (const SequenceRows& rows : sequences) tokens += rows.num_rows;
  const auto write_rows = [&](const SequenceRows& rows, int begin, int end) {
    for (int i = begin; i < end; ++i) {
      const int position = rows.first_position + i;
      const int64_t at = (rows.first_row + i) * stride;
      WriteRow(k + at, v + at, position, layer, cache.layout(),
               cache.block(rows.blocks[position / kKvBlockPositions]));
    }
  };
  // Few rows cost less than waking a thread for them.
  if (tokens <= kRowsPerWrite) {
    for (const SequenceRows& rows : sequences) write_rows(rows, 0, rows.num_rows);
    return;
  }
  for (const SequenceRows& rows : sequences) {
    const int num_tiles = (rows.num_rows + kRowsPerWrite - 1) / kRowsPerWrite;
    pool.ForEachTile(num_tiles, [&](int tile) {
      write_rows(rows, tile * kRowsPerWrite, std::min(rows.num_rows, (tile + 1) * kRowsPerWrite));
    });
  }
}

void Attention(const float* q, int64_t q_stride, int layer, std::span<const SequenceRows> sequences,
               const KvCache& cache, int num_heads, float scale, float* out, int64_t out_stride,
               ThreadPool& pool) {
  pool.ForEachTile(static_cast<int>(sequences.size()), [&](int s) {
    AttentionReference(q, q_stride, layer, sequences.subspan(s, 1), cache, num_heads, scale, out, out_stride);
  });
}

}  // namespace tandem::kernels
