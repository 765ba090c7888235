// Products in f32: register tiles of P panels times T tokens, each accumulator one chain of fused
// multiply-adds over the columns. Few tokens take more panels, so that enough independent chains hide the
// latency.
#include <algorithm>
#include <utility>

#include "common/kernels/cpu/targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/cpu/gemm_float.cc"
#include "hwy/foreach_target.h"
//
#include "common/kernels/cpu/gemm_tile.h"
#include "common/kernels/cpu/lanes-inl.h"
#include "common/kernels/cpu/panel.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {
namespace {

// Registers: 32 on AVX-512 and NEON, 16 on AVX2. Accumulators take P * T * kRegs, weights P * kRegs.
inline constexpr int kMaxTokens = kRegs == 1 ? 12 : 6;
constexpr int PanelsFor(int tokens) {
  if (kRegs == 1) return tokens <= 2 ? 8 : tokens <= 4 ? 4 : 2;
  if (kRegs == 2) return tokens == 1 ? 4 : tokens <= 3 ? 2 : 1;
  return tokens == 1 ? 4 : tokens <= 3 ? 2 : 1;
}
inline constexpr int kMaxPanels = 8;
// Tokens whose accumulators are kept in memory while a chunk of decoded weights serves them.
inline constexpr int kTokensInFlight = 48;
inline constexpr int kChunkColumns = 128;

enum class Source { kF32, kBF16 };

template <Source source>
HWY_INLINE F32x16 LoadWeights(const std::byte* p) {
  if constexpr (source == Source::kF32) {
    return Load(reinterpret_cast<const float*>(p));
  } else {
    return LoadBF16(reinterpret_cast<const uint16_t*>(p));
  }
}

// What to fetch while a tile runs, laid out as its weights are: from `begin` on for `cols` columns, then from
// `next` on. Null = nothing.
struct Ahead {
  const std::byte* begin = nullptr;
  int64_t cols = 0;
  const std::byte* next = nullptr;
};

// One register tile over `cols` columns: weights of panel p at w + p * panel_stride, activations of token t
// at x + t * x_stride, accumulators of both at acc + t * acc_stride + 16 p, which are read unless they begin
// at zero here.
struct FloatRun {
  const std::byte* w;
  int64_t panel_stride;
  const float* x;
  int64_t x_stride;
  int64_t cols;
  float* acc;
  int64_t acc_stride;
  bool from_zero;
  Ahead ahead;
};

// With few tokens the processor itself looks far enough ahead; fetches would only cost (4 % for one token).
template <int T>
inline constexpr bool kFetchAhead = T > 2;

template <int P, int T, Source source>
HWY_NOINLINE void RunRegisters(const FloatRun& run) {
  constexpr int64_t kColumnBytes = source == Source::kF32 ? kLanes * 4 : kLanes * 2;
  F32x16 acc[T][P];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) acc[t][p] = Set(0.0f);
  }
  if (!run.from_zero) {
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) acc[t][p] = Load(run.acc + t * run.acc_stride + p * kLanes);
    }
  }
  const std::byte* w = run.w;
  const float* x = run.x;
  const int64_t panel_stride = run.panel_stride, x_stride = run.x_stride;
  const std::byte* ahead = run.ahead.begin;
  for (int64_t c = 0; c < run.cols; ++c, w += kColumnBytes, ++x) {
    if (kFetchAhead<T> && c == run.ahead.cols) ahead = run.ahead.next;
    if (kFetchAhead<T> && ahead != nullptr) {
      // Every other column of bf16 begins a cache line.
      if (source == Source::kF32 || c % 2 == 0) {
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) __builtin_prefetch(ahead + p * panel_stride);
      }
      ahead += kColumnBytes;
    }
    F32x16 weights[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) weights[p] = LoadWeights<source>(w + p * panel_stride);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const F32x16 value = Set(x[t * x_stride]);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) acc[t][p] = MulAdd(value, weights[p], acc[t][p]);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) Store(acc[t][p], run.acc + t * run.acc_stride + p * kLanes);
  }
}

