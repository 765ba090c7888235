#include "common/kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "common/base/status.h"
#include "common/kernels/cpu/attention_tile.h"
#include "common/kernels/cpu/math_constants.h"
#include "common/kernels/half.h"

namespace tandem::kernels {
namespace {

// Rows of one sequence per parallel tile. Two tiles may write different lanes of one block.
constexpr int kRowsPerWrite = 16;
constexpr int kTilesPerThread = 4;
constexpr int kMinPairs = 4;  // below, reading the KV several times costs more than an idle thread
constexpr int kMinSpans = 3;  // of a group, on average: below, joining spans costs more than it brings

template <typename T>
void Store(std::byte* base, int64_t index, T value) {
  std::memcpy(base + index * sizeof(T), &value, sizeof(T));
}

template <typename Byte>
Byte* ScaleAt(Byte* scales, int index) {
  return scales + index * sizeof(float);
}

template <typename T>
T Load(const std::byte* base, int64_t index) {
  T value;
  std::memcpy(&value, base + index * sizeof(T), sizeof(T));
  return value;
}

// x [head_dim] to integers `stride` apart.
void WriteInt8(const float* x, int head_dim, int64_t stride, std::byte* q, std::byte* scale_at) {
  float largest = 0;
  bool finite = true;
  for (int d = 0; d < head_dim; ++d) {
    largest = std::max(largest, std::fabs(x[d]));
    finite &= std::isfinite(x[d]);
  }
  float scale = largest / 127.0f;
  const bool is_zero = !finite || scale < std::numeric_limits<float>::min();
  if (is_zero) scale = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  Store(scale_at, 0, scale);
  for (int d = 0; d < head_dim; ++d) {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer.
    const float rounded = is_zero ? 0.0f : x[d] / scale + kRoundShift - kRoundShift;
    Store(q, d * stride, static_cast<int8_t>(rounded));
  }
}

void WriteRow(const float* k, const float* v, int position, int layer, const KvLayout& layout,
              std::byte* block) {
  const auto [heads, head_dim] = layout.layers[layer];
  const int lane = position % kKvBlockPositions;
  const int64_t v_at = int64_t{lane} * head_dim;
  for (int h = 0; h < heads; ++h) {
    std::byte* const k_base = block + layout.layer_offset[layer] + h * layout.head_bytes(layer);
    std::byte* const v_base = k_base + layout.half_bytes(layer);
    const float* const k_head = k + int64_t{h} * head_dim;
    const float* const v_head = v + int64_t{h} * head_dim;
    if (layout.type == KvType::kInt8) {
      std::byte* const scales = v_base + layout.half_bytes(layer);
      WriteInt8(k_head, head_dim, kKvBlockPositions, k_base + lane, ScaleAt(scales, lane));
      WriteInt8(v_head, head_dim, 1, v_base + v_at, ScaleAt(scales, kKvBlockPositions + lane));
      continue;
    }
    for (int d = 0; d < head_dim; ++d) {
      if (layout.type == KvType::kF32) {
        Store(k_base, int64_t{d} * kKvBlockPositions + lane, k_head[d]);
        Store(v_base, v_at + d, v_head[d]);
      } else {
        Store(k_base, int64_t{d} * kKvBlockPositions + lane, BF16FromFloat(k_head[d]));
        Store(v_base, v_at + d, BF16FromFloat(v_head[d]));
      }
    }
  }
}

void ReadRow(const std::byte* block, int position, int layer, const KvLayout& layout, float* k, float* v) {
  const auto [heads, head_dim] = layout.layers[layer];
  const int lane = position % kKvBlockPositions;
  const auto load = [&](const std::byte* base, int64_t index, const std::byte* scale) {
    if (layout.type == KvType::kF32) return Load<float>(base, index);
    if (layout.type == KvType::kBF16) return FloatFromBF16(Load<uint16_t>(base, index));
    return Load<float>(scale, 0) * static_cast<float>(Load<int8_t>(base, index));
  };
  for (int h = 0; h < heads; ++h) {
    const std::byte* const k_base = block + layout.layer_offset[layer] + h * layout.head_bytes(layer);
    const std::byte* const v_base = k_base + layout.half_bytes(layer);
    const std::byte* const scales = v_base + layout.half_bytes(layer);
    for (int d = 0; d < head_dim; ++d) {
      const int64_t at = int64_t{h} * head_dim + d;
      k[at] = load(k_base, int64_t{d} * kKvBlockPositions + lane, ScaleAt(scales, lane));
      v[at] = load(v_base, int64_t{lane} * head_dim + d, ScaleAt(scales, kKvBlockPositions + lane));
    }
  }
}

// Spans that the sequence's rows see, in full or in part.
int SpansOf(const SequenceRows& rows, int32_t window) {
  return rows.LastSeen(rows.num_rows - 1) / kAttentionSpan - rows.FirstSeen(0, window) / kAttentionSpan + 1;
}

// How a step is cut into tiles.
struct Cut {
  int pairs = kMaxPairs;  // of a group
  int spans = 0;          // of a tile; 0 = all that the group sees

