// Random tensors of every source type, packed, for tests and benchmarks.
#pragma once

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/kernels/half.h"
#include "common/kernels/matrix.h"

namespace tandem::kernels {

inline std::vector<float> RandomFloats(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

struct WeightSource {
  const char* name;
  formats::DType dtype;
  WeightType type;

  bool quantised() const { return type == WeightType::kInt8 || type == WeightType::kInt4; }
  int column_multiple() const { return quantised() ? 32 : 1; }
};

inline constexpr WeightSource kWeightSources[] = {
    {"q4 of Q4_1", formats::DType::kQ4_1, WeightType::kInt4},
    {"q4 of Q4_0", formats::DType::kQ4_0, WeightType::kInt4},
    {"int8 of Q8_0", formats::DType::kQ8_0, WeightType::kInt8},
    {"int8 of Q5_1", formats::DType::kQ5_1, WeightType::kInt8},
    {"bf16 of BF16", formats::DType::kBF16, WeightType::kBF16},
    {"f32 of F32", formats::DType::kF32, WeightType::kF32},
    {"q4 of F32", formats::DType::kF32, WeightType::kInt4},
    {"int8 of F32", formats::DType::kF32, WeightType::kInt8},
    {"bf16 of F32", formats::DType::kF32, WeightType::kBF16},
};

// Raw bytes of a tensor: random quants, scales around 1/100, minimums around -0.08.
inline std::vector<std::byte> RandomTensorBytes(formats::DType dtype, int64_t rows, int64_t cols,
                                                uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const int64_t elements = formats::BlockElements(dtype), bytes = formats::BlockBytes(dtype);
  std::vector<std::byte> data(rows * cols / elements * bytes);
  for (size_t at = 0; at < data.size(); at += bytes) {
    if (elements == 1) {
      const float value = normal(random) * 0.1f;
      const uint16_t half = BF16FromFloat(value);
      std::memcpy(&data[at], dtype == formats::DType::kF32 ? static_cast<const void*>(&value) : &half, bytes);
      continue;
    }
    for (int64_t i = 0; i < bytes; ++i) data[at + i] = static_cast<std::byte>(random());
    const uint16_t scale = F16FromFloat(0.01f * normal(random));
    const uint16_t minimum = F16FromFloat(-0.08f + 0.01f * normal(random));
    std::memcpy(&data[at], &scale, 2);
    if (dtype == formats::DType::kQ4_1 || dtype == formats::DType::kQ5_1)
      std::memcpy(&data[at + 2], &minimum, 2);
  }
  return data;
}

inline Matrix MakeMatrix(const WeightSource& source, int64_t rows, int64_t cols, uint32_t seed) {
  const std::vector<std::byte> data = RandomTensorBytes(source.dtype, rows, cols, seed);
  absl::StatusOr<Matrix> matrix =
      Matrix::Pack({"w", source.dtype, {rows, cols}, data}, {.type = source.type});
  TANDEM_CHECK(matrix.ok());
  return *std::move(matrix);
}

inline Matrix MakeConstantQ8(int64_t rows, int64_t cols, float scale, int8_t q) {
  std::vector<std::byte> data(rows * cols / 32 * 34, static_cast<std::byte>(q));
  const uint16_t half = F16FromFloat(scale);
  for (size_t at = 0; at < data.size(); at += 34) std::memcpy(&data[at], &half, 2);
  absl::StatusOr<Matrix> matrix =
      Matrix::Pack({"w", formats::DType::kQ8_0, {rows, cols}, data}, {.type = WeightType::kInt8});
  TANDEM_CHECK(matrix.ok());
  return *std::move(matrix);
}

}  // namespace tandem::kernels
