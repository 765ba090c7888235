#include "verifier/scheduling/latency_target.h"

#include <gtest/gtest.h>

#include <vector>

#include "verifier/scheduling/test_loads.h"

namespace tandem::verifier {
namespace {

TEST(WantedPace, IsTheTargetWhileItIsKept) {
  EXPECT_DOUBLE_EQ(WantedPace(0.02, 0, 0), 0.02);
  EXPECT_DOUBLE_EQ(WantedPace(0.02, 1, 50), 0.02);
}

TEST(WantedPace, ArrearsAreSpreadOverTheNextTokens) {
  // 80 ms late: 5 ms a token faster, over 16 tokens.
  EXPECT_DOUBLE_EQ(WantedPace(0.02, 1.08, 50), 0.015);
  EXPECT_DOUBLE_EQ(WantedPace(0.02, 0.92, 50), 0.025);
}

TEST(WantedPace, StaysWithinTwiceAndHalfTheTarget) {
  EXPECT_DOUBLE_EQ(WantedPace(0.02, 1000, 50), 0.01);
  EXPECT_DOUBLE_EQ(WantedPace(0.02, 0, 5000), 0.04);
}

// Steps of 10 ms and 1 ms a draft.
double Seconds(int num_drafts) { return 10e-3 + num_drafts * 1e-3; }
int Window(double wanted_pace, const std::vector<double>& survivals, int window = 0, int max_more = 100,
           bool no_look_ahead = false) {
  return WindowForPace(wanted_pace, survivals, window, max_more, no_look_ahead, Seconds);
}

TEST(WindowForPace, IsTheFirstThatIsFastEnough) {
  const std::vector<double> survivals = {0.8, 0.6, 0.4, 0.2, 0.1};
  // Paces with 0, 1, ... drafts, ms: 10, 6.1, 5, 4.6, 4.7, 4.8.
  EXPECT_EQ(Window(10e-3, survivals), 0);
  EXPECT_EQ(Window(9e-3, survivals), 1);
  EXPECT_EQ(Window(6.0e-3, survivals), 2);
  EXPECT_EQ(Window(4.7e-3, survivals), 3);
}

TEST(WindowForPace, IsTheFastestWhereNoneIsFastEnough) {
  EXPECT_EQ(Window(1e-3, {0.8, 0.6, 0.4, 0.2, 0.1}), 3);
  EXPECT_EQ(Window(1e-3, {0.05, 0.04}), 0);  // drafts that only slow it down
  EXPECT_EQ(Window(1e-3, {}), 0);
}

TEST(WindowForPace, KeepsWhatItHas) {
  EXPECT_EQ(Window(1, {0.8, 0.6, 0.4, 0.2, 0.1}, 4), 4);
  EXPECT_EQ(Window(1e-3, {0.8, 0.6, 0.4, 0.2, 0.1}, 4), 4);
  EXPECT_EQ(Window(1e-3, {0.8, 0.6, 0.4, 0.2, 0.1}, 2), 3);
}

TEST(WindowForPace, StaysWithinTheRoom) {
  EXPECT_EQ(Window(1e-3, {0.8, 0.6, 0.4, 0.2, 0.1}, 0, 2), 2);
  EXPECT_EQ(Window(1e-3, {0.8, 0.6, 0.4, 0.2, 0.1}, 1, 0), 1);
  EXPECT_EQ(Window(1e-3, {0.8, 0.6, 0.4, 0.2, 0.1}, 1, -3), 1);
}

// Step times are jagged: with look ahead a cliff that pays off later is taken, without it is not.
TEST(WindowForPace, LooksBeyondACliffOnlyWhereItMay) {
  const auto jagged = [](int num_drafts) { return num_drafts == 0 ? 10e-3 : 19e-3; };
  const std::vector<double> survivals = {0.8, 0.7, 0.6};
  EXPECT_EQ(WindowForPace(8e-3, survivals, 0, 9, /*no_look_ahead=*/false, jagged), 2);
  EXPECT_EQ(WindowForPace(8e-3, survivals, 0, 9, /*no_look_ahead=*/true, jagged), 0);
}

TEST(WindowForPace, NumbersThatAreNoneEndNothingBadly) { EXPECT_EQ(Window(1e-3, {0.8, NAN, 0.9, -1}), 3); }

// --- what the policy makes of it

// A verifier where 64 sequences make each draft cost half of what a lone one brings: reading weights takes 1
// ms, a row 1 ms.
class TargetsTest : public ::testing::Test {
 protected:
  TargetsTest() {
    load_ = {.step_time = &step_time_, .num_anchors = 20, .max_draft_rows = 100};
    for (size_t i = 0; i < 3; ++i) drafted_.push_back({.order = i, .survivals = survivals_});
  }
  std::vector<int> Windows() {
    std::vector<int> windows;
    ChooseWindows(policy_, load_, drafted_, windows);
    return windows;
  }

