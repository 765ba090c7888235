#include "verifier/scheduling/drafting_pause.h"

#include <gtest/gtest.h>

namespace tandem::verifier {
namespace {

constexpr int kSteps = DraftingPause::kSteps;
const WindowPolicy kPrefix = {.kind = PolicyKind::kPrefix};

// How many steps the answer holds, of at most kSteps + 1.
int StepsHeld(DraftingPause& pause, int num_anchors, const std::vector<DraftCandidate>& candidates) {
  for (int held = 0; held <= kSteps; ++held) {
    if (!pause.Holds(kPrefix, {.num_anchors = num_anchors}, candidates)) return held;
  }
  return kSteps + 1;
}

TEST(DraftingPause, AsksAtOnceAndThenOnlyNowAndThen) {
  const std::vector<DraftCandidate> candidates(4);
  DraftingPause pause;
  EXPECT_EQ(StepsHeld(pause, 4, candidates), 0);
  pause.Observe({.num_anchors = 4}, {false, false, false, false});
  EXPECT_EQ(StepsHeld(pause, 4, candidates), kSteps);
  pause.Observe({.num_anchors = 4}, {false, false, false, false});
  EXPECT_EQ(StepsHeld(pause, 4, candidates), kSteps);
}

TEST(DraftingPause, AsksWhenTheLoadRises) {
  DraftingPause pause;
  pause.Observe({.num_anchors = 4}, {false});
  EXPECT_EQ(StepsHeld(pause, 5, std::vector<DraftCandidate>(5)), 0);
}

TEST(DraftingPause, BeginsAnewWhenTheLoadFalls) {
  DraftingPause pause;
  pause.Observe({.num_anchors = 4}, {false, false, false, false});
  for (int i = 0; i < kSteps; ++i)
    ASSERT_TRUE(pause.Holds(kPrefix, {.num_anchors = 4}, std::vector<DraftCandidate>(4)));
  EXPECT_EQ(StepsHeld(pause, 1, std::vector<DraftCandidate>(1)), kSteps);
}

TEST(DraftingPause, DoesNotHoldUpWhoIsDraftedOrPromised) {
  DraftingPause pause;
  pause.Observe({.num_anchors = 2}, {false, false});
  EXPECT_EQ(StepsHeld(pause, 2, {{}, {.drafting = true}}), 0);
  EXPECT_EQ(StepsHeld(pause, 2, {{}, {.wanted_pace = 0.01}}), 0);
  EXPECT_EQ(StepsHeld(pause, 1, {{.drafting = true}}), 0);
}

// A request behind another that was drafted to its end is as new as the first.
TEST(DraftingPause, AnAnswerThatDraftedSomebodyHoldsForNobodyElse) {
  DraftingPause pause;
  pause.Observe({.num_anchors = 1}, {true});
  EXPECT_EQ(StepsHeld(pause, 1, std::vector<DraftCandidate>(1)), 0);
}

TEST(DraftingPause, OtherPoliciesAreAlwaysAsked) {
  DraftingPause pause;
  pause.Observe({.num_anchors = 1}, {false});
  const WindowPolicy fixed = {.kind = PolicyKind::kFixed, .fixed_window = 2};
  EXPECT_FALSE(pause.Holds(fixed, {.num_anchors = 1}, std::vector<DraftCandidate>(1)));
}

}  // namespace
}  // namespace tandem::verifier
