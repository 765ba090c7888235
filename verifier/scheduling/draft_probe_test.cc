#include "verifier/scheduling/draft_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "verifier/scheduling/test_loads.h"

namespace tandem::verifier {
namespace {

using ::testing::ElementsAre;

const WindowPolicy kPrefixPolicy;

// A verifier with `num_sequences`, none of them drafted unless by a probe.
class DraftProbeTest : public ::testing::Test {
 protected:
  explicit DraftProbeTest(size_t num_sequences = 1) : candidates_(num_sequences) {
    for (size_t i = 0; i < num_sequences; ++i) candidates_[i].order = 10 * (i + 1);
    load_ = {.step_time = &step_time_, .num_anchors = static_cast<int>(num_sequences), .max_draft_rows = 100};
    SetDraftSeconds(1e-3);
  }
  void SetDraftSeconds(double seconds) {
    draft_seconds_.assign(candidates_.size() + 1, seconds);
    draft_seconds_[0] = 0;
  }
  std::optional<size_t> Step(bool drafted = false) {
    std::vector<bool> draft(candidates_.size(), drafted);
    const std::optional<size_t> probe = probe_.Step(policy_, load_, draft_seconds_, candidates_, draft);
    const auto num_set = std::count(draft.begin(), draft.end(), true);
    EXPECT_TRUE(!probe.has_value() || draft[*probe]);
    EXPECT_TRUE(drafted || num_set == (probe.has_value() ? 1 : 0));
    return probe;
  }
  // Steps until the next probe, it included.
  int StepsToProbe(int limit = 5000) {
    for (int n = 1; n <= limit; ++n) {
      if (Step().has_value()) return n;
    }
    return -1;
  }

  DraftProbe probe_;
  WindowPolicy policy_;
  const StepTimeModel step_time_ = LinearStepTime(10e-3, 0);
  StepLoad load_;
  std::vector<double> draft_seconds_;
  std::vector<DraftCandidate> candidates_;
};

TEST_F(DraftProbeTest, DoublesTheIntervalUpToItsLongest) {
  Step();  // the first step sets the load
  std::vector<int> intervals;
  for (int i = 0; i < 9; ++i) intervals.push_back(StepsToProbe());
  EXPECT_THAT(intervals, ElementsAre(16, 32, 64, 128, 256, 512, 1024, 1024, 1024));
}

TEST_F(DraftProbeTest, StartsAnewWhenAllAreDrafted) {
  Step();
  for (int i = 0; i < 5; ++i) StepsToProbe();
  EXPECT_EQ(probe_.interval(), 512);
  EXPECT_FALSE(Step(/*drafted=*/true).has_value());
  EXPECT_EQ(probe_.interval(), DraftProbe::kFirstInterval);
  EXPECT_EQ(StepsToProbe(), 16);
}

TEST_F(DraftProbeTest, StartsAnewWhenTheLoadHasChangedByALot) {
  for (int change = 0; change < 3; ++change) {
    Step();
    for (int i = 0; i < 3; ++i) StepsToProbe();
    EXPECT_GT(probe_.interval(), 100);
    if (change == 0) load_.num_anchors *= 2;
    if (change == 1) load_.num_anchors /= 2;
    if (change == 2) load_.utilization = 0.3;
    Step();
    EXPECT_EQ(probe_.interval(), DraftProbe::kFirstInterval) << change;
    probe_ = DraftProbe();
  }
  Step();
  StepsToProbe();
  load_.utilization += 0.1;  // a little
  Step();
  EXPECT_EQ(probe_.interval(), 32);
}

TEST_F(DraftProbeTest, TakesAtMostOneStepInAHundredHoweverTheLoadChanges) {
  int num_probes = 0;
  constexpr int kSteps = 20000;
  for (int step = 0; step < kSteps; ++step) {
    if (step % 20 == 0) load_.num_anchors = load_.num_anchors == 1 ? 2 : 1;
    num_probes += Step().has_value();
  }
  EXPECT_LE(num_probes, kSteps / 100 + static_cast<int>(DraftProbe::kMaxSavedProbes));
  EXPECT_GT(num_probes, kSteps / 200);
}

TEST_F(DraftProbeTest, ProbesThatTakeManyStepsAreAsMuchRarer) {
  SetDraftSeconds(0.5);  // 50 steps
  Step();
  EXPECT_NEAR(StepsToProbe(10000), (50 - DraftProbe::kMaxSavedProbes) / DraftProbe::kTimeShare, 2);
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(StepsToProbe(10000), 50 / DraftProbe::kTimeShare, 2);
}

// What short steps have saved up does not become more because a long one comes along.
TEST_F(DraftProbeTest, ALongStepPaysForItsShareOnly) {
  SetDraftSeconds(0.5);  // 50 steps
  Step();
  EXPECT_EQ(StepsToProbe(1000), -1);
  const StepTimeModel with_a_long_prompt = LinearStepTime(0.5, 0);
  load_.step_time = &with_a_long_prompt;
  EXPECT_FALSE(Step().has_value());
}

TEST_F(DraftProbeTest, ALongPromptAtTheStartPaysForNoProbe) {
  auto parameters = step_time_.parameters();
  parameters.pi_seconds = 1e-3;
  const StepTimeModel with_prompts = *StepTimeModel::FromParameters(parameters);
  load_.step_time = &with_prompts;
  load_.num_prefill_tokens = 400;  // 0.4 s
  SetDraftSeconds(0.5);
  Step();
  load_.num_prefill_tokens = 0;
  EXPECT_EQ(StepsToProbe(1000), -1);
}

TEST_F(DraftProbeTest, NeverProbesWhereDraftsAreOfNoUse) {
  for (const int reason : {0, 1, 2, 3, 4}) {
    probe_ = DraftProbe();
    policy_ = {};
    load_ = {.step_time = &step_time_, .num_anchors = 1, .max_draft_rows = 100};
    if (reason == 0) policy_.kind = PolicyKind::kOff;
    if (reason == 1) policy_ = {.kind = PolicyKind::kFixed, .fixed_window = 0};
    if (reason == 2) load_.utilization = kSaturatedUtilization;
    if (reason == 3) load_.max_draft_rows = 0;
    if (reason == 4) candidates_.clear();
    SetDraftSeconds(1e-3);
    EXPECT_EQ(StepsToProbe(2000), -1) << reason;
  }
}

class DraftProbeOfManyTest : public DraftProbeTest {
 protected:
  DraftProbeOfManyTest() : DraftProbeTest(3) {}
};

TEST_F(DraftProbeOfManyTest, TakesTurnsByOrder) {
  std::swap(candidates_[0], candidates_[2]);
  std::vector<uint64_t> probed;
  for (int step = 0; step < 3000; ++step) {
    const std::optional<size_t> probe = Step();
    if (probe.has_value()) probed.push_back(candidates_[*probe].order);
  }
  ASSERT_GE(probed.size(), 6u);
  probed.resize(6);
  EXPECT_THAT(probed, ElementsAre(10, 20, 30, 10, 20, 30));
}

}  // namespace
}  // namespace tandem::verifier
