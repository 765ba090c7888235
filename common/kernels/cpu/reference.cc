#include "common/kernels/cpu/reference.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "common/base/status.h"
#include "common/kernels/attention.h"
#include "common/kernels/cpu/math_constants.h"
#include "common/kernels/cpu/panel.h"
#include "common/kernels/gemm.h"
#include "common/kernels/half.h"
#include "common/kernels/math.h"

namespace tandem::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float Max(float a, float b) { return a > b ? a : b; }

// Lane i takes lane i + width while width halves.
float TreeSum(float (&lanes)[kPanelRows]) {
  for (int width = kPanelRows / 2; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// One row r of w as integers, for products with int8 activations.
struct QuantisedRow {
  std::vector<int> q;                   // [cols]
  std::vector<float> scales, minimums;  // [blocks]
};

float HalfAt(const std::byte* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return FloatFromF16(bits);
}

QuantisedRow ReadQuantisedRow(const Matrix& w, int64_t r) {
  QuantisedRow row;
  const std::byte* const panel = w.panel(r / kPanelRows);
  const int lane = static_cast<int>(r % kPanelRows);
  for (int64_t b = 0; b < w.cols() / kBlockColumns; ++b) {
    const std::byte* const quants = panel + b * QuantBlockBytes(w.type());
    for (int c = 0; c < kBlockColumns; ++c) {
      const int low = w.type() == WeightType::kInt8 ? c : c % 16;
      const int byte = static_cast<uint8_t>(
          quants[(low / kGroupColumns * kPanelRows + lane) * kGroupColumns + low % kGroupColumns]);
      const int stored = w.type() == WeightType::kInt8 ? byte : c < 16 ? byte & 15 : byte >> 4;
      row.q.push_back(stored - QuantOffset(w.type(), w.has_minimum()));
    }
    const int64_t at = b * kScaleBytes + lane * 2;
    row.scales.push_back(HalfAt(panel + ScalesOffset(w.type(), w.cols()) + at));
    row.minimums.push_back(w.has_minimum() ? HalfAt(panel + MinimumsOffset(w.type(), w.cols()) + at) : 0.0f);
  }
  return row;
}

float DotInt8(const Activations& x, int t, const QuantisedRow& row, bool has_minimum) {
  const int blocks = x.cols() / kBlockColumns;
  float acc = 0.0f;
  for (int b = 0; b < blocks; ++b) {
    int sum = 0;
    for (int c = b * kBlockColumns; c < (b + 1) * kBlockColumns; ++c) {
      sum += row.q[c] * x.q()[static_cast<int64_t>(t) * x.cols() + c];
    }
    const int64_t at = static_cast<int64_t>(t) * blocks + b;
    if (has_minimum) acc = std::fma(row.minimums[b], x.sums()[at], acc);
    acc = std::fma(static_cast<float>(sum), row.scales[b] * x.scales()[at], acc);
  }
  return acc;
}

// One (row, query head): the state of the loops of attention.h.
struct Softmax {
  float m = -kInfinity, l = 0.0f;
  std::vector<float> o;
};

// Element (d, j) of K or (j, d) of V, which lie the same way: outer-major.
float KvAt(const std::byte* p, KvType type, int64_t index) {
  if (type == KvType::kF32) {
    float value;
    std::memcpy(&value, p + index * sizeof value, sizeof value);
    return value;
  }
  if (type == KvType::kInt8) return static_cast<float>(static_cast<int8_t>(p[index]));
  uint16_t bits;
  std::memcpy(&bits, p + index * sizeof bits, sizeof bits);
  return FloatFromBF16(bits);
}

// Of position j of a tile whose V is followed by K's scales and V's.
float ScaleOf(const std::byte* k, const std::byte* v, KvType type, bool of_values, int j) {
  if (type != KvType::kInt8) return 1.0f;
  float scale;
  std::memcpy(&scale, v + (v - k) + (of_values * kKvBlockPositions + j) * sizeof scale, sizeof scale);
  return scale;
}

// Lanes [begin, end) of the tile are seen.
void AddTile(const float* q, float scale, const std::byte* k, const std::byte* v, KvType type, int head_dim,
             int begin, int end, Softmax& state) {
  const auto seen = [&](int j) { return begin <= j && j < end; };
  float s[kKvBlockPositions], e[kKvBlockPositions];
  float m = state.m;
  for (int j = 0; j < kKvBlockPositions; ++j) {
    s[j] = 0.0f;
    for (int d = 0; d < head_dim; ++d) {
      s[j] = std::fma(q[d] * scale, KvAt(k, type, int64_t{d} * kKvBlockPositions + j), s[j]);
    }
    s[j] *= ScaleOf(k, v, type, /*of_values=*/false, j);
    if (!seen(j)) s[j] = -kInfinity;
  }
  // The same tree as the sum's; matters only for which zero or NaN comes out.
  float best[kKvBlockPositions];
  std::copy(s, s + kKvBlockPositions, best);
  for (int width = kKvBlockPositions / 2; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) best[i] = Max(best[i], best[i + width]);
  }
  m = Max(m, best[0]);
  const float c = Exp(state.m - m);
  for (int j = 0; j < kKvBlockPositions; ++j) e[j] = seen(j) ? Exp(s[j] - m) : 0.0f;
  float lanes[kPanelRows];
  std::copy(e, e + kKvBlockPositions, lanes);
  state.l = std::fma(state.l, c, TreeSum(lanes));
  state.m = m;
  for (int d = 0; d < head_dim; ++d) {
    state.o[d] *= c;
    for (int j = begin; j < end; ++j) {
      const float weight = e[j] * ScaleOf(k, v, type, /*of_values=*/true, j);
      state.o[d] = std::fma(weight, KvAt(v, type, int64_t{j} * head_dim + d), state.o[d]);
    }
  }
}

void Merge(const Softmax& span, Softmax& total) {
  const float m = Max(total.m, span.m);
  const float a = Exp(total.m - m), b = Exp(span.m - m);
  total.l = std::fma(total.l, a, span.l * b);
  for (size_t d = 0; d < total.o.size(); ++d) total.o[d] = std::fma(total.o[d], a, span.o[d] * b);
  total.m = m;
}

}  // namespace

