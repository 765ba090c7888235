// The loops of attention.h for a group of (row, query head) pairs, span by span: all scores of a span, then
// the running maxima and exponentials of each pair, then the weighted sums of V with the outputs in
// registers.
#include "common/kernels/cpu/attention_tile.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "common/base/status.h"
#include "common/kernels/cpu/targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/cpu/attention_tile.cc"
#include "hwy/foreach_target.h"
//
#include "common/kernels/cpu/lanes-inl.h"
#include "common/kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {
namespace {

static_assert(kKvBlockPositions == kLanes);
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr int kSpanTiles = kAttentionSpan / kKvBlockPositions;
static_assert(kSpanTiles <= kLanes);  // one vector holds a span's rescaling factors

// Register tiles: pairs x KV tiles for scores, pairs x vectors of head dimension for outputs.
inline constexpr int kPairBatch = kRegs == 1 ? 4 : 2;
inline constexpr int kScoreTiles = kRegs == 1 ? 4 : 2;
inline constexpr int kOutputVectors = kRegs == 1 ? 4 : 2;

// Everything a group of pairs needs, on the caller's stack.
struct Work {
  // q * scale, [pairs][kMaxHeadDim].
  alignas(64) float q[kMaxPairs * kMaxHeadDim];
  // Scores, then exponentials of one span: [pairs][span].
  alignas(64) float s[kMaxPairs * kAttentionSpan];
  // exp(m - m') of one span: [pairs][tile].
  alignas(64) float c[kMaxPairs * kLanes];
  // Outputs of this span and of those before, [pairs][kMaxHeadDim].
  alignas(64) float o[kMaxPairs * kMaxHeadDim];
  alignas(64) float total_o[kMaxPairs * kMaxHeadDim];
  float m[kMaxPairs], l[kMaxPairs], total_m[kMaxPairs], total_l[kMaxPairs];
  // The first and the last position that each pair sees; both ascend with the pairs.
  int first[kMaxPairs] = {};
  int position[kMaxPairs] = {};
};

// Where a span's K and V of one KV head lie; behind the span's tiles the K that is read next.
struct SpanKv {
  const std::byte* k[kSpanTiles + kScoreTiles];
  const std::byte* v[kSpanTiles];
  int64_t half_bytes;  // of each

  // In int8: of K behind V, then of V.
  const float* KScales(int tile) const { return reinterpret_cast<const float*>(v[tile] + half_bytes); }
  const float* VScales(int tile) const { return KScales(tile) + kLanes; }
};

template <KvType type>
HWY_INLINE F32x16 LoadKv(const std::byte* base, int64_t element) {
  if constexpr (type == KvType::kF32) {
    return Load(reinterpret_cast<const float*>(base) + element);
  } else if constexpr (type == KvType::kBF16) {
    return LoadBF16(reinterpret_cast<const uint16_t*>(base) + element);
  } else {
    return LoadInt8(reinterpret_cast<const int8_t*>(base) + element);
  }
}

// s[j] for `tiles` tiles from `tile` on and P pairs from `pair` on.
template <KvType type, int P, int tiles>
HWY_NOINLINE void Scores(const SpanKv& kv, int tile, int pair, int head_dim, Work& work) {
  F32x16 s[P][tiles];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int i = 0; i < tiles; ++i) s[p][i] = Set(0.0f);
  }
  const std::byte* k[tiles];
  for (int i = 0; i < tiles; ++i) k[i] = kv.k[tile + i];
  // Blocks lie far from each other, so that nothing but this asks for them early: the first pairs fetch the
  // next tiles' K and these tiles' V.
  constexpr int kColumnBytes = kLanes * (type == KvType::kF32 ? 4 : type == KvType::kBF16 ? 2 : 1);
  constexpr int kLineColumns = 64 / kColumnBytes;
  const bool fetch = pair == 0;
  const float* q = work.q + pair * kMaxHeadDim;
  for (int d = 0; d < head_dim; ++d, ++q) {
    if (fetch && d % kLineColumns == 0) {
#pragma GCC unroll 8
      for (int i = 0; i < tiles; ++i) {
        __builtin_prefetch(kv.k[tile + tiles + i] + int64_t{d} * kColumnBytes);
        __builtin_prefetch(kv.v[tile + i] + int64_t{d} * kColumnBytes);
      }
    }
    F32x16 column[tiles];
#pragma GCC unroll 8
    for (int i = 0; i < tiles; ++i) column[i] = LoadKv<type>(k[i], int64_t{d} * kLanes);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const F32x16 value = Set(q[p * kMaxHeadDim]);
#pragma GCC unroll 8
      for (int i = 0; i < tiles; ++i) s[p][i] = MulAdd(value, column[i], s[p][i]);
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int i = 0; i < tiles; ++i) {
      if constexpr (type == KvType::kInt8) s[p][i] = Mul(s[p][i], Load(kv.KScales(tile + i)));
      Store(s[p][i], work.s + (pair + p) * kAttentionSpan + (tile + i) * kLanes);
    }
  }
}

