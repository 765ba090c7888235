#include "common/kernels/gemm.h"

#include <algorithm>

#include "common/base/status.h"
#include "common/kernels/cpu/gemm_tile.h"
#include "common/kernels/cpu/panel.h"
#include "common/kernels/cpu/row_kernels.h"
#include "common/kernels/cpu/row_tiles.h"
#include "common/kernels/half.h"

namespace tandem::kernels {
namespace {

constexpr int kTokensPerTile = 48;
constexpr int kTilesPerThread = 6;
constexpr int64_t kPanelMultiple = 8;  // panels that the register tiles of few tokens take at once
constexpr int64_t kMinTileWork = 32 << 10;

// About what a panel costs for one token tile, in bytes read: 16 multiply-adds take as long as a byte.
int64_t PanelWork(const Activations& x, const Matrix& w) {
  return w.panel_bytes() + std::min(x.tokens(), kTokensPerTile) * w.cols();
}

}  // namespace

Activations::Activations(int max_tokens, int max_cols, ActivationType type) : type_(type) {
  const size_t size = static_cast<size_t>(max_tokens) * max_cols;
  if (type == ActivationType::kBF16) rounded_.resize(size);
  if (type == ActivationType::kInt8) {
    q_.resize(size);
    scales_.resize(size / kBlockColumns);
    sums_.resize(size / kBlockColumns);
    negated_sums_.resize(size / kBlockColumns);
  }
}

void Activations::Load(std::span<const float> x, int tokens, int cols, ThreadPool& pool) {
  const size_t size = static_cast<size_t>(tokens) * cols;
  TANDEM_CHECK(x.size() >= size);
  tokens_ = tokens;
  cols_ = cols;
  f32_ = x.data();
  if (type_ == ActivationType::kBF16) {
    TANDEM_CHECK(size <= rounded_.size());
    ForEachRange(static_cast<int64_t>(size), 1, pool, [&](int64_t begin, int64_t end) {
      const float* const in = x.data();
      float* const out = rounded_.data();
      for (int64_t i = begin; i < end; ++i) out[i] = FloatFromBF16(BF16FromFloat(in[i]));
    });
    f32_ = rounded_.data();
  }
  if (type_ != ActivationType::kInt8 || cols % kBlockColumns != 0) return;
  TANDEM_CHECK(size <= q_.size());
  const auto num_blocks = static_cast<int64_t>(size) / kBlockColumns;
  ForEachRange(num_blocks, 2 * kBlockColumns, pool, [&](int64_t begin, int64_t end) {
    QuantiseRow(x.data() + begin * kBlockColumns, end - begin, q_.data() + begin * kBlockColumns,
                scales_.data() + begin, sums_.data() + begin, negated_sums_.data() + begin);
  });
}

void Activations::Begin(int cols) {
  TANDEM_CHECK(type_ == ActivationType::kInt8 && cols % kBlockColumns == 0);
  tokens_ = 0;
  cols_ = cols;
  f32_ = nullptr;
}

void Activations::Append(std::span<const std::span<const float>> parts) {
  int64_t block = int64_t{tokens_} * cols_ / kBlockColumns;
  const int64_t end = block + cols_ / kBlockColumns;
  TANDEM_CHECK(end <= static_cast<int64_t>(scales_.size()));
  for (const std::span<const float> part : parts) {
    const auto num_blocks = static_cast<int64_t>(part.size()) / kBlockColumns;
    TANDEM_CHECK(part.size() % kBlockColumns == 0 && block + num_blocks <= end);
    QuantiseRow(part.data(), num_blocks, q_.data() + block * kBlockColumns, scales_.data() + block,
                sums_.data() + block, negated_sums_.data() + block);
    block += num_blocks;
  }
  TANDEM_CHECK(block == end);
  ++tokens_;
}

void Gemm(const Activations& x, const Matrix& w, float* y, int64_t stride, ThreadPool& pool) {
  const GemmOutput output = {&w, y, stride};
  GemmMany(x, {&output, 1}, pool);
}

bool UsesIntegers(const Activations& x, const Matrix& w) {
  return x.type() == ActivationType::kInt8 && IsQuantised(w.type());
}

void GemmMany(const Activations& x, std::span<const GemmOutput> outputs, ThreadPool& pool) {
  // Tiles cover kTokensPerTile tokens and as many panels as make them worth a thread's while, yet several per
  // thread, so that none waits long for the last.
  const int token_tiles = (x.tokens() + kTokensPerTile - 1) / kTokensPerTile;
  int64_t total_work = 0;
  for (const GemmOutput& output : outputs) {
    TANDEM_CHECK(output.w->cols() == x.cols());
    total_work += output.w->num_panels() * PanelWork(x, *output.w);
  }
  const int64_t tile_work = pool.num_threads() == 1
                                ? total_work
                                : std::max(kMinTileWork, total_work / (pool.num_threads() * kTilesPerThread));
  const auto panels_per_tile = [&](const Matrix& w) {
    const int64_t panels = std::max<int64_t>(1, tile_work / PanelWork(x, w));
    return std::min(w.num_panels(), (panels + kPanelMultiple - 1) / kPanelMultiple * kPanelMultiple);
  };
  const auto panel_tiles = [&](const Matrix& w) {
    const int64_t panels = panels_per_tile(w);
    return static_cast<int>((w.num_panels() + panels - 1) / panels);
  };
  int num_tiles = 0;
  for (const GemmOutput& output : outputs) num_tiles += panel_tiles(*output.w) * token_tiles;

  pool.ForEachTile(num_tiles, [&](int index) {
    const GemmOutput* output = outputs.data();
    while (index >= panel_tiles(*output->w) * token_tiles) {
      index -= panel_tiles(*output->w) * token_tiles;
      ++output;
    }
    const Matrix& w = *output->w;
    const int64_t panels = panels_per_tile(w);
    // Token tiles of the same panels follow each other: the weights stay in cache.
    const int64_t panel = index / token_tiles * panels;
    const int token = index % token_tiles * kTokensPerTile;
    const GemmTile tile = {.x = &x,
                           .w = &w,
                           .y = output->y,
                           .stride = output->stride == 0 ? w.rows() : output->stride,
                           .panel_begin = panel,
                           .panel_end = std::min(w.num_panels(), panel + panels),
                           .token_begin = token,
                           .token_end = std::min(x.tokens(), token + kTokensPerTile)};
    if (UsesIntegers(x, w)) {
      RunIntegerTile(tile);
    } else {
      RunFloatTile(tile);
    }
  });
}

}  // namespace tandem::kernels