  WindowPolicy policy_;
  const StepTimeModel step_time_ = LinearStepTime(1e-3, 1e-3);
  const std::vector<double> survivals_ = {0.8, 0.64, 0.5, 0.4, 0.3, 0.25, 0.2};
  StepLoad load_;
  std::vector<DraftedSequence> drafted_;
};

TEST_F(TargetsTest, OnlyThePromisedSequenceIsSpeededUp) {
  EXPECT_EQ(Windows(), (std::vector<int>{0, 0, 0}));  // a row costs as much as it brings, or more
  drafted_[1].wanted_pace = 15e-3;
  EXPECT_EQ(Windows(), (std::vector<int>{0, 1, 0}));  // 21 ms alone; 22 / 1.8 = 12.2 ms
  drafted_[1].wanted_pace = 10e-3;
  EXPECT_EQ(Windows(), (std::vector<int>{0, 2, 0}));  // 23 / 2.44 = 9.4
  drafted_[1].wanted_pace = 30e-3;
  EXPECT_EQ(Windows(), (std::vector<int>{0, 0, 0}));  // it is fast enough
}

TEST_F(TargetsTest, SeveralAreServedInTheirOrder) {
  for (DraftedSequence& sequence : drafted_) sequence.wanted_pace = 10e-3;
  load_.max_draft_rows = 5;
  std::swap(drafted_[0].order, drafted_[2].order);
  // Each needs 2 or, once the step has become longer, more; the last gets what room is left.
  EXPECT_EQ(Windows(), (std::vector<int>{0, 3, 2}));
}

TEST_F(TargetsTest, AreServedAtAnyLoadWhichDoesNotLengthenThem) {
  load_.num_anchors = 2;  // where drafts pay for all, until the load rises
  for (const bool promised : {false, true}) {
    drafted_[1].wanted_pace = promised ? 1e-3 : 0;
    int last = 100;
    for (const double utilization : {0.0, 0.5, 0.8, 0.9, 0.98, 2.0}) {
      load_.utilization = utilization;
      const std::vector<int> windows = Windows();
      EXPECT_LE(windows[1], last);
      EXPECT_EQ(windows[0] > 0, utilization < kSaturatedUtilization) << utilization;
      EXPECT_EQ(windows[1] > 0, promised || utilization < kSaturatedUtilization) << utilization;
      last = windows[1];
    }
  }
}

TEST_F(TargetsTest, OtherPoliciesDoAsTheyAreTold) {
  drafted_[1].wanted_pace = 1e-3;
  policy_ = {.kind = PolicyKind::kFixed, .fixed_window = 1};
  EXPECT_EQ(Windows(), (std::vector<int>{1, 1, 1}));
  policy_ = {.kind = PolicyKind::kOff};
  EXPECT_EQ(Windows(), (std::vector<int>{0, 0, 0}));
}

TEST_F(TargetsTest, DraftsAreAskedForWhereTheyBringThePaceCloser) {
  std::vector<DraftCandidate> candidates(20);
  for (size_t i = 0; i < candidates.size(); ++i) {
    candidates[i] = {.order = i, .expected_survivals = survivals_};
  }
  const auto drafted = [&](double draft_seconds) {
    std::vector<double> costs(candidates.size() + 1, draft_seconds);
    costs[0] = 0;
    std::vector<bool> draft;
    ChooseDrafting(policy_, load_, costs, candidates, draft);
    return draft;
  };
  std::vector<bool> expected(candidates.size(), false);
  EXPECT_EQ(drafted(5e-3), expected);
  candidates[4].wanted_pace = 15e-3;
  expected[4] = true;
  EXPECT_EQ(drafted(5e-3), expected);
  candidates[4].wanted_pace = 22e-3;  // met without drafts
  expected[4] = false;
  EXPECT_EQ(drafted(5e-3), expected);
  candidates[4].wanted_pace = 1e-3;  // a draft that takes three steps helps nobody
  EXPECT_EQ(drafted(63e-3), expected);
}

}  // namespace
}  // namespace tandem::verifier
