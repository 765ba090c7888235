#include "verifier/engine/draft_overlap.h"

#include <gtest/gtest.h>

namespace tandem::verifier {
namespace {

constexpr absl::Duration kBegin = absl::Milliseconds(100), kEnd = absl::Milliseconds(112);

// The step takes 12 ms instead of 10 ms: 2 ms of what drafting lasted beside it.
double Interference(absl::Duration arrived, bool still_waiting) {
  DraftTimeModel time;
  for (size_t i = 0; i < DraftTimeModel::kMinOverlaps; ++i) {
    DraftOverlap overlap;
    overlap.OnStep(kBegin, kEnd, 10e-3, 12e-3);
    overlap.OnArrival(arrived);
    EXPECT_EQ(overlap.Settle(still_waiting, time).has_value(),
              arrived < kBegin || i + 1 == DraftTimeModel::kMinOverlaps);
  }
  return time.Interference();
}

TEST(DraftOverlap, EndsWithTheAnswerOrWithTheStep) {
  EXPECT_NEAR(Interference(kBegin + absl::Milliseconds(4), false), 2.0 / 4, 1e-9);
  EXPECT_NEAR(Interference(kEnd + absl::Milliseconds(9), false), 2.0 / 12, 1e-9);
  EXPECT_NEAR(Interference(kBegin + absl::Milliseconds(4), true), 2.0 / 12, 1e-9);
}

TEST(DraftOverlap, AnAnswerFromBeforeTheStepIsNoOverlap) {
  EXPECT_EQ(Interference(kBegin - absl::Milliseconds(1), false), 1);  // unknown
}

TEST(DraftOverlap, TheLastOfSeveralAnswersCounts) {
  DraftTimeModel time;
  for (int i = 0; i < 10; ++i) time.ObserveOverlap(10e-3, 12e-3, 4e-3);  // s = 0.5
  DraftOverlap overlap;
  overlap.OnStep(kBegin, kEnd, 10e-3, 12e-3);
  overlap.OnArrival(kBegin + absl::Milliseconds(8));
  overlap.OnArrival(kBegin + absl::Milliseconds(3));
  EXPECT_NEAR(*overlap.Settle(false, time), 0.5 * 8e-3, 1e-12);
}

// Nothing says that a drafter that never answered was at work.
TEST(DraftOverlap, WaitsThatWereGivenUpSayNothing) {
  DraftTimeModel time;
  DraftOverlap overlap;
  EXPECT_FALSE(overlap.Settle(true, time).has_value());
  overlap.OnStep(kBegin, kEnd, 10e-3, 12e-3);
  EXPECT_FALSE(overlap.Settle(false, time).has_value());
  EXPECT_FALSE(overlap.Settle(true, time).has_value()) << "a step is settled once";
}

}  // namespace
}  // namespace tandem::verifier