// Visible positions of a pair in the span's tile: 16 or more means all, 0 or less none.
HWY_INLINE int Visible(const Work& work, int pair, int span_start, int tile) {
  return work.position[pair] + 1 - (span_start + tile * kLanes);
}

// Lanes of the span's tile before the pair's first position: 0 or less means none.
HWY_INLINE int Hidden(const Work& work, int pair, int span_start, int tile) {
  return work.first[pair] - (span_start + tile * kLanes);
}

// The tile of a span of `tiles` with which a pair begins; `tiles` if it does not see that far back.
HWY_INLINE int FirstTile(const Work& work, int pair, int span_start, int tiles) {
  return std::min(std::max(0, work.first[pair] - span_start) / kLanes, tiles);
}

// Scores to exponentials, running maximum and sum of one pair. In int8 the exponentials leave with V's scales
// in them, ready for the sums over V; lanes that are not seen leave as anything.
template <KvType type>
void Softmax(const SpanKv& kv, int pair, int span_start, int tiles, Work& work) {
  float* const s = work.s + pair * kAttentionSpan;
  float* const c = work.c + pair * kLanes;
  alignas(64) float sums[kSpanTiles];
  float m = -kInfinity;
  std::fill(c, c + kLanes, 0.0f);
  const int begin = FirstTile(work, pair, span_start, tiles);
  int used = begin;
  for (; used < tiles && Visible(work, pair, span_start, used) > 0; ++used) {
    const int visible = Visible(work, pair, span_start, used), hidden = Hidden(work, pair, span_start, used);
    F32x16 scores = Load(s + used * kLanes);
    if (visible < kLanes) scores = FirstN(scores, visible, -kInfinity);
    if (hidden > 0) scores = FromN(scores, hidden, -kInfinity);
    const float tile_max = TreeMax(scores);
    const float next = m > tile_max ? m : tile_max;
    F32x16 e = ExpLanes(Sub(scores, Set(next)));
    if (visible < kLanes) e = FirstN(e, visible, 0.0f);
    if (hidden > 0) e = FromN(e, hidden, 0.0f);
    sums[used] = TreeSum(e);
    if constexpr (type == KvType::kInt8) e = Mul(e, Load(kv.VScales(used)));
    Store(e, s + used * kLanes);
    c[used] = m - next;
    m = next;
  }
  Store(ExpLanes(Load(c)), c);
  float l = 0.0f;
  for (int tile = begin; tile < used; ++tile) l = std::fma(l, c[tile], sums[tile]);
  work.m[pair] = m;
  work.l[pair] = l;
}

// Tiles [begin, end) of a span, of each of which positions [first, last) count.
struct TileRange {
  int begin, end, first, last;
};

// o of P pairs and V vectors of 16 dimensions from d on, over the tiles.
template <KvType type, int P, int V>
HWY_NOINLINE void Outputs(const SpanKv& kv, const TileRange& tiles, int pair, int d, int head_dim,
                          Work& work) {
  F32x16 o[P][V];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) o[p][i] = Load(work.o + (pair + p) * kMaxHeadDim + d + i * kLanes);
  }
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const F32x16 c = Set(work.c[(pair + p) * kLanes + tile]);
#pragma GCC unroll 8
      for (int i = 0; i < V; ++i) o[p][i] = Mul(o[p][i], c);
    }
    const std::byte* const v = kv.v[tile];
    const float* const e = work.s + pair * kAttentionSpan + tile * kLanes;
    for (int j = tiles.first; j < tiles.last; ++j) {
      F32x16 row[V];
#pragma GCC unroll 8
      for (int i = 0; i < V; ++i) row[i] = LoadKv<type>(v, int64_t{j} * head_dim + d + i * kLanes);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const F32x16 value = Set(e[p * kAttentionSpan + j]);
#pragma GCC unroll 8
        for (int i = 0; i < V; ++i) o[p][i] = MulAdd(value, row[i], o[p][i]);
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) Store(o[p][i], work.o + (pair + p) * kMaxHeadDim + d + i * kLanes);
  }
}

