#include "cli/chi_square.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace tandem::cli {
namespace {

TEST(ChiSquareTest, TailIsTheTablesValue) {
  EXPECT_NEAR(ChiSquareTail(3.841458821, 1), 0.05, 1e-9);
  EXPECT_NEAR(ChiSquareTail(6.634896601, 1), 0.01, 1e-9);
  EXPECT_NEAR(ChiSquareTail(18.30703805, 10), 0.05, 1e-9);
  EXPECT_NEAR(ChiSquareTail(124.3421134, 100), 0.05, 1e-9);
  EXPECT_NEAR(ChiSquareTail(2, 2), std::exp(-1), 1e-14);
  EXPECT_EQ(ChiSquareTail(0, 3), 1);
}

TEST(ChiSquareTest, QuantileUndoesTheTail) {
  for (const int df : {1, 2, 7, 50, 400}) {
    for (const double level : {0.5, 0.05, 1e-3, 1e-6}) {
      EXPECT_NEAR(ChiSquareTail(ChiSquareQuantile(level, df), df) / level, 1, 1e-6) << df << " " << level;
    }
  }
}

// With one degree of freedom X = (Z + sqrt(l))^2: P(X >= x) = Phi(sqrt(l) - sqrt(x)) + Phi(-sqrt(l) -
// sqrt(x)).
TEST(ChiSquareTest, NoncentralTailIsTheNormalOnesForOneDegree) {
  const auto phi = [](double z) { return std::erfc(-z / std::sqrt(2.0)) / 2; };
  for (const double l : {0.5, 4.0, 10.5, 60.0}) {
    for (const double x : {0.1, 3.84, 20.0, 70.0}) {
      const double root = std::sqrt(l), z = std::sqrt(x);
      EXPECT_NEAR(ChiSquareTail(x, 1, l), phi(root - z) + phi(-root - z), 1e-9) << l << " " << x;
    }
  }
}

// 2 x 2 worked by hand: total 200, rows 100, columns 90 and 110: sum of 25 / 45 and 25 / 55, twice.
TEST(ChiSquareTest, StatisticIsTheOneWorkedByHand) {
  const Homogeneity result = CompareLaws({{"x", 40}, {"y", 60}}, {{"x", 50}, {"y", 50}}, 0.05);
  EXPECT_EQ(result.cells, 2);
  EXPECT_EQ(result.df, 1);
  EXPECT_NEAR(result.statistic, 2 * 25.0 / 45 + 2 * 25.0 / 55, 1e-12);
  // At level 0.05 and power 0.9 the textbook's noncentrality is 10.507.
  EXPECT_NEAR(result.detectable_distance, std::sqrt(10.507 / 200), 1e-3);
}

TEST(ChiSquareTest, RareOutcomesShareACell) {
  // c, d and e together are expected 3 times a side, which is too few, so they join the smallest, b.
  const Homogeneity joined = CompareLaws({{"a", 50}, {"b", 20}, {"c", 2}, {"d", 1}},
                                         {{"a", 50}, {"b", 20}, {"c", 1}, {"e", 2}}, 0.05);
  EXPECT_EQ(joined.cells, 2);
  const Homogeneity own = CompareLaws({{"a", 50}, {"c", 4}, {"d", 4}}, {{"a", 50}, {"c", 4}, {"e", 4}}, 0.05);
  EXPECT_EQ(own.cells, 2);
  const Homogeneity nothing = CompareLaws({{"a", 50}}, {{"a", 70}}, 0.05);
  EXPECT_EQ(nothing.df, 0);
  EXPECT_EQ(nothing.p_value, 1);
  EXPECT_EQ(nothing.detectable_distance, 1);
}

// Over many equal laws p is uniform; a law at the stated distance is found about nine times in ten or more.
TEST(ChiSquareTest, LevelAndPowerAreAsStated) {
  std::mt19937_64 random(3);
  const std::vector<double> p = {0.3, 0.25, 0.2, 0.15, 0.1};
  constexpr double kLevel = 0.05;
  constexpr int kSize = 1000, kTrials = 400;
  const auto draw = [&](const std::vector<double>& law) {
    std::discrete_distribution<int> choose(law.begin(), law.end());
    std::map<std::string, int64_t> counts;
    for (int i = 0; i < kSize; ++i) ++counts[std::to_string(choose(random))];
    return counts;
  };
  int false_alarms = 0, found = 0;
  double distance = 0;
  for (int i = 0; i < kTrials; ++i) {
    const Homogeneity same = CompareLaws(draw(p), draw(p), kLevel);
    false_alarms += same.p_value < kLevel;
    distance = same.detectable_distance;
    const std::vector<double> q = {p[0] - distance, p[1], p[2], p[3], p[4] + distance};
    found += CompareLaws(draw(p), draw(q), kLevel).p_value < kLevel;
  }
  EXPECT_NEAR(false_alarms / static_cast<double>(kTrials), kLevel, 0.035);
  EXPECT_GE(found / static_cast<double>(kTrials), 0.87);
  EXPECT_LT(distance, 0.1);
}

}  // namespace
}  // namespace tandem::cli
