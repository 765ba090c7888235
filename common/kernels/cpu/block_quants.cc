#include "common/kernels/cpu/block_quants.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/kernels/half.h"

namespace tandem::kernels {
namespace {

using formats::DType;

bool IsFiniteF16(uint16_t bits) { return (bits & 0x7c00u) != 0x7c00u; }

// nearbyint((w - minimum) / scale) within [low, high]; 0 for a scale that f16 rounds to 0.
int8_t Quant(float w, float minimum, float scale, float low, float high) {
  if (scale == 0.0f) return 0;
  return static_cast<int8_t>(std::clamp(std::nearbyint((w - minimum) / scale), low, high));
}

}  // namespace

bool HoldsBlocksExactly(WeightType type, DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kQ4_1:
      return type == WeightType::kInt8 || type == WeightType::kInt4;
    case DType::kQ5_0:
    case DType::kQ5_1:
    case DType::kQ8_0:
      return type == WeightType::kInt8;
    default:
      return false;
  }
}

bool BlocksHaveMinimum(WeightType type, DType dtype) {
  if (HoldsBlocksExactly(type, dtype)) return dtype == DType::kQ4_1 || dtype == DType::kQ5_1;
  return type == WeightType::kInt4;
}

bool ReadBlock(DType dtype, std::span<const std::byte> in, BlockQuants& out) {
  const std::byte* p = in.data();
  std::memcpy(&out.scale, p, 2);
  p += 2;
  if (dtype == DType::kQ4_1 || dtype == DType::kQ5_1) {
    std::memcpy(&out.minimum, p, 2);
    p += 2;
  }
  if (!IsFiniteF16(out.scale) || !IsFiniteF16(out.minimum)) return false;
  if (dtype == DType::kQ8_0) {
    std::memcpy(out.q, p, kBlockColumns);
    return true;
  }
  // Nibbles: byte i holds elements i and i + 16; the 5-bit types keep the fifth bits in one word before them.
  uint32_t fifth = 0;
  if (dtype == DType::kQ5_0 || dtype == DType::kQ5_1) {
    std::memcpy(&fifth, p, 4);
    p += 4;
  }
  const int offset = dtype == DType::kQ4_0 ? 8 : dtype == DType::kQ5_0 ? 16 : 0;
  constexpr int kHalf = kBlockColumns / 2;
  for (int i = 0; i < kBlockColumns; ++i) {
    const int byte = static_cast<uint8_t>(p[i % kHalf]);
    const int nibble = i < kHalf ? byte & 15 : byte >> 4;
    out.q[i] = static_cast<int8_t>((nibble | static_cast<int>(fifth >> i & 1u) << 4) - offset);
  }
  return true;
}

bool QuantiseBlock(WeightType type, std::span<const float, kBlockColumns> in, BlockQuants& out) {
  float low = in[0], high = in[0];
  for (const float w : in) {
    if (!std::isfinite(w)) return false;
    low = std::min(low, w);
    high = std::max(high, w);
  }
  if (type == WeightType::kInt8) {
    out.scale = F16FromFloat(std::max(-low, high) / 127.0f);
    if (!IsFiniteF16(out.scale)) return false;
    const float scale = FloatFromF16(out.scale);
    for (int i = 0; i < kBlockColumns; ++i) out.q[i] = Quant(in[i], 0.0f, scale, -127.0f, 127.0f);
  } else {
    out.minimum = F16FromFloat(low);
    const float minimum = FloatFromF16(out.minimum);
    out.scale = F16FromFloat((high - minimum) / 15.0f);
    if (!IsFiniteF16(out.minimum) || !IsFiniteF16(out.scale)) return false;
    const float scale = FloatFromF16(out.scale);
    for (int i = 0; i < kBlockColumns; ++i) out.q[i] = Quant(in[i], minimum, scale, 0.0f, 15.0f);
  }
  return true;
}

}  // namespace tandem::kernels
