#include "common/models/row_projection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "common/formats/tensor.h"
#include "common/kernels/gemm.h"
#include "common/kernels/matrix.h"

namespace tandem::models {
namespace {

constexpr int32_t kHidden = 24, kWidth = 20, kTokens = 37;

std::vector<float> RandomFloats(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

speculation::Projection Example(int32_t hidden_size = kHidden) {
  return {.width = kWidth,
          .taps = {0, 2, 3},
          .fc = RandomFloats(size_t{kWidth} * 3 * hidden_size, 1),
          .norm = RandomFloats(kWidth, 2),
          .norm_eps = 1e-3f};
}

struct Taps {
  std::vector<std::vector<float>> values;
  std::vector<std::span<const float>> spans;

  const int32_t hidden_size;

  explicit Taps(int32_t tokens, int32_t hidden = kHidden) : hidden_size(hidden) {
    for (unsigned i = 0; i < 3; ++i) values.push_back(RandomFloats(size_t(tokens) * hidden, 10 + i));
    for (const auto& v : values) spans.emplace_back(v);
  }
};

std::vector<float> ProjectedRows(const speculation::Projection& p, const Taps& taps, int32_t tokens,
                                 int32_t max_rows,
                                 RowProjection::Precision precision = RowProjection::Precision::kExact) {
  ThreadPool pool(2);
  auto projection = RowProjection::Create(p, taps.hidden_size, max_rows, pool, precision);
  if (!projection.ok()) {
    ADD_FAILURE() << projection.status();
    return {};
  }
  std::vector<float> rows(size_t(tokens) * kWidth);
  int32_t projected = 0;
  for (int32_t t = 0; t < tokens; ++t) {
    (*projection)->Add(taps.spans, t);
    if ((*projection)->num_waiting() < max_rows && t + 1 < tokens) continue;
    (*projection)->Project(std::span(rows).subspan(size_t(projected) * kWidth));
    projected = t + 1;
  }
  EXPECT_EQ((*projection)->num_waiting(), 0);
  return rows;
}

// In double; the error of an f32 sum of n = 72 products is below n 2^-24 sum |x w| < 72 * 6e-8 * 72 * 9 =
// 3e-3 in the worst case and far less in the mean; 1e-4 relative to the row's size is ample for these seeds.
TEST(RowProjection, IsTheNormedProductOfTheTapsSideBySide) {
  for (const bool with_norm : {true, false}) {
    speculation::Projection p = Example();
    if (!with_norm) p.norm.clear();
    const Taps taps(kTokens);
    const std::vector<float> rows = ProjectedRows(p, taps, kTokens, 64);
    ASSERT_EQ(rows.size(), size_t{kTokens} * kWidth);
    for (int t = 0; t < kTokens; ++t) {
      std::vector<double> expected(kWidth);
      double squares = 0;
      for (int r = 0; r < kWidth; ++r) {
        for (int i = 0; i < 3; ++i) {
          for (int h = 0; h < kHidden; ++h) {
            expected[r] += double{p.fc[(r * 3 + i) * kHidden + h]} * taps.values[i][t * kHidden + h];
          }
        }
        squares += expected[r] * expected[r];
      }
      for (int r = 0; r < kWidth; ++r) {
        if (with_norm) expected[r] *= p.norm[r] / std::sqrt(squares / kWidth + double{p.norm_eps});
        ASSERT_NEAR(rows[t * kWidth + r], expected[r], 1e-4 + 1e-5 * std::abs(expected[r])) << t << ' ' << r;
      }
    }
  }
}

TEST(RowProjection, ARowIsTheSameInPiecesAndAtOnce) {
  const Taps taps(kTokens);
  const std::vector<float> at_once = ProjectedRows(Example(), taps, kTokens, 64);
  for (const int32_t piece : {1, 5, 36}) {
    const std::vector<float> cut = ProjectedRows(Example(), taps, kTokens, piece);
    ASSERT_EQ(std::memcmp(cut.data(), at_once.data(), at_once.size() * sizeof(float)), 0) << piece;
  }
}

// Rounded one by one as they come, they are what the kernels make of all of them at once.
TEST(RowProjection, AnInt8RowIsTheProductOfTheTapsLoadedAtOnce) {
  constexpr int32_t kHiddenInt8 = 64;
  speculation::Projection p = Example(kHiddenInt8);
  p.norm.clear();
  const Taps taps(kTokens, kHiddenInt8);
  std::vector<float> features;
  for (int t = 0; t < kTokens; ++t) {
    for (const auto& v : taps.values) {
      features.insert(features.end(), v.begin() + t * kHiddenInt8, v.begin() + (t + 1) * kHiddenInt8);
    }
  }
  ThreadPool pool(1);
  const formats::TensorView fc = {
      "fc", formats::DType::kF32, {kWidth, 3 * kHiddenInt8}, std::as_bytes(std::span(p.fc))};
  const auto matrix = kernels::Matrix::Pack(fc, {.type = kernels::WeightType::kInt8, .pool = &pool});
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  kernels::Activations x(kTokens, 3 * kHiddenInt8, kernels::ActivationType::kInt8);
  x.Load(features, kTokens, 3 * kHiddenInt8, pool);
  std::vector<float> expected(size_t{kTokens} * kWidth);
  kernels::Gemm(x, *matrix, expected.data(), kWidth, pool);
  for (const int32_t piece : {1, 5, 64}) {
    const std::vector<float> rows = ProjectedRows(p, taps, kTokens, piece, RowProjection::Precision::kInt8);
    ASSERT_EQ(std::memcmp(rows.data(), expected.data(), expected.size() * sizeof(float)), 0) << piece;
  }
}

TEST(RowProjection, RefusesWhatDoesNotFit) {
  ThreadPool pool(1);
  const auto message = [&](const auto& change) {
    speculation::Projection p = Example();
    change(p);
    return std::string(RowProjection::Create(p, kHidden, 8, pool).status().message());
  };
  EXPECT_EQ(message([](auto&) {}), "");
  EXPECT_THAT(message([](auto& p) { p.width = 0; }), ::testing::HasSubstr("width 0"));
  EXPECT_THAT(message([](auto& p) { p.taps.clear(); }), ::testing::HasSubstr("0 taps"));
  EXPECT_THAT(message([](auto& p) { p.fc.pop_back(); }), ::testing::HasSubstr("fc has"));
  EXPECT_THAT(message([](auto& p) { p.norm.pop_back(); }), ::testing::HasSubstr("norm has 19"));
  EXPECT_THAT(message([](auto& p) { p.norm_eps = 0; }), ::testing::HasSubstr("norm_eps"));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(message([&](auto& p) { p.norm[3] = nan; }), ::testing::HasSubstr("not finite"));
  EXPECT_THAT(message([&](auto& p) { p.fc[3] = nan; }), ::testing::HasSubstr("not finite"));
}

}  // namespace
}  // namespace tandem::models
