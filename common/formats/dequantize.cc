// Dequantize of tensor.h. One function per block type: block bytes in, float32 out, every product and sum
// rounded to float32 in the written order (this file is compiled without contraction to fused multiply-adds).
#include <bit>
#include <cstring>

#include "common/base/status.h"
#include "common/formats/tensor.h"

namespace tandem::formats {
namespace {

using Byte = uint8_t;

template <typename T>
T Load(const Byte* p) {
  static_assert(std::endian::native == std::endian::little, "files are little-endian and read in place");
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

// Branch-free, exact for all 65,536 values: the exponent is rebased by a multiplication, which also
// normalises subnormals; infinity and NaN get their exponent back.
float HalfToFloat(uint16_t h) {
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fff) << 13;
  uint32_t bits = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  if ((h & 0x7c00) == 0x7c00) bits = magnitude | 0x7f800000;
  return std::bit_cast<float>(bits | static_cast<uint32_t>(h & 0x8000) << 16);
}
float Half(const Byte* p) { return HalfToFloat(Load<uint16_t>(p)); }

void FromF32(const Byte* in, float* out) { *out = Load<float>(in); }
void FromF16(const Byte* in, float* out) { *out = Half(in); }
void FromBF16(const Byte* in, float* out) {
  *out = std::bit_cast<float>(static_cast<uint32_t>(Load<uint16_t>(in)) << 16);
}

// Blocks of 32: element j is in the low half of byte j, element j + 16 in its high half.
void FromQ4_0(const Byte* in, float* out) {
  const float d = Half(in);
  const Byte* q = in + 2;
  for (int j = 0; j < 16; ++j) {
    out[j] = ((q[j] & 15) - 8) * d;
    out[j + 16] = ((q[j] >> 4) - 8) * d;
  }
}

void FromQ4_1(const Byte* in, float* out) {
  const float d = Half(in), m = Half(in + 2);
  const Byte* q = in + 4;
  for (int j = 0; j < 16; ++j) {
    out[j] = (q[j] & 15) * d + m;
    out[j + 16] = (q[j] >> 4) * d + m;
  }
}

// As Q4, with bit j of `high` as the fifth bit of element j.
void FromQ5_0(const Byte* in, float* out) {
  const float d = Half(in);
  const uint32_t high = Load<uint32_t>(in + 2);
  const Byte* q = in + 6;
  for (int j = 0; j < 16; ++j) {
    const int low_bit = (high >> j) & 1, high_bit = (high >> (j + 16)) & 1;
    out[j] = (((q[j] & 15) | low_bit << 4) - 16) * d;
    out[j + 16] = (((q[j] >> 4) | high_bit << 4) - 16) * d;
  }
}

void FromQ5_1(const Byte* in, float* out) {
  const float d = Half(in), m = Half(in + 2);
  const uint32_t high = Load<uint32_t>(in + 4);
  const Byte* q = in + 8;
  for (int j = 0; j < 16; ++j) {
    const int low_bit = (high >> j) & 1, high_bit = (high >> (j + 16)) & 1;
    out[j] = ((q[j] & 15) | low_bit << 4) * d + m;
    out[j + 16] = ((q[j] >> 4) | high_bit << 4) * d + m;
  }
}

void FromQ8_0(const Byte* in, float* out) {
  const float d = Half(in);
  for (int j = 0; j < 32; ++j) out[j] = static_cast<int8_t>(in[2 + j]) * d;
}

// Two bits an element; scale and minimum, four bits each, per 16 elements.
void FromQ2_K(const Byte* in, float* out) {
  const Byte *scales = in, *q = in + 16;
  const float d = Half(in + 80), min = Half(in + 82);
  for (int group = 0; group < 16; ++group) {
    const Byte* bits = q + 32 * (group / 8) + 16 * (group % 2);
    const int shift = 2 * (group % 8 / 2);
    const float scale = d * (scales[group] & 15), offset = min * (scales[group] >> 4);
    for (int l = 0; l < 16; ++l) *out++ = scale * ((bits[l] >> shift) & 3) - offset;
  }
}

// Two bits an element in `q`, the third (inverted) in `high`; a signed six-bit scale per 16 elements.
void FromQ3_K(const Byte* in, float* out) {
  const Byte *high = in, *q = in + 32, *packed = in + 96;
  const float d = Half(in + 108);
  for (int group = 0; group < 16; ++group) {
    const int low4 = group < 8 ? packed[group] & 15 : packed[group - 8] >> 4;
    const int high2 = (packed[8 + group % 4] >> (2 * (group / 4))) & 3;
    const float scale = d * ((low4 | high2 << 4) - 32);
    const Byte* bits = q + 32 * (group / 8) + 16 * (group % 2);
    const Byte* high_bits = high + 16 * (group % 2);
    const int shift = 2 * (group % 8 / 2), mask = 1 << (group / 2);
    for (int l = 0; l < 16; ++l) {
      *out++ = scale * (((bits[l] >> shift) & 3) - ((high_bits[l] & mask) != 0 ? 0 : 4));
    }
  }
}

// Scale and minimum `i` of eight, six bits each, packed into twelve bytes (Q4_K, Q5_K).
struct ScaleMin {
  int scale, min;
};
ScaleMin UnpackScaleMin(const Byte* p, int i) {
  if (i < 4) return {p[i] & 63, p[i + 4] & 63};
  return {(p[i + 4] & 15) | (p[i - 4] >> 6) << 4, (p[i + 4] >> 4) | (p[i] >> 6) << 4};
}

void FromQ4_K(const Byte* in, float* out) {
  const float d = Half(in), min = Half(in + 2);
  const Byte *packed = in + 4, *q = in + 16;
  for (int group = 0; group < 8; ++group) {
    const ScaleMin s = UnpackScaleMin(packed, group);
    const float scale = d * s.scale, offset = min * s.min;
    const Byte* bits = q + 32 * (group / 2);
    const int shift = 4 * (group % 2);
    for (int l = 0; l < 32; ++l) *out++ = scale * ((bits[l] >> shift) & 15) - offset;
  }
}

void FromQ5_K(const Byte* in, float* out) {
  const float d = Half(in), min = Half(in + 2);
  const Byte *packed = in + 4, *high = in + 16, *q = in + 48;
  for (int group = 0; group < 8; ++group) {
    const ScaleMin s = UnpackScaleMin(packed, group);
    const float scale = d * s.scale, offset = min * s.min;
    const Byte* bits = q + 32 * (group / 2);
    const int shift = 4 * (group % 2);
    for (int l = 0; l < 32; ++l) {
      *out++ = scale * (((bits[l] >> shift) & 15) + ((high[l] >> group) & 1) * 16) - offset;
    }
  }
}

// Four bits in `low`, two in `high`; a signed eight-bit scale per 16 elements.
void FromQ6_K(const Byte* in, float* out) {
  const Byte *low = in, *high = in + 128, *scales = in + 192;
  const float d = Half(in + 208);
  for (int group = 0; group < 16; ++group) {  // 16 elements each; 8 groups share 64 bytes of low, 32 of high
    const int quarter = group % 8 / 2, column = 16 * (group % 2);
    const Byte* low_bits = low + 64 * (group / 8) + 32 * (quarter % 2) + column;
    const Byte* high_bits = high + 32 * (group / 8) + column;
    const float scale = d * static_cast<int8_t>(scales[group]);
    for (int l = 0; l < 16; ++l) {
      const int q = ((low_bits[l] >> (4 * (quarter / 2))) & 15) | ((high_bits[l] >> (2 * quarter)) & 3) << 4;
      *out++ = scale * (q - 32);
    }
  }
}

// The sixteen levels of the IQ4 types.
constexpr int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void FromIQ4_NL(const Byte* in, float* out) {
  const float d = Half(in);
  const Byte* q = in + 2;
  for (int j = 0; j < 16; ++j) {
    out[j] = d * kIq4Levels[q[j] & 15];
    out[j + 16] = d * kIq4Levels[q[j] >> 4];
  }
}

void FromIQ4_XS(const Byte* in, float* out) {
  const float d = Half(in);
  const int high_scales = Load<uint16_t>(in + 2);
  const Byte *low_scales = in + 4, *q = in + 8;
  for (int group = 0; group < 8; ++group, q += 16, out += 32) {
    const int low4 = (low_scales[group / 2] >> (4 * (group % 2))) & 15;
    const int high2 = (high_scales >> (2 * group)) & 3;
    const float scale = d * ((low4 | high2 << 4) - 32);
    for (int j = 0; j < 16; ++j) {
      out[j] = scale * kIq4Levels[q[j] & 15];
      out[j + 16] = scale * kIq4Levels[q[j] >> 4];
    }
  }
}

template <void (*kFromBlock)(const Byte*, float*), int kBlockBytes, int kBlockElements>
void FromBlocks(const Byte* in, float* out, size_t num_blocks) {
  for (size_t b = 0; b < num_blocks; ++b) kFromBlock(in + b * kBlockBytes, out + b * kBlockElements);
}

using BlocksFunction = void (*)(const Byte*, float*, size_t);

BlocksFunction FunctionFor(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return FromBlocks<FromF32, 4, 1>;
    case DType::kF16:
      return FromBlocks<FromF16, 2, 1>;
    case DType::kBF16:
      return FromBlocks<FromBF16, 2, 1>;
    case DType::kQ4_0:
      return FromBlocks<FromQ4_0, 18, 32>;
    case DType::kQ4_1:
      return FromBlocks<FromQ4_1, 20, 32>;
    case DType::kQ5_0:
      return FromBlocks<FromQ5_0, 22, 32>;
    case DType::kQ5_1:
      return FromBlocks<FromQ5_1, 24, 32>;
    case DType::kQ8_0:
      return FromBlocks<FromQ8_0, 34, 32>;
    case DType::kQ2_K:
      return FromBlocks<FromQ2_K, 84, 256>;
    case DType::kQ3_K:
      return FromBlocks<FromQ3_K, 110, 256>;
    case DType::kQ4_K:
      return FromBlocks<FromQ4_K, 144, 256>;
    case DType::kQ5_K:
      return FromBlocks<FromQ5_K, 176, 256>;
    case DType::kQ6_K:
      return FromBlocks<FromQ6_K, 210, 256>;
    case DType::kIQ4_NL:
      return FromBlocks<FromIQ4_NL, 18, 32>;
    case DType::kIQ4_XS:
      return FromBlocks<FromIQ4_XS, 136, 256>;
    case DType::kI8:
    case DType::kI16:
    case DType::kI32:
    case DType::kI64:
    case DType::kU8:
    case DType::kF64:
    case DType::kBool:
      return nullptr;
  }
  return nullptr;
}

}  // namespace

bool CanDequantize(DType dtype) { return FunctionFor(dtype) != nullptr; }

void Dequantize(DType dtype, std::span<const std::byte> in, std::span<float> out) {
  const BlocksFunction from_blocks = FunctionFor(dtype);
  TANDEM_CHECK(from_blocks != nullptr);
  const size_t block_elements = BlockElements(dtype), block_bytes = BlockBytes(dtype);
  TANDEM_CHECK(out.size() % block_elements == 0);
  const size_t num_blocks = out.size() / block_elements;
  TANDEM_CHECK(in.size() == num_blocks * block_bytes);
  from_blocks(reinterpret_cast<const Byte*>(in.data()), out.data(), num_blocks);
}

}  // namespace tandem::formats
