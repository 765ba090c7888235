// Products of int8 activations with quantised weights: exact integer dot products of blocks of 32 columns,
// scaled and added up in f32 (gemm.h).
#include <algorithm>
#include <utility>

#include "common/kernels/cpu/targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/cpu/gemm_int.cc"
#include "hwy/foreach_target.h"
//
#include "common/kernels/cpu/dot-inl.h"
#include "common/kernels/cpu/gemm_tile.h"
#include "common/kernels/cpu/lanes-inl.h"
#include "common/kernels/cpu/panel.h"

TANDEM_BEFORE_DOT_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {
namespace {

// One panel for T tokens from first_token on.
struct IntegerRun {
  const std::byte* panel;
  const Activations* x;
  int first_token;
  float* out;              // [T][16]
  const std::byte* ahead;  // what to fetch meanwhile, as many bytes as a panel has; null = nothing
};

#if HWY_TARGET == TANDEM_SCALAR_TARGET

inline constexpr int kMaxTokens = 4;

template <int T, WeightType type, bool minimum>
void RunRegisters(const IntegerRun& run) {
  const Activations& x = *run.x;
  const int64_t cols = x.cols(), blocks = cols / kBlockColumns;
  const auto* const bytes = reinterpret_cast<const uint8_t*>(run.panel);
  const auto* const scales = reinterpret_cast<const uint16_t*>(run.panel + ScalesOffset(type, cols));
  const auto* const minimums = reinterpret_cast<const uint16_t*>(run.panel + MinimumsOffset(type, cols));
  for (int t = 0; t < T; ++t) {
    float* const acc = run.out + t * kLanes;
    std::fill(acc, acc + kLanes, 0.0f);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t at = (run.first_token + t) * blocks + b;
      const int8_t* const xq = x.q() + at * kBlockColumns;
      const uint8_t* const block = bytes + b * QuantBlockBytes(type);
      for (int lane = 0; lane < kLanes; ++lane) {
        int sum = QuantOffset(type, minimum) * x.negated_sums()[at];
        for (int c = 0; c < kBlockColumns; ++c) {
          if constexpr (type == WeightType::kInt8) {
            sum += xq[c] * block[(c / kGroupColumns * kLanes + lane) * kGroupColumns + c % kGroupColumns];
          } else {
            const int low = c % (kBlockColumns / 2);
            const int byte =
                block[(low / kGroupColumns * kLanes + lane) * kGroupColumns + low % kGroupColumns];
            sum += xq[c] * (c < kBlockColumns / 2 ? byte & 15 : byte >> 4);
          }
        }
        if constexpr (minimum) {
          acc[lane] = std::fma(FloatFromF16(minimums[b * kLanes + lane]), x.sums()[at], acc[lane]);
        }
        const float scale = FloatFromF16(scales[b * kLanes + lane]) * x.scales()[at];
        acc[lane] = std::fma(static_cast<float>(sum), scale, acc[lane]);
      }
    }
  }
}

#else

inline constexpr int kMaxTokens = kRegs == 1 ? 16 : 8;

HWY_INLINE F32Reg LoadF16Reg(const uint16_t* p) {
  const hn::Rebind<hwy::float16_t, F32Tag> df16;
  return hn::PromoteTo(F32Tag(), hn::LoadU(df16, reinterpret_cast<const hwy::float16_t*>(p)));
}

// One register of rows at a time: a panel in flight lies in L1, and the accumulators of all tokens fit.
template <int T, WeightType type, bool minimum>
HWY_INLINE void RunRegister(const IntegerRun& run, int reg) {
  const F32Tag d;
  const I32Tag di;
  const Activations& x = *run.x;
  const int64_t cols = x.cols(), blocks = cols / kBlockColumns;
  const auto* const scales =
      reinterpret_cast<const uint16_t*>(run.panel + ScalesOffset(type, cols)) + reg * kRegLanes;
  const auto* const minimums =
      reinterpret_cast<const uint16_t*>(run.panel + MinimumsOffset(type, cols)) + reg * kRegLanes;
  const int64_t first = run.first_token * blocks;
  const int8_t* const xq = x.q() + first * kBlockColumns;
  const float* const x_scales = x.scales() + first;
  const float* const x_sums = x.sums() + first;
  const int32_t* const x_negated = x.negated_sums() + first;
  // What dot products leave of the stored offset is a power of two times the sum of the activations.
  constexpr int kOffset = (type == WeightType::kInt8 ? kInt8Offset
                           : minimum                 ? 0
                                                     : 8) -
                          kSubtractedOffset<type>;
  constexpr int kOffsetBits = kOffset == 128 ? 7 : 3;
  static_assert(kOffset == 0 || kOffset == 1 << kOffsetBits);

  // Behind several tokens' work on a block, processors do not look far enough ahead to ask for the next ones.
  constexpr int64_t kAheadBytes = QuantBlockBytes(type) + kScaleBytes * (minimum ? 2 : 1);
  const std::byte* ahead = reg == 0 ? run.ahead : nullptr;

  F32Reg acc[T];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) acc[t] = hn::Zero(d);
  const std::byte* block = run.panel;
  for (int64_t b = 0; b < blocks; ++b, block += QuantBlockBytes(type)) {
    if (ahead != nullptr) {
#pragma GCC unroll 16
      for (int64_t i = 0; i < kAheadBytes; i += 64) __builtin_prefetch(ahead + i);
      ahead += kAheadBytes;
    }
    BlockWeights<type> weights;
    weights.Load(block, reg);
    const F32Reg scale = LoadF16Reg(scales + b * kLanes);
    const F32Reg low = minimum ? LoadF16Reg(minimums + b * kLanes) : hn::Zero(d);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const int64_t at = t * blocks + b;
      const I32Reg start =
          kOffset == 0 ? hn::Zero(di) : hn::ShiftLeft<kOffsetBits>(hn::Set(di, x_negated[at]));
      const I32Reg sum = DotBlock(weights, xq + at * kBlockColumns, start);
      if constexpr (minimum) acc[t] = hn::MulAdd(low, hn::Set(d, x_sums[at]), acc[t]);
      acc[t] = hn::MulAdd(hn::ConvertTo(d, sum), hn::Mul(scale, hn::Set(d, x_scales[at])), acc[t]);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) hn::StoreU(acc[t], d, run.out + t * kLanes + reg * kRegLanes);
}

