#include "common/models/row_projection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

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

speculation::Projection Example() {
  return {.width = kWidth,
          .taps = {0, 2, 3},
          .fc = RandomFloats(size_t{kWidth} * 3 * kHidden, 1),
          .norm = RandomFloats(kWidth, 2),
          .norm_eps = 1e-3f};
}

struct Taps {
  std::vector<std::vector<float>> values;
  std::vector<std::span<const float>> spans;

  explicit Taps(int32_t tokens) {
    for (unsigned i = 0; i < 3; ++i) values.push_back(RandomFloats(size_t(tokens) * kHidden, 10 + i));
    for (const auto& v : values) spans.emplace_back(v);
  }
};

std::vector<float> ProjectedRows(const speculation::Projection& p, const Taps& taps, int32_t tokens,
                                 int32_t max_tokens) {
  ThreadPool pool(2);
  auto projection = RowProjection::Create(p, kHidden, max_tokens, pool);
  if (!projection.ok()) {
    ADD_FAILURE() << projection.status();
    return {};
  }
  std::vector<float> rows(size_t(tokens) * kWidth);
  (*projection)->Project(taps.spans, tokens, rows);
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
