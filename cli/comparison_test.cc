#include "cli/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::cli {
namespace {

PolicyRun Measured(int policy, int pair, double seconds, const std::string& text = "same") {
  PolicyRun run{.policy = policy,
                .pair = pair,
                .output_tokens = 101,
                .decode_seconds = seconds,
                .text = text,
                .engine = {}};
  if (policy == 0) {
    run.engine = {.decode_steps = 100, .target_seconds = 0.8 * seconds};
  } else {
    // 25 steps with 4 drafts each, 3 of which stand: 100 tokens.
    run.engine = {.decode_steps = 25,
                  .target_seconds = 0.5 * seconds,
                  .drafter_seconds = 0.2 * seconds,
                  .draft_wait_seconds = 0.3 * seconds,
                  .draft_waits = 25,
                  .rounds = 25,
                  .checked = 100,
                  .accepted = 75,
                  .windows = 25,
                  .window_tokens = 100};
  }
  return run;
}

TEST(ComparisonTest, FiguresAreThoseWorkedByHand) {
  const Comparison comparison =
      Compare({"off", "fixed:4"}, {Measured(0, 0, 2), Measured(1, 0, 1), Measured(0, 1, 4), Measured(1, 1, 1),
                                   Measured(0, 2, 2), Measured(1, 2, 2)});
  EXPECT_EQ(comparison.pairs, 3);
  EXPECT_EQ(comparison.different_texts, 0);
  const PolicySummary& off = comparison.policies[0];
  const PolicySummary& fixed = comparison.policies[1];
  EXPECT_DOUBLE_EQ(off.tokens_per_second, 50);
  EXPECT_DOUBLE_EQ(off.low, 25);
  EXPECT_DOUBLE_EQ(off.speed_up, 1);
  EXPECT_EQ(off.mean_accepted_length, 0);
  EXPECT_DOUBLE_EQ(off.step_ms, 1e3 * 0.8 * 8 / 300);
  EXPECT_DOUBLE_EQ(off.verify_ratio, 1);
  EXPECT_NEAR(off.hand_over_share, 0.2, 1e-9);
  EXPECT_DOUBLE_EQ(fixed.tokens_per_second, 100);
  EXPECT_DOUBLE_EQ(fixed.speed_up, 2);  // of 2, 4, 1
  EXPECT_DOUBLE_EQ(fixed.speed_up_low, 1);
  EXPECT_DOUBLE_EQ(fixed.speed_up_high, 4);
  EXPECT_DOUBLE_EQ(fixed.mean_accepted_length, 4);
  EXPECT_DOUBLE_EQ(fixed.mean_window, 4);
  EXPECT_DOUBLE_EQ(fixed.acceptance, 0.75);
  EXPECT_DOUBLE_EQ(fixed.draft_step_ms, 1e3 * 0.2 * 4 / 75);
  EXPECT_DOUBLE_EQ(fixed.verify_ratio, (0.5 * 4 / 75) / (0.8 * 8 / 300));
  EXPECT_NEAR(fixed.hand_over_share, 0.3, 1e-9);
  EXPECT_DOUBLE_EQ(fixed.tokens_per_step, 4);
  EXPECT_NEAR(fixed.drafting_ms, 1e3 * 0.2 * 4 / 75, 1e-9);
  EXPECT_NEAR(fixed.hand_over_ms, 1e3 * 0.3 * 4 / 75, 1e-9);
}

TEST(ComparisonTest, HalfPairsDoNotCountAndOtherTextsDo) {
  const Comparison comparison =
      Compare({"off", "prefix"}, {Measured(0, 0, 2), Measured(1, 0, 1, "other"), Measured(0, 1, 9)});
  EXPECT_EQ(comparison.pairs, 1);
  EXPECT_EQ(comparison.different_texts, 1);
  EXPECT_DOUBLE_EQ(comparison.policies[0].tokens_per_second, 50);
}

TEST(ComparisonTest, NothingMeasuredIsZeroEverywhere) {
  const Comparison comparison = Compare({"prefix"}, {});
  EXPECT_EQ(comparison.policies[0].speed_up, 0);
  EXPECT_EQ(comparison.policies[0].verify_ratio, 0);
  EXPECT_THAT(FormatTable(comparison), ::testing::HasSubstr("prefix"));
}

}  // namespace
}  // namespace tandem::cli