  int Groups(const SequenceRows& rows, int heads_per_kv) const {
    return (rows.num_rows * heads_per_kv + pairs - 1) / pairs;
  }
};

// Full groups read each KV tile for as many pairs as can be. A step with few of them is cut finer, so that
// all threads have something to do: long contexts by spans, short ones into smaller groups.
Cut Plan(std::span<const SequenceRows> sequences, int kv_heads, int heads_per_kv, int32_t window,
         int num_threads) {
  Cut cut;
  const auto count = [&](bool spans) {
    int64_t tiles = 0;
    for (const SequenceRows& rows : sequences) {
      tiles += int64_t{cut.Groups(rows, heads_per_kv)} * kv_heads * (spans ? SpansOf(rows, window) : 1);
    }
    return tiles;
  };
  const int64_t wanted = int64_t{kTilesPerThread} * num_threads;
  const int64_t groups = count(false), spans = count(true);
  if (num_threads == 1 || groups >= wanted) return cut;
  if (spans >= kMinSpans * groups) {
    cut.spans = static_cast<int>(std::max<int64_t>(1, spans / wanted));
    return cut;
  }
  while (cut.pairs > kMinPairs && count(false) < wanted) cut.pairs /= 2;
  return cut;
}

// Calls run(rows, index) for each index below tiles_of(rows) of each sequence.
template <typename TilesOf, typename Run>
void ForEachOfSequences(std::span<const SequenceRows> sequences, const TilesOf& tiles_of, ThreadPool& pool,
                        const Run& run) {
  int num_tiles = 0;
  for (const SequenceRows& rows : sequences) num_tiles += tiles_of(rows);
  pool.ForEachTile(num_tiles, [&](int index) {
    const SequenceRows* rows = sequences.data();
    for (; index >= tiles_of(*rows); ++rows) index -= tiles_of(*rows);
    run(*rows, index);
  });
}

}  // namespace

void ReadKv(const KvCache& cache, int layer, std::span<const int32_t> blocks, int32_t position, float* k,
            float* v) {
  ReadRow(cache.block(blocks[position / kKvBlockPositions]), position, layer, cache.layout(), k, v);
}

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
               ThreadPool& pool, int32_t window) {
  TANDEM_CHECK(window >= 0);
  const auto [kv_heads, head_dim] = cache.layout().layers[layer];
  TANDEM_CHECK(num_heads % kv_heads == 0);
  const int heads_per_kv = num_heads / kv_heads;
  const Cut cut = Plan(sequences, kv_heads, heads_per_kv, window, pool.num_threads());

  const auto groups_of = [&](const SequenceRows& rows) { return cut.Groups(rows, heads_per_kv) * kv_heads; };
  const auto tile_of = [&](const SequenceRows& rows, int index) {  // index below groups_of(rows)
    const int begin = index / kv_heads * cut.pairs;
    return AttentionTile{.q = q,
                         .q_stride = q_stride,
                         .out = out,
                         .out_stride = out_stride,
                         .cache = &cache,
                         .rows = &rows,
                         .layer = layer,
                         .kv_head = index % kv_heads,
                         .heads_per_kv = heads_per_kv,
                         .scale = scale,
                         .window = window,
                         .pair_begin = begin,
                         .pair_end = std::min(rows.num_rows * heads_per_kv, begin + cut.pairs)};
  };
  if (cut.spans == 0) {
    ForEachOfSequences(sequences, groups_of, pool,
                       [&](const SequenceRows& rows, int index) { RunAttentionTile(tile_of(rows, index)); });
    return;
  }

  // Grow to what the longest context needs, and stay.
  static thread_local std::vector<float> partials;
  static thread_local std::vector<int64_t> begins;  // of each sequence
  const int64_t span_floats = PartialFloats(cut.pairs, head_dim);
  begins.clear();
  int64_t size = 0;
  for (const SequenceRows& rows : sequences) {
    begins.push_back(size);
    size += int64_t{groups_of(rows)} * SpansOf(rows, 0) * span_floats;
  }
  if (static_cast<int64_t>(partials.size()) < size) partials.resize(size);
  float* const all_partials = partials.data();
  const int64_t* const all_begins = begins.data();
  const auto group_of = [&](const SequenceRows& rows, int index) {
    AttentionTile tile = tile_of(rows, index);
    tile.partials =
        all_partials + all_begins[&rows - sequences.data()] + index * SpansOf(rows, 0) * span_floats;
    return tile;
  };
  const auto tiles_of = [&](const SequenceRows& rows) {
    return groups_of(rows) * ((SpansOf(rows, window) + cut.spans - 1) / cut.spans);
  };
  ForEachOfSequences(sequences, tiles_of, pool, [&](const SequenceRows& rows, int index) {
    AttentionTile tile = group_of(rows, index % groups_of(rows));
    tile.span_begin = rows.FirstSeen(0, window) / kAttentionSpan + index / groups_of(rows) * cut.spans;
    tile.span_end = tile.span_begin + cut.spans;
    RunAttentionTile(tile);
  });
  ForEachOfSequences(sequences, groups_of, pool,
                     [&](const SequenceRows& rows, int index) { MergeAttentionTile(group_of(rows, index)); });
}

}  // namespace tandem::kernels
