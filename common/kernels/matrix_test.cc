#include "common/kernels/matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/base/thread_pool.h"
#include "common/kernels/gemm.h"
#include "common/kernels/test_matrices.h"

namespace tandem::kernels {
namespace {

using formats::DType;
using formats::TensorView;

std::vector<float> Dequantised(const TensorView& tensor, int64_t row) {
  std::vector<float> out(tensor.shape[1]);
  formats::Dequantize(tensor.dtype, tensor.row(row), out);
  return out;
}

std::vector<float> Row(const Matrix& matrix, int64_t row) {
  std::vector<float> out(matrix.cols());
  matrix.DequantizeRow(row, out);
  return out;
}

TEST(Matrix, HoldsFileTypesWithoutLoss) {
  struct Case {
    DType dtype;
    std::vector<WeightType> exact;
  };
  const Case cases[] = {{DType::kQ4_0, {WeightType::kInt4, WeightType::kInt8, WeightType::kF32}},
                        {DType::kQ4_1, {WeightType::kInt4, WeightType::kInt8, WeightType::kF32}},
                        {DType::kQ5_0, {WeightType::kInt8, WeightType::kF32}},
                        {DType::kQ5_1, {WeightType::kInt8, WeightType::kF32}},
                        {DType::kQ8_0, {WeightType::kInt8, WeightType::kF32}},
                        {DType::kBF16, {WeightType::kBF16, WeightType::kF32}},
                        {DType::kF32, {WeightType::kF32}}};
  for (const Case& c : cases) {
    EXPECT_EQ(LosslessWeightType(c.dtype), c.exact.front()) << formats::DTypeName(c.dtype);
    const std::vector<std::byte> data = RandomTensorBytes(c.dtype, 37, 96, 1);
    const TensorView tensor = {"w", c.dtype, {37, 96}, data};
    for (const WeightType type : c.exact) {
      absl::StatusOr<Matrix> matrix = Matrix::Pack(tensor, {.type = type});
      ASSERT_TRUE(matrix.ok()) << matrix.status();
      for (int r = 0; r < 37; ++r) {
        ASSERT_EQ(Row(*matrix, r), Dequantised(tensor, r)) << formats::DTypeName(c.dtype) << " row " << r;
      }
    }
  }
}

TEST(Matrix, RoundsWithinHalfAStep) {
  // f16 keeps 11 bits of scale and minimum: 2^-11 relative, at most 128 steps away; plus the step's half.
  const std::vector<std::byte> data = RandomTensorBytes(DType::kF32, 20, 320, 2);
  const TensorView tensor = {"w", DType::kF32, {20, 320}, data};
  for (const WeightType type : {WeightType::kBF16, WeightType::kInt8, WeightType::kInt4}) {
    absl::StatusOr<Matrix> matrix = Matrix::Pack(tensor, {.type = type});
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    for (int r = 0; r < 20; ++r) {
      const std::vector<float> expected = Dequantised(tensor, r), actual = Row(*matrix, r);
      for (int b = 0; b < 320; b += 32) {
        const auto [low, high] = std::minmax_element(expected.begin() + b, expected.begin() + b + 32);
        const float largest = std::max(-*low, *high);
        for (int c = b; c < b + 32; ++c) {
          const float bound = type == WeightType::kBF16   ? std::fabs(expected[c]) * 0x1p-8f
                              : type == WeightType::kInt8 ? largest / 127 * 0.57f
                                                          : (*high - *low) / 15 * 0.51f + largest * 0x1p-11f;
          ASSERT_NEAR(actual[c], expected[c], bound)
              << WeightTypeName(type) << " row " << r << " column " << c;
        }
      }
    }
  }
}

TEST(Matrix, TakesRowsInTheOrderGiven) {
  const std::vector<std::byte> data = RandomTensorBytes(DType::kQ4_1, 40, 64, 3);
  const TensorView tensor = {"w", DType::kQ4_1, {40, 64}, data};
  std::vector<int32_t> order;
  for (int i = 0; i < 40; ++i) order.push_back((i * 7 + 3) % 40);
  ThreadPool pool(3);
  absl::StatusOr<Matrix> matrix =
      Matrix::Pack(tensor, {.type = WeightType::kInt4, .source_row = order, .pool = &pool});
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  for (int r = 0; r < 40; ++r) EXPECT_EQ(Row(*matrix, r), Dequantised(tensor, order[r])) << r;
}

TEST(Matrix, RefusesWhatItCannotHoldAndNamesIt) {
  const std::vector<std::byte> zeros(64 * 64 * 4);
  const auto refusal = [](const TensorView& tensor, WeightType type) {
    absl::StatusOr<Matrix> matrix = Matrix::Pack(tensor, {.type = type});
    EXPECT_EQ(matrix.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(matrix.status().message());
  };
  EXPECT_NE(refusal({"blk.0.x", DType::kF32, {64}, zeros}, WeightType::kF32).find("blk.0.x"),
            std::string::npos);
  EXPECT_NE(refusal({"odd", DType::kF32, {2, 33}, zeros}, WeightType::kInt8).find("33"), std::string::npos);
  EXPECT_NE(refusal({"ids", DType::kI32, {2, 32}, zeros}, WeightType::kF32).find("I32"), std::string::npos);

  std::vector<float> values(3 * 32, 1.0f);
  for (const float bad : {NAN, std::numeric_limits<float>::infinity()}) {
    values[70] = bad;
    const TensorView tensor = {"w", DType::kF32, {3, 32}, std::as_bytes(std::span(values))};
    for (const WeightType type :
         {WeightType::kF32, WeightType::kBF16, WeightType::kInt8, WeightType::kInt4}) {
      EXPECT_NE(refusal(tensor, type).find("row 2"), std::string::npos);
    }
  }
  values[70] = 3e38f;  // finite, but its scale exceeds f16
  const TensorView large = {"w", DType::kF32, {3, 32}, std::as_bytes(std::span(values))};
  EXPECT_NE(refusal(large, WeightType::kInt8).find("int8"), std::string::npos);
  EXPECT_NE(refusal(large, WeightType::kInt4).find("q4"), std::string::npos);

  std::vector<std::byte> block(34);
  block[1] = std::byte{0x7c};  // scale: infinity
  EXPECT_NE(refusal({"w", DType::kQ8_0, {1, 32}, block}, WeightType::kInt8).find("row 0"), std::string::npos);
}

}  // namespace
}  // namespace tandem::kernels