// Tables by pairs - 1.
using ScoresFunction = void (*)(const SpanKv&, int, int, int, Work&);
using OutputsFunction = void (*)(const SpanKv&, const TileRange&, int, int, int, Work&);

template <KvType type, int tiles, int... i>
ScoresFunction PickScores(int pairs, std::integer_sequence<int, i...>) {
  static constexpr ScoresFunction kTable[] = {&Scores<type, i + 1, tiles>...};
  return kTable[pairs - 1];
}
template <KvType type, int V, int... i>
OutputsFunction PickOutputs(int pairs, std::integer_sequence<int, i...>) {
  static constexpr OutputsFunction kTable[] = {&Outputs<type, i + 1, V>...};
  return kTable[pairs - 1];
}
inline constexpr auto kPairs = std::make_integer_sequence<int, kPairBatch>();

template <KvType type>
void AllOutputs(const SpanKv& kv, const TileRange& tiles, int pair, int pairs, int head_dim, Work& work) {
  const int vectors = (head_dim + kLanes - 1) / kLanes;
  int i = 0;
  for (; i + kOutputVectors <= vectors; i += kOutputVectors) {
    PickOutputs<type, kOutputVectors>(pairs, kPairs)(kv, tiles, pair, i * kLanes, head_dim, work);
  }
  for (; i < vectors; ++i) {
    PickOutputs<type, 1>(pairs, kPairs)(kv, tiles, pair, i * kLanes, head_dim, work);
  }
}

// `pairs` pairs of one row over those of tiles [begin, end) that it sees, in full or in part.
template <KvType type>
void OutputsOfRow(const SpanKv& kv, int span_start, int begin, int end, int pair, int pairs, int head_dim,
                  Work& work) {
  for (int tile = begin; tile < end && Visible(work, pair, span_start, tile) > 0; ++tile) {
    const int first = std::max(0, Hidden(work, pair, span_start, tile));
    const int last = std::min(kLanes, Visible(work, pair, span_start, tile));
    AllOutputs<type>(kv, {tile, tile + 1, first, last}, pair, pairs, head_dim, work);
  }
}

// One span for all pairs of the group, from the first tile that any of them sees; leaves (m, l, o) of the
// span.
template <KvType type>
void RunSpan(const SpanKv& kv, int span_start, int first_tile, int tiles, int pairs, int head_dim,
             Work& work) {
  for (int pair = 0; pair < pairs; pair += kPairBatch) {
    const int batch = std::min(kPairBatch, pairs - pair);
    int tile = first_tile;
    for (; tile + kScoreTiles <= tiles; tile += kScoreTiles) {
      PickScores<type, kScoreTiles>(batch, kPairs)(kv, tile, pair, head_dim, work);
    }
    for (; tile < tiles; ++tile) PickScores<type, 1>(batch, kPairs)(kv, tile, pair, head_dim, work);
  }
  for (int pair = 0; pair < pairs; ++pair) {
    Softmax<type>(kv, pair, span_start, tiles, work);
    float* const o = work.o + pair * kMaxHeadDim;
    std::fill(o, o + (head_dim + kLanes - 1) / kLanes * kLanes, 0.0f);
  }
  for (int pair = 0; pair < pairs; pair += kPairBatch) {
    const int batch = std::min(kPairBatch, pairs - pair), last = pair + batch - 1;
    // Positions ascend with the pairs: what the first sees at the end and the last at the beginning, all do.
    const int end = std::clamp((work.position[pair] + 1 - span_start) / kLanes, 0, tiles);
    const int begin = std::min((std::max(0, work.first[last] - span_start) + kLanes - 1) / kLanes, end);
    const bool same_row = work.position[pair] == work.position[last];
    const int step = same_row ? batch : 1;
    for (int p = pair; p <= last; p += step) {
      const int row_begin = FirstTile(work, p, span_start, tiles);
      OutputsOfRow<type>(kv, span_start, row_begin, begin, p, step, head_dim, work);
    }
    AllOutputs<type>(kv, {begin, end, 0, kLanes}, pair, batch, head_dim, work);
    for (int p = pair; p <= last; p += step) {
      const int row_end = std::max(end, FirstTile(work, p, span_start, tiles));
      OutputsOfRow<type>(kv, span_start, row_end, tiles, p, step, head_dim, work);
    }
  }
}