using RunFunction = void (*)(const FloatRun&);

// By tokens - 1: the full register tile, and the one for what is left of the panels.
template <Source source, bool single, int... i>
RunFunction Pick(int tokens, std::integer_sequence<int, i...>) {
  static constexpr RunFunction kTable[] = {&RunRegisters < single ? 1 : PanelsFor(i + 1), i + 1,
                                           source > ...};
  return kTable[tokens - 1];
}

RunFunction PickRun(Source source, bool single, int tokens) {
  constexpr auto kTokens = std::make_integer_sequence<int, kMaxTokens>();
  if (source == Source::kF32) {
    return single ? Pick<Source::kF32, true>(tokens, kTokens) : Pick<Source::kF32, false>(tokens, kTokens);
  }
  return single ? Pick<Source::kBF16, true>(tokens, kTokens) : Pick<Source::kBF16, false>(tokens, kTokens);
}

// Decodes `blocks` blocks from block `first` of one panel to f32, [cols][16].
void DecodeBlocks(const Matrix& w, const std::byte* panel, int64_t first, int64_t blocks, float* out) {
  const WeightType type = w.type();
  const float offset = static_cast<float>(QuantOffset(type, w.has_minimum()));
  const auto* scales =
      reinterpret_cast<const uint16_t*>(panel + ScalesOffset(type, w.cols())) + first * kPanelRows;
  const auto* minimums =
      reinterpret_cast<const uint16_t*>(panel + MinimumsOffset(type, w.cols())) + first * kPanelRows;
  const std::byte* quants = panel + first * QuantBlockBytes(type);
  const F32x16 offsets = Set(offset);
  for (int64_t b = 0; b < blocks; ++b) {
    const F32x16 scale = LoadF16(scales + b * kPanelRows);
    const F32x16 minimum = w.has_minimum() ? LoadF16(minimums + b * kPanelRows) : Set(0.0f);
    const auto put = [&](const F32x16& q, int column)
                         HWY_ATTR { Store(MulAdd(scale, Sub(q, offsets), minimum), out + column * kLanes); };
    // A lane's 32-bit word holds 4 columns; of nibbles, the upper ones lie 16 columns further.
    if (type == WeightType::kInt8) {
      for (int i = 0; i < kGroupsPerBlock; ++i) {
        const std::byte* const words = quants + i * kLanes * 4;
        put(LoadBits<0, 8>(words), i * 4);
        put(LoadBits<8, 8>(words), i * 4 + 1);
        put(LoadBits<16, 8>(words), i * 4 + 2);
        put(LoadBits<24, 8>(words), i * 4 + 3);
      }
    } else {
      for (int i = 0; i < kGroupsPerBlock / 2; ++i) {
        const std::byte* const words = quants + i * kLanes * 4;
        put(LoadBits<0, 4>(words), i * 4);
        put(LoadBits<4, 4>(words), i * 4 + 16);
        put(LoadBits<8, 4>(words), i * 4 + 1);
        put(LoadBits<12, 4>(words), i * 4 + 17);
        put(LoadBits<16, 4>(words), i * 4 + 2);
        put(LoadBits<20, 4>(words), i * 4 + 18);
        put(LoadBits<24, 4>(words), i * 4 + 3);
        put(LoadBits<28, 4>(words), i * 4 + 19);
      }
    }
    quants += QuantBlockBytes(type);
    out += kBlockColumns * kLanes;
  }
}

// The sizes of register tiles over n tokens: as equal as can be, none above kMaxTokens.
int NextTokens(int left) {
  const int parts = (left + kMaxTokens - 1) / kMaxTokens;
  return (left + parts - 1) / parts;
}