float Exp(float x) {
  if (std::isnan(x)) return x;
  if (x < kExpLow) return 0.0f;
  if (x >= kExpHigh) return kInfinity;
  // x = n ln 2 + r; adding and subtracting 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const float shifted = std::fma(x, kLog2E, kRoundShift);
  const float n = shifted - kRoundShift;
  const float r = std::fma(-n, kLn2Low, std::fma(-n, kLn2High, x));
  float p = kExp6;
  p = std::fma(p, r, kExp5);
  p = std::fma(p, r, kExp4);
  p = std::fma(p, r, kExp3);
  p = std::fma(p, r, kExp2);
  p = std::fma(p, r * r, r) + 1.0f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
}

void RmsNormReference(std::span<const float> x, std::span<const float> w, float eps, std::span<float> y) {
  float lanes[kPanelRows] = {};
  for (size_t c = 0; c < x.size(); ++c) lanes[c % kPanelRows] = std::fma(x[c], x[c], lanes[c % kPanelRows]);
  const float r = 1.0f / std::sqrt(TreeSum(lanes) / static_cast<float>(x.size()) + eps);
  for (size_t c = 0; c < x.size(); ++c) y[c] = x[c] * r * w[c];
}

void RopeReference(std::span<float> head, std::span<const float> cos, std::span<const float> sin) {
  const size_t half = head.size() / 2;
  for (size_t j = 0; j < half; ++j) {
    const float a = head[j], b = head[j + half];
    head[j] = std::fma(a, cos[j], -(b * sin[j]));
    head[j + half] = std::fma(b, cos[j], a * sin[j]);
  }
}

float SiluReference(float a) { return a / (1.0f + Exp(-a)); }

