#include "verifier/scheduling/draft_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "verifier/scheduling/test_loads.h"

namespace tandem::verifier {
namespace {

using ::testing::ElementsAre;
using ::testing::Pointwise;

const WindowPolicy kPrefixPolicy;

MATCHER(DiffersByAtMostOne, "") { return std::abs(std::get<0>(arg) - std::get<1>(arg)) <= 1; }

// A verifier with `num_sequences`, none of them drafted unless by a probe, in steps of 10 ms.
class DraftProbeTest : public ::testing::Test {
 protected:
  explicit DraftProbeTest(size_t num_sequences = 1) : candidates_(num_sequences) {
    for (size_t i = 0; i < num_sequences; ++i) {
      candidates_[i] = {.order = 10 * (i + 1), .expected_survivals = kShyHead};
    }
    load_ = {.step_time = &step_time_, .num_anchors = static_cast<int>(num_sequences), .max_draft_rows = 100};
    SetDraftSeconds(5e-3);  // pays if half a token stands
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
  // Steps until the next probe, it included, of which `accepted` drafts stand.
  int StepsToProbe(int accepted, int limit = 5000) {
    for (int n = 1; n <= limit; ++n) {
      if (!Step().has_value()) continue;
      probe_.Observe(7, accepted);
      return n;
    }
    return -1;
  }
  std::vector<int> Intervals(int count, int accepted) {
    std::vector<int> intervals;
    for (int i = 0; i < count; ++i) intervals.push_back(StepsToProbe(accepted));
    return intervals;
  }

  static inline const std::vector<double> kShyHead = std::vector<double>(7, 0.01);
  DraftProbe probe_;
  WindowPolicy policy_;
  const StepTimeModel step_time_ = LinearStepTime(10e-3, 0);
  StepLoad load_;
  std::vector<double> draft_seconds_;
  std::vector<DraftCandidate> candidates_;
};

TEST_F(DraftProbeTest, DoublesTheIntervalOnceTheEvidenceIsAgainstDrafting) {
  Step();  // the first step sets the load
  // Without evidence a first draft is taken to stand in 7 of 10 rounds, two rounds' worth: after three that
  // fail 1.4 / 5, too few.
  const std::vector<int> expected = {5, 5, 5, 5, 10, 20, 40, 80, 160, 200, 200, 200};
  EXPECT_THAT(Intervals(12, 0), Pointwise(DiffersByAtMostOne(), expected));  // sums of 10 ms are rounded
}

TEST_F(DraftProbeTest, KeepsToTheShortestIntervalWhileProbesSayThatDraftingWouldPay) {
  Step();
  EXPECT_THAT(Intervals(100, 2), ::testing::Each(5));
}

TEST_F(DraftProbeTest, ReturnsToTheShortestIntervalWhenDraftsStandAgain) {
  Step();
  Intervals(40, 0);
  EXPECT_EQ(probe_.interval(), DraftProbe::kLastInterval);
  const std::vector<int> intervals = Intervals(10, 4);
  EXPECT_EQ(intervals.front(), 200);
  EXPECT_EQ(intervals.back(), 5);
}

// With a draft that costs almost nothing a third of a token is enough; with a slow one two are not.
TEST_F(DraftProbeTest, JudgesTheEvidenceByWhatDraftsCost) {
  for (const auto& [seconds, pays] : {std::pair(1e-3, true), {40e-3, false}}) {
    probe_ = DraftProbe();
    SetDraftSeconds(seconds);
    Step();
    for (int i = 0; i < 30; ++i) StepsToProbe(i % 3 == 0 ? 1 : 0);
    EXPECT_EQ(probe_.interval() == DraftProbe::kFirstInterval, pays) << seconds;
  }
}

TEST_F(DraftProbeTest, StartsAnewWhenAllAreDrafted) {
  Step();
  Intervals(8, 0);
  EXPECT_GT(probe_.interval(), 0.5);
  EXPECT_FALSE(Step(/*drafted=*/true).has_value());
  EXPECT_EQ(probe_.interval(), DraftProbe::kFirstInterval);
  EXPECT_EQ(StepsToProbe(0), 5);
}

TEST_F(DraftProbeTest, StartsAnewWhenTheLoadHasChangedByALot) {
  for (int change = 0; change < 3; ++change) {
    Step();
    Intervals(8, 0);
    EXPECT_GT(probe_.interval(), 0.5);
    if (change == 0) load_.num_anchors *= 2;
    if (change == 1) load_.num_anchors /= 2;
    if (change == 2) load_.utilization = 0.3;
    Step();
    EXPECT_EQ(probe_.interval(), DraftProbe::kFirstInterval) << change;
    probe_ = DraftProbe();
  }
  Step();
  Intervals(5, 0);
  load_.utilization += 0.1;  // a little
  Step();
  EXPECT_GT(probe_.interval(), DraftProbe::kFirstInterval);
}

TEST_F(DraftProbeTest, LosesAtMostItsShareOfTheTimeHoweverTheLoadChanges) {
  constexpr int kSteps = 20000;
  // Of 10 drafts one stands at most, at one sequence: a tenth of a step.
  for (const int accepted : {0, 1}) {
    probe_ = DraftProbe();
    int num_probes = 0;
    double lost_steps = 0;
    for (int step = 0; step < kSteps; ++step) {
      if (step % 20 == 0) load_.num_anchors = load_.num_anchors == 1 ? 2 : 1;
      if (!Step().has_value()) continue;
      const int stood = num_probes++ % 10 == 0 ? accepted : 0;
      probe_.Observe(7, stood);
      lost_steps += 0.5 - stood / static_cast<double>(load_.num_anchors);
    }
    EXPECT_LE(lost_steps, DraftProbe::kTimeShare * kSteps + DraftProbe::kMaxSavedProbes);
    EXPECT_GT(num_probes, kSteps / 200);
  }
}

TEST_F(DraftProbeTest, WhileTheDraftTimeIsUnknownAProbeCountsAsAStep) {
  SetDraftSeconds(0);
  Step();
  int num_probes = 0;
  for (int step = 0; step < 100; ++step) num_probes += Step().has_value();
  EXPECT_EQ(num_probes, static_cast<int>(DraftProbe::kMaxSavedProbes));
}

TEST_F(DraftProbeTest, ProbesThatTakeManyStepsAreAsMuchRarer) {
  SetDraftSeconds(0.5);  // 50 steps
  Step();
  EXPECT_NEAR(StepsToProbe(0, 20000), (50 - DraftProbe::kMaxSavedProbes) / DraftProbe::kTimeShare, 2);
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(StepsToProbe(0, 20000), 50 / DraftProbe::kTimeShare, 2);
}

// What short steps have saved up does not become more because a long one comes along.
TEST_F(DraftProbeTest, ALongStepPaysForItsShareOnly) {
  SetDraftSeconds(0.5);  // 50 steps
  Step();
  EXPECT_EQ(StepsToProbe(0, 1000), -1);
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
  EXPECT_EQ(StepsToProbe(0, 1000), -1);
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
    EXPECT_EQ(StepsToProbe(0, 2000), -1) << reason;
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
    if (!probe.has_value()) continue;
    probed.push_back(candidates_[*probe].order);
    probe_.Observe(7, 0);
  }
  ASSERT_GE(probed.size(), 6u);
  probed.resize(6);
  EXPECT_THAT(probed, ElementsAre(10, 20, 30, 10, 20, 30));
}

}  // namespace
}  // namespace tandem::verifier