// Adds the span's (m, l, o) of one pair to the totals; the first span becomes them.
void MergeSpan(int pair, bool first, int head_dim, Work& work) {
  float* const total = work.total_o + pair * kMaxHeadDim;
  const float* const o = work.o + pair * kMaxHeadDim;
  if (first) {
    work.total_m[pair] = work.m[pair];
    work.total_l[pair] = work.l[pair];
    for (int d = 0; d < head_dim; d += kLanes) Store(Load(o + d), total + d);
    return;
  }
  const float m = work.total_m[pair] > work.m[pair] ? work.total_m[pair] : work.m[pair];
  alignas(64) float factors[kLanes] = {work.total_m[pair] - m, work.m[pair] - m};
  Store(ExpLanes(Load(factors)), factors);
  const float a = factors[0], b = factors[1];
  work.total_l[pair] = std::fma(work.total_l[pair], a, work.l[pair] * b);
  work.total_m[pair] = m;
  for (int d = 0; d < head_dim; d += kLanes) {
    Store(MulAdd(Load(total + d), Set(a), Mul(Load(o + d), Set(b))), total + d);
  }
}

// Where the span begins that a position lies in.
HWY_INLINE int SpanOf(int position) { return position / kAttentionSpan * kAttentionSpan; }

// What the group's pairs stand for, in `work` and in the caller's arrays.
struct Group {
  explicit Group(const AttentionTile& tile)
      : tile(tile),
        head_dim(tile.cache->layout().layers[tile.layer].head_dim),
        pairs(tile.pair_end - tile.pair_begin) {
    TANDEM_CHECK(head_dim <= kMaxHeadDim);
  }

  int row_of(int pair) const { return (tile.pair_begin + pair) / tile.heads_per_kv; }
  int64_t head_of(int pair) const {
    return int64_t{tile.kv_head} * tile.heads_per_kv + (tile.pair_begin + pair) % tile.heads_per_kv;
  }

  void SetPositions(Work& work) const {
    for (int pair = 0; pair < pairs; ++pair) {
      work.first[pair] = tile.rows->FirstSeen(row_of(pair), tile.window);
      work.position[pair] = tile.rows->LastSeen(row_of(pair));
    }
  }

  HWY_ATTR void LoadQueries(Work& work) const {
    for (int pair = 0; pair < pairs; ++pair) {
      const float* const q =
          tile.q + (tile.rows->first_row + row_of(pair)) * tile.q_stride + head_of(pair) * head_dim;
      float* const scaled = work.q + pair * kMaxHeadDim;
      int d = 0;
      for (; d + kLanes <= head_dim; d += kLanes) Store(Mul(Load(q + d), Set(tile.scale)), scaled + d);
      for (; d < head_dim; ++d) scaled[d] = q[d] * tile.scale;
    }
  }

  HWY_ATTR void StoreOutputs(Work& work) const {
    for (int pair = 0; pair < pairs; ++pair) {
      float* const out =
          tile.out + (tile.rows->first_row + row_of(pair)) * tile.out_stride + head_of(pair) * head_dim;
      float* const o = work.total_o + pair * kMaxHeadDim;
      const F32x16 l = Set(work.total_l[pair]);
      for (int d = 0; d < head_dim; d += kLanes) Store(Div(Load(o + d), l), o + d);
      std::copy(o, o + head_dim, out);
    }
  }

  // One pair's part of a span's partials: m, l, 14 lanes of nothing, o.
  float* Partial(int span, int pair) const {
    const int64_t floats = PartialFloats(1, head_dim);
    return tile.partials + (int64_t{span} * pairs + pair) * floats;
  }

  const AttentionTile& tile;
  const int head_dim, pairs;
};

