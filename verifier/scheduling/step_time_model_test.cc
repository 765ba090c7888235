#include "verifier/scheduling/step_time_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace tandem::verifier {
namespace {

using ::testing::HasSubstr;

// 10 ms to read the weights, 1 ms of arithmetic a row.
std::vector<StepTimePoint> Linear(double read = 10e-3, double per_row = 1e-3) {
  std::vector<StepTimePoint> points;
  for (const int rows : kMeasuredDecodeRows) points.push_back({rows, read + per_row * rows});
  return points;
}
StepTimeModel MakeModel(std::vector<StepTimePoint> points = Linear()) {
  return *StepTimeModel::FromMeasurements(points);
}

StepShape RandomShape(std::mt19937_64& rng) {
  return {.num_decode_rows = static_cast<int>(rng() % 40),
          .num_kv_positions = static_cast<int64_t>(rng() % 20000),
          .num_prefill_tokens = rng() % 3 == 0 ? static_cast<int>(rng() % 512) : 0};
}

TEST(StepTimeModel, PredictsMeasuredPointsInterpolatesAndExtends) {
  const StepTimeModel model = MakeModel();
  for (const int rows : {1, 2, 3, 4, 7, 8, 12, 16, 24, 100, 512, 2000}) {
    EXPECT_NEAR(model.Predict({.num_decode_rows = rows}), 10e-3 + 1e-3 * rows, 1e-9) << rows;
  }
  EXPECT_EQ(model.Predict({}), model.Predict({.num_decode_rows = 1}));
  EXPECT_NEAR(model.Predict({.num_decode_rows = 1, .num_prefill_tokens = 10}), 21e-3, 1e-9);
}

TEST(StepTimeModel, TakesATimeBelowThatOfFewerRowsAsNoise) {
  std::vector<StepTimePoint> points = Linear();
  points[2].seconds = 1e-3;
  const StepTimeModel model = MakeModel(points);
  EXPECT_EQ(model.Predict({.num_decode_rows = 4}), model.Predict({.num_decode_rows = 2}));
}

TEST(StepTimeModel, RefusesMeasurementsThatAreNoTable) {
  const double nan = std::nan("");
  const auto refused = [](std::vector<StepTimePoint> points) {
    return StepTimeModel::FromMeasurements(points).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused({}));
  EXPECT_TRUE(refused({{1, 1.0}}));
  EXPECT_TRUE(refused({{1, 1.0}, {4, 2.0}}));
  EXPECT_TRUE(refused({{2, 1.0}, {4, 2.0}}));
  for (const double bad : {0.0, -1.0, nan, std::numeric_limits<double>::infinity(), 1e9}) {
    EXPECT_TRUE(refused({{1, 1.0}, {2, bad}})) << bad;
  }
}

TEST(StepTimeModel, LearnsTableKappaPrefillAndOffsetFromMixedSteps) {
  // The machine is 40 % slower than measured at start, with 0.3 us a KV position and 2 ms a prefill token.
  const auto real = [](const StepShape& s) {
    return 14e-3 + 1.4e-3 * std::max(s.num_decode_rows, 1) +
           0.3e-6 * static_cast<double>(s.num_kv_positions) + 2e-3 * s.num_prefill_tokens;
  };
  StepTimeModel model = MakeModel();
  std::mt19937_64 rng(1);
  for (int i = 0; i < 20000; ++i) {
    const StepShape shape = RandomShape(rng);
    model.Observe(shape, real(shape));
  }
  double worst = 0;
  for (int i = 0; i < 500; ++i) {
    const StepShape shape = RandomShape(rng);
    worst = std::max(worst, std::abs(model.Predict(shape) / real(shape) - 1));
  }
  EXPECT_LT(worst, 0.05);
  EXPECT_NEAR(model.parameters().kappa_seconds, 0.3e-6, 0.03e-6);
  EXPECT_NEAR(model.parameters().pi_seconds, 2e-3, 0.1e-3);
}

TEST(StepTimeModel, FollowsALastingSlowdownWithinFortySteps) {
  StepTimeModel model = MakeModel();
  const StepShape shape = {.num_decode_rows = 8};
  for (int i = 0; i < 40; ++i) model.Observe(shape, 2 * 18e-3);
  EXPECT_NEAR(model.Predict(shape), 36e-3, 0.1 * 36e-3);
}

TEST(StepTimeModel, ReturnsTheErrorFromBeforeTheCorrection) {
  StepTimeModel model = MakeModel();
  EXPECT_NEAR(model.Observe({.num_decode_rows = 8}, 36e-3), 0.5, 1e-9);  // |18 - 36| / 36
  StepTimeModel exact = MakeModel();
  EXPECT_NEAR(exact.Observe({.num_decode_rows = 8}, 18e-3), 0.0, 1e-9);
}

TEST(StepTimeModel, LearnsNothingFromAMeasurementThatIsNone) {
  for (const double bad : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    StepTimeModel model = MakeModel();
    EXPECT_EQ(model.Observe({.num_decode_rows = 8}, bad), 0);
    EXPECT_EQ(model.Predict({.num_decode_rows = 8}), MakeModel().Predict({.num_decode_rows = 8}));
  }
}

// Whatever is observed: parameters stay valid, predictions positive and monotone, and one step, however long,
// moves its own prediction by a bounded share only.
TEST(StepTimeModel, StaysValidMonotoneAndBoundedUnderAnyObservations) {
  std::mt19937_64 rng(2);
  std::uniform_real_distribution<double> log_seconds(-9, 6);
  StepTimeModel model = MakeModel();
  for (int i = 0; i < 20000; ++i) {
    const StepShape shape = RandomShape(rng);
    const double before = model.Predict(shape);
    model.Observe(shape, i % 2 == 0 ? std::exp(log_seconds(rng))
                                    : before * (0.5 + static_cast<double>(rng() % 100) / 50));
    ASSERT_TRUE(model.parameters().Validate().ok()) << i << ": " << model.parameters().Validate();
    ASSERT_LE(std::abs(model.Predict(shape) - before), StepTimeModel::kMaxCorrectionShare * before) << i;
    if (i % 50 != 0) continue;
    double previous = 0;
    for (int rows = 0; rows < 1500; rows += 1 + rows / 8) {
      const double seconds = model.Predict({.num_decode_rows = rows});
      ASSERT_GT(seconds, 0);
      ASSERT_GE(seconds, previous);
      previous = seconds;
    }
    ASSERT_GE(model.Predict({.num_kv_positions = 1000}), model.Predict({}));
    ASSERT_GE(model.Predict({.num_prefill_tokens = 1000}), model.Predict({}));
    ASSERT_GE(model.Knee(), 1);
    ASSERT_LE(model.Knee(), kTableDecodeRows.back());
  }
}

// Steps just beyond the known part of the table, where a cliff is: they must not spoil what is known.
TEST(StepTimeModel, StepsBeyondACliffHardlyMoveThePointBeforeIt) {
  StepTimeModel model = MakeModel(Linear(10e-3, 0));
  for (int i = 0; i < 50; ++i) model.Observe({.num_decode_rows = 256}, 10e-3);
  for (int i = 0; i < 200; ++i) model.Observe({.num_decode_rows = 320}, 15e-3);
  EXPECT_NEAR(model.Predict({.num_decode_rows = 320}), 15e-3, 0.2e-3);
  EXPECT_NEAR(model.Predict({.num_decode_rows = 256}), 10e-3, 1.0e-3);
}

TEST(StepTimeModel, OutliersHardlyMoveIt) {
  StepTimeModel model = MakeModel();
  std::mt19937_64 rng(3);
  // Every twentieth step is interrupted for a second.
  for (int i = 0; i < 4000; ++i) {
    const int rows = 1 + static_cast<int>(rng() % 16);
    model.Observe({.num_decode_rows = rows}, i % 20 == 0 ? 1.0 : 10e-3 + 1e-3 * rows);
  }
  for (const int rows : {1, 4, 8, 16}) {
    EXPECT_NEAR(model.Predict({.num_decode_rows = rows}), 10e-3 + 1e-3 * rows, 0.1 * (10e-3 + 1e-3 * rows))
        << rows;
  }
}

TEST(StepTimeModel, KneeIsWhereASingleRowsTimeHasDoubled) {
  // 10 + B = 2 * 11 at B = 12, between the points 8 and 16.
  EXPECT_NEAR(MakeModel().Knee(), 12, 1e-6);
  // Arithmetic only: T(2) = 2 T(1).
  EXPECT_NEAR(MakeModel(Linear(1e-9, 1e-3)).Knee(), 2, 1e-3);
  // Flat as far as the table goes.
  EXPECT_EQ(MakeModel(Linear(10e-3, 0)).Knee(), kTableDecodeRows.back());
}

TEST(StepTimeParameters, ValidateNamesTheField) {
  const StepTimeParameters good = MakeModel().parameters();
  ASSERT_TRUE(good.Validate().ok());
  const double nan = std::nan("");
  StepTimeParameters bad = good;
  bad.table_seconds[3] = bad.table_seconds[2] / 2;
  EXPECT_THAT(bad.Validate().message(), HasSubstr("table_seconds"));
  bad = good;
  bad.table_seconds[0] = nan;
  EXPECT_THAT(bad.Validate().message(), HasSubstr("table_seconds"));
  for (const int known : {-1, 1, static_cast<int>(kTableDecodeRows.size()) + 1}) {
    bad = good;
    bad.num_known_points = known;
    EXPECT_THAT(bad.Validate().message(), HasSubstr("num_known_points"));
  }
  for (const double value : {-1.0, nan, 1e300}) {
    bad = good;
    bad.kappa_seconds = value;
    EXPECT_THAT(bad.Validate().message(), HasSubstr("kappa_seconds"));
    bad = good;
    bad.pi_seconds = value;
    EXPECT_THAT(bad.Validate().message(), HasSubstr("pi_seconds"));
    bad = good;
    bad.offset_seconds = value;
    EXPECT_THAT(bad.Validate().message(), HasSubstr("offset_seconds"));
  }
}

}  // namespace
}  // namespace tandem::verifier