float GeluReference(float a) { return a / (1.0f + Exp(a * std::fma(a * a, kGeluCubic, kGeluLinear))); }

float SoftCapReference(float x, float cap) { return cap * (1.0f - 2.0f / (1.0f + Exp(2.0f * (x / cap)))); }

float QuantiseReference(std::span<const float> x, std::span<int8_t> q) {
  uint32_t max_bits = 0;  // magnitudes order as their bits do, NaN above infinity
  for (const float v : x) max_bits = std::max(max_bits, std::bit_cast<uint32_t>(v) & 0x7fffffffu);
  std::fill(q.begin(), q.end(), int8_t{0});
  if (max_bits >= 0x7f800000u) return std::numeric_limits<float>::quiet_NaN();
  const float scale = std::bit_cast<float>(max_bits) / 127.0f;
  if (scale < std::numeric_limits<float>::min()) return 0.0f;
  for (size_t i = 0; i < x.size(); ++i) q[i] = static_cast<int8_t>(std::nearbyint(x[i] / scale));
  return scale;
}

void GemmReference(const Activations& x, const Matrix& w, float* y, int64_t stride) {
  TANDEM_CHECK(x.cols() == w.cols());
  if (stride == 0) stride = w.rows();
  std::vector<float> weights(w.cols());
  for (int64_t r = 0; r < w.rows(); ++r) {
    if (x.type() == ActivationType::kInt8 && IsQuantised(w.type())) {
      const QuantisedRow row = ReadQuantisedRow(w, r);
      for (int t = 0; t < x.tokens(); ++t) y[t * stride + r] = DotInt8(x, t, row, w.has_minimum());
      continue;
    }
    w.DequantizeRow(r, weights);
    for (int t = 0; t < x.tokens(); ++t) {
      float acc = 0.0f;
      for (int64_t c = 0; c < w.cols(); ++c) acc = std::fma(x.f32()[t * w.cols() + c], weights[c], acc);
      y[t * stride + r] = acc;
    }
  }
}

void AttentionReference(const float* q, int64_t q_stride, int layer, std::span<const SequenceRows> sequences,
                        const KvCache& cache, int num_heads, float scale, float* out, int64_t out_stride,
                        int32_t window) {
  constexpr int kSpanTiles = kAttentionSpan / kKvBlockPositions;
  const KvLayout& layout = cache.layout();
  const auto [num_kv_heads, head_dim] = layout.layers[layer];
  const int64_t half_bytes = layout.half_bytes(layer);
  for (const SequenceRows& rows : sequences) {
    for (int i = 0; i < rows.num_rows; ++i) {
      for (int h = 0; h < num_heads; ++h) {
        const int64_t token = rows.first_row + i;
        const int first = rows.FirstSeen(i, window), last = rows.LastSeen(i);
        const int first_tile = first / kKvBlockPositions, last_tile = last / kKvBlockPositions;
        Softmax total, span;
        for (int tile = first_tile; tile <= last_tile; ++tile) {
          if (tile == first_tile || tile % kSpanTiles == 0) {
            span = Softmax();
            span.o.assign(head_dim, 0.0f);
          }
          const std::byte* const k = cache.block(rows.blocks[tile]) + layout.layer_offset[layer] +
                                     h / (num_heads / num_kv_heads) * layout.head_bytes(layer);
          const int begin = std::max(0, first - tile * kKvBlockPositions);
          const int end = std::min(kKvBlockPositions, last - tile * kKvBlockPositions + 1);
          AddTile(q + token * q_stride + int64_t{h} * head_dim, scale, k, k + half_bytes, layout.type,
                  head_dim, begin, end, span);
          if (tile != last_tile && (tile + 1) % kSpanTiles != 0) continue;
          if (tile / kSpanTiles == first_tile / kSpanTiles) {
            total = span;
          } else {
            Merge(span, total);
          }
        }
        for (int d = 0; d < head_dim; ++d)
          out[token * out_stride + int64_t{h} * head_dim + d] = total.o[d] / total.l;
      }
    }
  }
}

}  // namespace tandem::kernels
