#include "common/sampling/law_test.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace tandem::sampling {
namespace {

TEST(LawTest, TailsAreThoseOfTheTables) {
  // One degree: erfc(sqrt(x / 2)). Two: exp(-x / 2). Four: exp(-x / 2) (1 + x / 2).
  for (const double x : {1e-9, 0.1, 1.0, 2.5, 10.0, 80.0, 300.0}) {
    const auto near = [](double got, double want) { EXPECT_NEAR(got, want, 1e-11 * want + 1e-15); };
    near(ChiSquareTail(x, 1), std::erfc(std::sqrt(x / 2)));
    near(ChiSquareTail(x, 2), std::exp(-x / 2));
    near(ChiSquareTail(x, 4), std::exp(-x / 2) * (1 + x / 2));
  }
  EXPECT_EQ(ChiSquareTail(0, 3), 1);
  // Abramowitz and Stegun, table 26.8.
  EXPECT_NEAR(ChiSquareCritical(0.05, 1), 3.84146, 1e-5);
  EXPECT_NEAR(ChiSquareCritical(0.001, 10), 29.588, 1e-3);
  EXPECT_NEAR(ChiSquareCritical(0.05, 100), 124.342, 1e-3);
}

TEST(LawTest, TheStatisticIsPearsons) {
  // 40 and 60 against 50 and 50: as a law 10^2 / 50 twice, as a sample
  // (100 * 40 - 100 * 50)^2 / (100 * 100 * (40 + 50)) and the same over 60 + 50.
  const LawComparison law = CompareWithLaw({{7, 40}, {9, 60}}, {{7, 0.5}, {9, 0.5}});
  EXPECT_NEAR(law.statistic, 4, 1e-12);
  EXPECT_EQ(law.degrees_of_freedom, 1);
  EXPECT_NEAR(law.p_value, std::erfc(std::sqrt(2.0)), 1e-12);
  const LawComparison samples = CompareSamples({{7, 40}, {9, 60}}, {{7, 50}, {9, 50}});
  EXPECT_NEAR(samples.statistic, 100.0 / 90 + 100.0 / 110, 1e-12);
}

TEST(LawTest, RareCellsArePooledAndARareRestJoinsTheRarestCell) {
  // 1 and 2 are expected 85 and 5 times, 3 and 4 less, together 6.
  EXPECT_EQ(
      CompareSamples({{1, 80}, {2, 8}, {3, 6}, {4, 2}}, {{1, 90}, {2, 2}, {3, 2}, {4, 2}}).degrees_of_freedom,
      2);
  const LawComparison joined = CompareSamples({{1, 80}, {2, 10}, {3, 1}}, {{1, 80}, {2, 8}, {4, 3}});
  EXPECT_EQ(joined.degrees_of_freedom, 1);
  EXPECT_NEAR(joined.statistic, 0, 1e-12);  // 80 and 11 of both
  EXPECT_EQ(CompareSamples({{1, 3}}, {{2, 3}}).degrees_of_freedom, 0);
  EXPECT_EQ(CompareSamples({{1, 3}}, {{2, 3}}).p_value, 1);
}

TEST(LawTest, WhatCannotBeIsFoundAtOnce) {
  EXPECT_EQ(CompareWithLaw({{1, 1000}, {2, 1}}, {{1, 1.0}, {2, 0.0}}).p_value, 0);
  EXPECT_EQ(CompareWithLaw({{1, 1000}, {2, 1}}, {{1, 1.0}}).p_value, 0);
}

SampleCounts Draw(const std::vector<double>& law, int n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::discrete_distribution<uint64_t> distribution(law.begin(), law.end());
  SampleCounts counts;
  for (int i = 0; i < n; ++i) ++counts[distribution(random)];
  return counts;
}

// Of equal laws a share of about `level` of all comparisons is below it, whatever the level; of laws that
// differ the share that Power says.
TEST(LawTest, LevelsAndPowerAreWhatTheySay) {
  const std::vector<double> p = {0.4, 0.3, 0.2, 0.06, 0.03, 0.005, 0.004, 0.001};
  const std::vector<double> q = {0.36, 0.34, 0.2, 0.06, 0.03, 0.005, 0.004, 0.001};
  constexpr int kRuns = 4000, kSamples = 2000;
  int below_tenth = 0, below_hundredth = 0, found = 0;
  for (int run = 0; run < kRuns; ++run) {
    const SampleCounts a = Draw(p, kSamples, 3 * run);
    const double equal = CompareSamples(a, Draw(p, kSamples, 3 * run + 1)).p_value;
    below_tenth += equal < 0.1;
    below_hundredth += equal < 0.01;
    found += CompareSamples(a, Draw(q, kSamples, 3 * run + 2)).p_value < 0.01;
  }
  // Four standard deviations of a binomial: 76, 25, and 126 at the widest.
  EXPECT_NEAR(below_tenth, 0.1 * kRuns, 76);
  EXPECT_NEAR(below_hundredth, 0.01 * kRuns, 25);
  double noncentrality = 0;
  for (size_t v = 0; v < p.size(); ++v)
    noncentrality += kSamples * (p[v] - q[v]) * (p[v] - q[v]) / (p[v] + q[v]);
  const double power = Power(noncentrality, 6, 0.01);  // 0.004 and 0.001 are pooled
  EXPECT_GT(power, 0.2);
  EXPECT_LT(power, 0.8);
  EXPECT_NEAR(found, power * kRuns, 126 + 0.02 * kRuns);  // the law of the statistic is one in the limit
}

TEST(LawTest, PowerGrowsFromTheLevelToOne) {
  EXPECT_NEAR(Power(0, 5, 1e-4), 1e-4, 1e-9);
  double before = 0;
  for (const double noncentrality : {1.0, 10.0, 30.0, 60.0, 200.0, 5000.0}) {
    const double power = Power(noncentrality, 5, 1e-4);
    EXPECT_GT(power, before - 1e-12);
    before = power;
  }
  EXPECT_NEAR(before, 1, 1e-9);
  EXPECT_EQ(LeastNoncentrality({.statistic = 5, .degrees_of_freedom = 10}), 0);
  EXPECT_NEAR(LeastNoncentrality({.statistic = 210, .degrees_of_freedom = 10}), 200 - 3 * std::sqrt(820),
              1e-9);
}

}  // namespace
}  // namespace tandem::sampling
