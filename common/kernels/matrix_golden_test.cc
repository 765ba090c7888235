// Packed matrices of the golden GGML blocks (random bits, scales at the edges of f16) equal the golden
// values.
#include <gtest/gtest.h>

#include <map>

#include "common/formats/safetensors.h"
#include "common/kernels/matrix.h"
#include "tests/support/golden.h"

namespace tandem::kernels {
namespace {

using formats::DType;

TEST(MatrixGolden, LosslessTypesHoldEveryBlockExactly) {
  const auto path = testing::GoldenDir() / "gguf" / "types.safetensors";
  auto file = formats::SafetensorsFile::Open(path.string());
  ASSERT_TRUE(file.ok()) << file.status();
  int compared = 0;
  for (const DType dtype :
       {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0, DType::kQ6_K}) {
    const std::string name = formats::DTypeName(dtype);
    const auto& tensors = (*file)->tensors();
    const auto raw = tensors.find(name + ".raw"), expected = tensors.find(name + ".f32");
    if (raw == tensors.end() || expected == tensors.end()) continue;
    const int64_t cols = expected->second.shape[1];
    for (int64_t r = 0; r < expected->second.shape[0]; ++r) {
      std::vector<float> want(cols), got(cols);
      formats::Dequantize(DType::kF32, expected->second.row(r), want);
      absl::StatusOr<Matrix> matrix =
          Matrix::Pack({name, dtype, {1, cols}, raw->second.row(r)}, {.type = LosslessWeightType(dtype)});
      ASSERT_TRUE(matrix.ok()) << matrix.status();
      matrix->DequantizeRow(0, got);
      for (int64_t c = 0; c < cols; ++c)
        ASSERT_EQ(got[c], want[c]) << name << " row " << r << " column " << c;
      ++compared;
    }
  }
  EXPECT_GT(compared, 0) << path << " holds none of the types";
}

}  // namespace
}  // namespace tandem::kernels