void StoreTile(const GemmTile& tile, const float* acc, int64_t panel, int panels, int first_token,
               int tokens) {
  const int64_t rows = tile.w->rows();
  for (int t = 0; t < tokens; ++t) {
    float* const y = tile.y + (first_token + t) * tile.stride;
    for (int p = 0; p < panels; ++p) {
      const int64_t row = (panel + p) * kPanelRows;
      const int64_t n = std::min<int64_t>(kPanelRows, rows - row);
      const float* const from = acc + (t * panels + p) * kLanes;
      if (n == kPanelRows) {
        Store(Load(from), y + row);
      } else {
        std::copy(from, from + n, y + row);
      }
    }
  }
}

// Panels [panel, panel + panels) for up to kTokensInFlight tokens.
void RunPanels(const GemmTile& tile, int64_t panel, int panels, bool single, int first_token, int tokens) {
  const Matrix& w = *tile.w;
  const int64_t cols = w.cols();
  alignas(64) float buffer[kTokensInFlight * kMaxPanels * kLanes];
  // Whole panels whose columns are all at hand go straight to where they belong.
  const bool direct = !IsQuantised(w.type()) && (panel + panels) * kPanelRows <= w.rows();
  float* const acc = direct ? tile.y + first_token * tile.stride + panel * kPanelRows : buffer;
  const int64_t acc_stride = direct ? tile.stride : int64_t{panels} * kLanes;
  const float* const x = tile.x->f32() + first_token * cols;
  const auto run_tokens = [&](Source source, const std::byte* weights, int64_t stride, int64_t column,
                              int64_t n, Ahead ahead) {
    for (int t = 0; t < tokens;) {
      const int count = NextTokens(tokens - t);
      PickRun(source, single, count)({weights, stride, x + t * cols + column, cols, n, acc + t * acc_stride,
                                      acc_stride, column == 0, ahead});
      t += count;
      ahead = {};
    }
  };
  if (!IsQuantised(w.type())) {
    const Source source = w.type() == WeightType::kF32 ? Source::kF32 : Source::kBF16;
    const int64_t column_bytes = source == Source::kF32 ? kLanes * 4 : kLanes * 2;
    const int64_t distance = std::min(cols, kPrefetchBytes / (column_bytes * panels));
    const std::byte* const begin = w.panel(panel);
    const std::byte* const next = panel + 2 * panels <= w.num_panels() ? w.panel(panel + panels) : nullptr;
    run_tokens(source, begin, w.panel_bytes(), 0, cols,
               {distance < cols ? begin + distance * column_bytes : next, cols - distance, next});
  } else {
    alignas(64) float decoded[kMaxPanels * kChunkColumns * kLanes];
    constexpr int64_t kPanelFloats = kChunkColumns * kLanes;
    for (int64_t column = 0; column < cols; column += kChunkColumns) {
      const int64_t n = std::min<int64_t>(kChunkColumns, cols - column);
      for (int p = 0; p < panels; ++p) {
        DecodeBlocks(w, w.panel(panel + p), column / kBlockColumns, n / kBlockColumns,
                     decoded + p * kPanelFloats);
      }
      run_tokens(Source::kF32, reinterpret_cast<const std::byte*>(decoded), kPanelFloats * 4, column, n, {});
    }
  }
  if (!direct) StoreTile(tile, buffer, panel, panels, first_token, tokens);
}

void FloatTile(const GemmTile& tile) {
  for (int token = tile.token_begin; token < tile.token_end;) {
    const int tokens = std::min(kTokensInFlight, tile.token_end - token);
    // Several register tiles of different sizes must agree on the number of panels.
    const int step = PanelsFor(std::min(kMaxTokens, tokens));
    int64_t panel = tile.panel_begin;
    for (; panel + step <= tile.panel_end; panel += step)
      RunPanels(tile, panel, step, step == 1, token, tokens);
    for (; panel < tile.panel_end; ++panel) RunPanels(tile, panel, 1, true, token, tokens);
    token += tokens;
  }
}

}  // namespace
}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(FloatTile);
void RunFloatTile(const GemmTile& tile) { HWY_DYNAMIC_DISPATCH(FloatTile)(tile); }

}  // namespace tandem::kernels
#endif