template <int T, WeightType type, bool minimum>
HWY_NOINLINE void RunRegisters(const IntegerRun& run) {
  for (int reg = 0; reg < kRegs; ++reg) RunRegister<T, type, minimum>(run, reg);
}

#endif

using RunFunction = void (*)(const IntegerRun&);

template <WeightType type, bool minimum, int... i>
RunFunction Pick(int tokens, std::integer_sequence<int, i...>) {
  static constexpr RunFunction kTable[] = {&RunRegisters<i + 1, type, minimum>...};
  return kTable[tokens - 1];
}

RunFunction PickRun(const Matrix& w, int tokens) {
  constexpr auto kTokens = std::make_integer_sequence<int, kMaxTokens>();
  if (w.type() == WeightType::kInt8) {
    return w.has_minimum() ? Pick<WeightType::kInt8, true>(tokens, kTokens)
                           : Pick<WeightType::kInt8, false>(tokens, kTokens);
  }
  return w.has_minimum() ? Pick<WeightType::kInt4, true>(tokens, kTokens)
                         : Pick<WeightType::kInt4, false>(tokens, kTokens);
}

void IntegerTile(const GemmTile& tile) {
  const Matrix& w = *tile.w;
  alignas(64) float out[kMaxTokens * kLanes];
  const int64_t panels_ahead = std::max<int64_t>(1, kPrefetchBytes / w.panel_bytes());
  for (int64_t panel = tile.panel_begin; panel < tile.panel_end; ++panel) {
    const int64_t row = panel * kPanelRows;
    const int64_t n = std::min<int64_t>(kPanelRows, w.rows() - row);
    const std::byte* ahead = panel + panels_ahead < w.num_panels() ? w.panel(panel + panels_ahead) : nullptr;
    for (int token = tile.token_begin; token < tile.token_end;) {
      const int left = tile.token_end - token;
      const int parts = (left + kMaxTokens - 1) / kMaxTokens;
      const int tokens = (left + parts - 1) / parts;
      PickRun(w, tokens)({w.panel(panel), tile.x, token, out, ahead});
      ahead = nullptr;
      for (int t = 0; t < tokens; ++t) {
        float* const y = tile.y + (token + t) * tile.stride + row;
        if (n == kPanelRows) {
          Store(Load(out + t * kLanes), y);
        } else {
          std::copy(out + t * kLanes, out + t * kLanes + n, y);
        }
      }
      token += tokens;
    }
  }
}

}  // namespace
}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(IntegerTile);
void RunIntegerTile(const GemmTile& tile) { HWY_DYNAMIC_DISPATCH(IntegerTile)(tile); }

}  // namespace tandem::kernels
#endif