// K and V of the span's tiles [first_tile, tiles), and the K of up to kScoreTiles tiles behind them.
SpanKv FindKv(const AttentionTile& tile, int start, int first_tile, int tiles, int last_position) {
  const KvLayout& layout = tile.cache->layout();
  const int64_t kv_offset = layout.layer_offset[tile.layer] + tile.kv_head * layout.head_bytes(tile.layer);
  const int last_tile = last_position / kKvBlockPositions;
  SpanKv kv;
  kv.half_bytes = layout.half_bytes(tile.layer);
  for (int i = first_tile; i < tiles + kScoreTiles; ++i) {
    const int block = std::min(start / kKvBlockPositions + i, last_tile);
    kv.k[i] = tile.cache->block(tile.rows->blocks[block]) + kv_offset;
    if (i < tiles) kv.v[i] = kv.k[i] + kv.half_bytes;
  }
  return kv;
}

void AttentionTileRun(const AttentionTile& tile) {
  const Group group(tile);
  const int head_dim = group.head_dim, pairs = group.pairs;
  Work work;
  group.SetPositions(work);
  group.LoadQueries(work);
  const int last_position = work.position[pairs - 1];
  int start = SpanOf(work.first[0]), end = last_position + 1;
  if (tile.partials != nullptr) {
    start = std::max(start, tile.span_begin * kAttentionSpan);
    end = std::min(end, tile.span_end * kAttentionSpan);
  }
  for (; start < end; start += kAttentionSpan) {
    // Pairs whose row lies before this span have their totals already; some may not see this far back.
    int first_pair = 0, end_pair = pairs;
    while (first_pair < pairs && work.position[first_pair] < start) ++first_pair;
    while (work.first[end_pair - 1] >= start + kAttentionSpan) --end_pair;
    const int tiles = std::min(kSpanTiles, (last_position - start) / kKvBlockPositions + 1);
    const int first_tile = FirstTile(work, first_pair, start, tiles);
    const SpanKv kv = FindKv(tile, start, first_tile, tiles, last_position);
    switch (tile.cache->layout().type) {
      case KvType::kF32:
        RunSpan<KvType::kF32>(kv, start, first_tile, tiles, pairs, head_dim, work);
        break;
      case KvType::kBF16:
        RunSpan<KvType::kBF16>(kv, start, first_tile, tiles, pairs, head_dim, work);
        break;
      case KvType::kInt8:
        RunSpan<KvType::kInt8>(kv, start, first_tile, tiles, pairs, head_dim, work);
        break;
    }
    for (int pair = first_pair; pair < end_pair; ++pair) {
      if (tile.partials == nullptr) {
        MergeSpan(pair, start == SpanOf(work.first[pair]), head_dim, work);
        continue;
      }
      float* const partial = group.Partial(start / kAttentionSpan, pair);
      partial[0] = work.m[pair];
      partial[1] = work.l[pair];
      const float* const o = work.o + pair * kMaxHeadDim;
      std::copy(o, o + head_dim, partial + kLanes);
    }
  }
  if (tile.partials == nullptr) group.StoreOutputs(work);
}

void AttentionTileMerge(const AttentionTile& tile) {
  const Group group(tile);
  Work work;
  group.SetPositions(work);
  for (int pair = 0; pair < group.pairs; ++pair) {
    const int first = SpanOf(work.first[pair]);
    for (int start = first; start <= work.position[pair]; start += kAttentionSpan) {
      const float* const partial = group.Partial(start / kAttentionSpan, pair);
      work.m[pair] = partial[0];
      work.l[pair] = partial[1];
      std::copy(partial + kLanes, partial + kLanes + group.head_dim, work.o + pair * kMaxHeadDim);
      MergeSpan(pair, start == first, group.head_dim, work);
    }
  }
  group.StoreOutputs(work);
}

}  // namespace
}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(AttentionTileRun);
void RunAttentionTile(const AttentionTile& tile) { HWY_DYNAMIC_DISPATCH(AttentionTileRun)(tile); }
HWY_EXPORT(AttentionTileMerge);
void MergeAttentionTile(const AttentionTile& tile) { HWY_DYNAMIC_DISPATCH(AttentionTileMerge)(tile); }

}  // namespace tandem::kernels
#endif
