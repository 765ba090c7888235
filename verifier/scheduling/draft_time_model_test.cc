#include "verifier/scheduling/draft_time_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace tandem::verifier {
namespace {

TEST(DraftTimeModel, KnowsNothingAtFirst) {
  const DraftTimeModel model;
  EXPECT_FALSE(model.known());
  EXPECT_EQ(model.RoundSeconds(1), 0);
  EXPECT_EQ(model.RoundSeconds(100), 0);
  EXPECT_EQ(model.Interference(), 1);
  EXPECT_EQ(model.P99RoundSeconds(), 0);
}

TEST(DraftTimeModel, TakesTheFirstRoundForAllSizes) {
  DraftTimeModel model;
  model.ObserveRound(4, 2e-3);
  EXPECT_TRUE(model.known());
  EXPECT_DOUBLE_EQ(model.RoundSeconds(4), 2e-3);
  EXPECT_DOUBLE_EQ(model.RoundSeconds(1), 2e-3);
  EXPECT_EQ(model.RoundSeconds(0), 0);
  EXPECT_DOUBLE_EQ(model.P99RoundSeconds(), 2e-3);
}

TEST(DraftTimeModel, TimeoutsStandInForRoundsUntilThereAreSome) {
  DraftTimeModel model;
  model.ObserveTimeout(0.2);
  model.ObserveTimeout(0.1);
  EXPECT_DOUBLE_EQ(model.RoundSeconds(3), 0.2);
  EXPECT_EQ(model.P99RoundSeconds(), 0);  // or timeouts would make longer ones
  model.ObserveRound(4, 2e-3);
  model.ObserveTimeout(0.2);
  EXPECT_DOUBLE_EQ(model.RoundSeconds(3), 2e-3);
}

TEST(DraftTimeModel, LearnsBaseAndSlopeFromNoisyRounds) {
  std::mt19937_64 rng(1);
  std::uniform_real_distribution<double> noise(0.9, 1.1);
  DraftTimeModel model;
  for (int i = 0; i < 200; ++i) {
    const int n = 1 + static_cast<int>(rng() % 64);
    model.ObserveRound(n, (1e-3 + 50e-6 * n) * noise(rng));
  }
  for (const int n : {1, 16, 64})
    EXPECT_NEAR(model.RoundSeconds(n), 1e-3 + 50e-6 * n, 0.1 * (1e-3 + 50e-6 * n)) << n;
}

TEST(DraftTimeModel, AStalledRoundSpoilsNothing) {
  for (const int num_before : {0, 1, 3, 20, 100}) {
    DraftTimeModel model;
    for (int i = 0; i < num_before; ++i) model.ObserveRound(1 + i % 8, 1e-3 + 1e-4 * (1 + i % 8));
    model.ObserveRound(4, 5.0);  // also as the very first
    for (int i = 0; i < 20; ++i) model.ObserveRound(1 + i % 8, 1e-3 + 1e-4 * (1 + i % 8));
    for (const int n : {1, 4, 8}) {
      EXPECT_NEAR(model.RoundSeconds(n), 1e-3 + 1e-4 * n, 0.05 * (1e-3 + 1e-4 * n)) << num_before << " " << n;
    }
  }
}

TEST(DraftTimeModel, EveryFifthRoundMayStall) {
  std::mt19937_64 rng(2);
  DraftTimeModel model;
  for (int i = 0; i < 300; ++i) {
    const int n = 1 + static_cast<int>(rng() % 16);
    model.ObserveRound(n, i % 5 == 0 ? 0.3 : 2e-3 + 1e-4 * n);
  }
  for (const int n : {1, 8, 16})
    EXPECT_NEAR(model.RoundSeconds(n), 2e-3 + 1e-4 * n, 0.05 * (2e-3 + 1e-4 * n)) << n;
  EXPECT_NEAR(model.P99RoundSeconds(), 0.3, 1e-9);
}

TEST(DraftTimeModel, FollowsALastingChangeWithinItsRecentRounds) {
  DraftTimeModel model;
  for (int i = 0; i < 500; ++i) model.ObserveRound(8, 1e-3);
  for (size_t i = 0; i < DraftTimeModel::kFitRounds; ++i) model.ObserveRound(8, 4e-3);
  EXPECT_NEAR(model.RoundSeconds(8), 4e-3, 1e-9);
}

TEST(DraftTimeModel, NeverFallsWithMoreSequencesNorBelowZero) {
  DraftTimeModel falling, steep;
  for (int i = 0; i < 50; ++i) {
    falling.ObserveRound(1 + i % 8, 10e-3 - 1e-3 * (i % 8));
    steep.ObserveRound(8 + i % 8, 1e-3 * (i % 8) + 1e-6);  // a line that would be negative below 8
  }
  EXPECT_EQ(falling.RoundSeconds(1), falling.RoundSeconds(8));
  EXPECT_GT(steep.RoundSeconds(1), 0);
  EXPECT_GT(steep.RoundSeconds(8), steep.RoundSeconds(1));
}

TEST(DraftTimeModel, P99IsTheHundredthLongest) {
  DraftTimeModel model;
  for (int i = 1; i <= 200; ++i) model.ObserveRound(1, i * 1e-3);
  EXPECT_NEAR(model.P99RoundSeconds(), 198e-3, 1e-12);
  for (size_t i = 0; i < DraftTimeModel::kPercentileRounds; ++i) model.ObserveRound(1, 1e-3);
  EXPECT_NEAR(model.P99RoundSeconds(), 1e-3, 1e-12);  // the long ones are forgotten
}

TEST(DraftTimeModel, InterferenceIsTheShareOfTheOverlapThatStepsTookLonger) {
  for (const double share : {0.0, 0.3, 1.0}) {
    std::mt19937_64 rng(3);
    std::normal_distribution<double> noise(0, 0.2e-3);
    DraftTimeModel model;
    for (int i = 0; i < 100; ++i) {
      const double overlap = 1e-3 + 1e-3 * static_cast<double>(rng() % 4);
      const double stall = i % 10 == 0 ? 1.0 : 0;
      model.ObserveOverlap(10e-3, 10e-3 + share * overlap + noise(rng) + stall, overlap);
    }
    EXPECT_NEAR(model.Interference(), share, 0.12) << share;
  }
}

TEST(DraftTimeModel, InterferenceStaysOneUntilEnoughOverlapsSpokeAndInRange) {
  DraftTimeModel model;
  for (size_t i = 0; i + 1 < DraftTimeModel::kMinOverlaps; ++i) model.ObserveOverlap(10e-3, 10e-3, 5e-3);
  EXPECT_EQ(model.Interference(), 1);
  model.ObserveOverlap(10e-3, 10e-3, 5e-3);
  EXPECT_EQ(model.Interference(), 0);
  for (int i = 0; i < 100; ++i) model.ObserveOverlap(10e-3, 11e-3, 0.1e-3);  // too short to tell
  EXPECT_EQ(model.Interference(), 0);
  for (int i = 0; i < 100; ++i) model.ObserveOverlap(10e-3, 90e-3, 5e-3);
  EXPECT_EQ(model.Interference(), 1);
  for (int i = 0; i < 100; ++i) model.ObserveOverlap(10e-3, 1e-3, 5e-3);
  EXPECT_EQ(model.Interference(), 0);
}

TEST(DraftTimeModel, LearnsNothingFromWhatIsNoMeasurement) {
  DraftTimeModel model;
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {0.0, -1.0, nan, infinity}) {
    model.ObserveRound(1, bad);
    for (int i = 0; i < 10; ++i) {
      model.ObserveOverlap(bad, 1, 1);
      model.ObserveOverlap(1, bad, 1);
      model.ObserveOverlap(1, 1, bad);
    }
  }
  model.ObserveRound(0, 1);
  model.ObserveRound(-1, 1);
  EXPECT_FALSE(model.known());
  EXPECT_EQ(model.Interference(), 1);
}

}  // namespace
}  // namespace tandem::verifier
