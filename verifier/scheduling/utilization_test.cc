#include "verifier/scheduling/utilization.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace tandem::verifier {
namespace {

TEST(Utilization, IsZeroBeforeTheFirstStepAndWhenIdle) {
  Utilization utilization;
  EXPECT_EQ(utilization.ratio(), 0);
  utilization.Observe({.num_anchors = 4, .knee = 8, .kv_blocks_in_use = 9, .kv_blocks_total = 10});
  utilization.Idle();
  EXPECT_EQ(utilization.ratio(), 0);
  EXPECT_EQ(utilization.tokens_ratio(), 0);
  EXPECT_EQ(utilization.kv_ratio(), 0);
}

TEST(Utilization, IsTheLargerOfItsParts) {
  struct Row {
    StepOccupancy load;
    double tokens, kv;
  };
  const Row rows[] = {
      {{.num_anchors = 4, .num_prefill_tokens = 0, .knee = 8, .kv_blocks_in_use = 1, .kv_blocks_total = 10},
       0.5,
       0.1},
      {{.num_anchors = 4, .num_prefill_tokens = 12, .knee = 8, .kv_blocks_in_use = 1, .kv_blocks_total = 10},
       2,
       0.1},
      {{.num_anchors = 0, .num_prefill_tokens = 4, .knee = 8, .kv_blocks_in_use = 0, .kv_blocks_total = 10},
       0.5,
       0},
      {{.num_anchors = 1, .num_prefill_tokens = 0, .knee = 8, .kv_blocks_in_use = 10, .kv_blocks_total = 10},
       0.125,
       1},
  };
  for (const Row& row : rows) {
    Utilization utilization;
    utilization.Observe(row.load);
    EXPECT_DOUBLE_EQ(utilization.tokens_ratio(), row.tokens);
    EXPECT_DOUBLE_EQ(utilization.kv_ratio(), row.kv);
    EXPECT_DOUBLE_EQ(utilization.ratio(), std::max(row.tokens, row.kv));
  }
}

TEST(Utilization, ForgetsAStepAfterExactlySixteenMore) {
  Utilization utilization;
  utilization.Observe({.num_anchors = 16, .knee = 1, .kv_blocks_in_use = 0, .kv_blocks_total = 1});
  const StepOccupancy none = {.knee = 1, .kv_blocks_total = 1};
  for (size_t i = 1; i < Utilization::kWindow; ++i) utilization.Observe(none);
  EXPECT_DOUBLE_EQ(utilization.tokens_ratio(), Utilization::kMostOfAStep / 16);
  utilization.Observe(none);
  EXPECT_DOUBLE_EQ(utilization.tokens_ratio(), 0.0);
}

TEST(Utilization, AveragesOverTheStepsThereAre) {
  Utilization utilization;
  utilization.Observe({.num_anchors = 1, .knee = 4, .kv_blocks_in_use = 1, .kv_blocks_total = 4});
  utilization.Observe({.num_anchors = 3, .knee = 4, .kv_blocks_in_use = 2, .kv_blocks_total = 4});
  EXPECT_DOUBLE_EQ(utilization.tokens_ratio(), 0.5);
  EXPECT_DOUBLE_EQ(utilization.kv_ratio(), 0.375);
}

}  // namespace
}  // namespace tandem::verifier
