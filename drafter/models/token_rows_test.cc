#include "drafter/models/token_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "common/kernels/half.h"

namespace tandem::drafter {
namespace {

using formats::DType;

// A tensor with its bytes.
struct Stored {
  std::vector<std::byte> bytes;
  DraftTensor tensor;

  template <typename T>
  Stored(DType dtype, std::vector<int64_t> shape, const std::vector<T>& values,
         std::vector<float> scales = {}) {
    bytes.resize(values.size() * sizeof(T));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    tensor = {{"table", dtype, std::move(shape), bytes}, std::move(scales)};
  }
};

constexpr int64_t kRows = 9, kCols = 37;

std::vector<Stored> EachType() {
  std::mt19937 random(1);
  std::vector<float> f32;
  std::vector<uint16_t> bf16;
  std::vector<int8_t> int8;
  for (int64_t i = 0; i < kRows * kCols; ++i) {
    int8.push_back(static_cast<int8_t>(random() % 255 - 127));
    f32.push_back(static_cast<float>(int8.back()) / 64.0f);
    bf16.push_back(kernels::BF16FromFloat(f32.back()));
  }
  std::vector<Stored> all;
  all.emplace_back(DType::kF32, std::vector<int64_t>{kRows, kCols}, f32);
  all.emplace_back(DType::kBF16, std::vector<int64_t>{kRows, kCols}, bf16);
  all.emplace_back(DType::kI8, std::vector<int64_t>{kRows, kCols}, int8,
                   std::vector<float>(kRows, 1 / 64.0f));
  return all;
}

TEST(TokenRows, GivesRowsAndProductsOfEveryType) {
  std::vector<float> x(kCols);
  for (int64_t c = 0; c < kCols; ++c) x[c] = std::sin(static_cast<float>(c));
  for (const Stored& stored : EachType()) {
    const auto table = TokenRows::Read(stored.tensor, {});
    ASSERT_TRUE(table.ok()) << table.status();
    ASSERT_EQ(table->rows(), kRows);
    for (int64_t r = 0; r < kRows; ++r) {
      std::vector<float> row(kCols), expected(kCols);
      table->Row(r, row);
      stored.tensor.DequantizeRow(r, expected);
      EXPECT_EQ(row, expected);
      double dot = 0;
      for (int64_t c = 0; c < kCols; ++c) dot += double{row[c]} * x[c];
      // 37 products below 2: the sum errs by less than 37 * 74 * 2^-24.
      EXPECT_NEAR(table->Dot(r, x), dot, 2e-4);
    }
  }
}

TEST(TokenRows, TakesTheRowsAskedForInTheirOrder) {
  const std::vector<int32_t> order = {8, 0, 3};
  for (const Stored& stored : EachType()) {
    const auto table = TokenRows::Read(stored.tensor, order);
    ASSERT_TRUE(table.ok()) << table.status();
    ASSERT_EQ(table->rows(), 3);
    for (size_t i = 0; i < order.size(); ++i) {
      std::vector<float> row(kCols), expected(kCols);
      table->Row(static_cast<int64_t>(i), row);
      stored.tensor.DequantizeRow(order[i], expected);
      EXPECT_EQ(row, expected);
    }
  }
}

TEST(TokenRows, RefusesWhatIsNotFinite) {
  const Stored stored(DType::kF32, {2, 2}, std::vector<float>{1, 2, 3, INFINITY});
  const auto table = TokenRows::Read(stored.tensor, {});
  EXPECT_THAT(std::string(table.status().message()), ::testing::HasSubstr("row 1"));
}

}  // namespace
}  // namespace tandem::drafter
