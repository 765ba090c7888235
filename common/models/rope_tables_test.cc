#include "common/models/rope_tables.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tandem::models {
namespace {

formats::RopeConfig Rope(double theta) {
  formats::RopeConfig rope;
  rope.theta = theta;
  return rope;
}

TEST(InverseFrequencies, ArePowersOfTheta) {
  const std::vector<float> f = InverseFrequencies(Rope(10000.0), 8);
  ASSERT_EQ(f.size(), 4u);
  EXPECT_EQ(f[0], 1.0f);
  EXPECT_FLOAT_EQ(f[1], 0.1f);
  EXPECT_FLOAT_EQ(f[2], 0.01f);
  EXPECT_FLOAT_EQ(f[3], 0.001f);
}

// theta 10^4, 8 dimensions: wavelengths 2 pi, 20 pi, 200 pi, 2000 pi = 6.28, 62.8, 628, 6283. With a context
// of 1024 and factors 1 and 4, up to 256 is kept and above 1024 divided by 8; 628.3 lies between:
// smooth = (1024 / 628.32 - 1) / 3 = 0.209916, f = 0.01 * (0.790084 / 8 + 0.209916) = 0.00308676.
TEST(InverseFrequencies, FollowTheLlama3RuleInAllThreeBranches) {
  formats::RopeConfig rope = Rope(10000.0);
  rope.llama3 = {.factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_context = 1024};
  const std::vector<float> f = InverseFrequencies(rope, 8);
  EXPECT_FLOAT_EQ(f[0], 1.0f);
  EXPECT_FLOAT_EQ(f[1], 0.1f);
  EXPECT_NEAR(f[2], 0.00308676, 1e-8);
  EXPECT_FLOAT_EQ(f[3], 0.001f / 8);
}

TEST(InverseFrequencies, AreDividedByTheLinearFactor) {
  formats::RopeConfig rope = Rope(10000.0);
  rope.linear_factor = 8;
  const std::vector<float> f = InverseFrequencies(rope, 8);
  EXPECT_EQ(f[0], 0.125f);
  EXPECT_FLOAT_EQ(f[3], 0.001f / 8);
}

// A quarter of 20 dimensions are 2.5 pairs: 2 turn.
TEST(InverseFrequencies, AreZeroForPairsThatDoNotTurn) {
  formats::RopeConfig rope = Rope(10000.0);
  const std::vector<float> all = InverseFrequencies(rope, 20);
  rope.rotated_share = 0.25;
  const std::vector<float> f = InverseFrequencies(rope, 20);
  ASSERT_EQ(f.size(), 10u);
  EXPECT_EQ(f[0], all[0]);
  EXPECT_EQ(f[1], all[1]);
  for (int j = 2; j < 10; ++j) EXPECT_EQ(f[j], 0.0f) << j;
}

TEST(InverseFrequencies, AreDividedByTheFilesFactors) {
  formats::RopeConfig rope = Rope(10000.0);
  rope.inverse_frequency_divisors = {1.0f, 2.0f, 4.0f, 8.0f};
  const std::vector<float> f = InverseFrequencies(rope, 8);
  EXPECT_FLOAT_EQ(f[0], 1.0f);
  EXPECT_FLOAT_EQ(f[1], 0.05f);
  EXPECT_FLOAT_EQ(f[2], 0.0025f);
  EXPECT_FLOAT_EQ(f[3], 0.000125f);
}

TEST(RopeTables, HoldCosineAndSineOfEveryPosition) {
  ThreadPool pool(2);
  const formats::RopeConfig rope = Rope(500.0);
  const auto tables = RopeTables::Create(rope, 6, 1000, pool);
  ASSERT_TRUE(tables.ok()) << tables.status();
  const std::vector<float> f = InverseFrequencies(rope, 6);
  ASSERT_EQ(tables->cos.size(), 3000u);
  for (const int position : {0, 1, 255, 256, 999}) {
    for (int j = 0; j < 3; ++j) {
      const double angle = static_cast<float>(position) * f[j];
      EXPECT_NEAR(tables->cos[position * 3 + j], std::cos(angle), 6e-8) << position << " " << j;
      EXPECT_NEAR(tables->sin[position * 3 + j], std::sin(angle), 6e-8) << position << " " << j;
    }
  }
}

TEST(RopeTables, RefuseMoreThanTheirLimit) {
  ThreadPool pool(1);
  EXPECT_TRUE(absl::IsResourceExhausted(RopeTables::Create({}, 1024, 1 << 26, pool).status()));
}

}  // namespace
}  // namespace tandem::models
