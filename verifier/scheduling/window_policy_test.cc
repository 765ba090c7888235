#include "verifier/scheduling/window_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "verifier/scheduling/draft_rows.h"
#include "verifier/scheduling/frontier.h"
#include "verifier/scheduling/test_loads.h"

namespace tandem::verifier {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const double kNan = std::nan("");

WindowPolicy Policy(std::string_view text) { return *ParseWindowPolicy(text); }

// Windows of sequences that have these survivals and, if given, confidences; orders 0, 1, 2, ...
std::vector<int> Windows(std::string_view policy, const StepLoad& load,
                         const std::vector<std::vector<double>>& survivals,
                         const std::vector<std::vector<double>>& confidences = {}) {
  std::vector<DraftedSequence> sequences(survivals.size());
  for (size_t i = 0; i < survivals.size(); ++i) {
    sequences[i] = {.order = i, .survivals = survivals[i]};
    if (!confidences.empty()) sequences[i].confidences = confidences[i];
  }
  std::vector<int> windows;
  ChooseWindows(Policy(policy), load, sequences, windows);
  return windows;
}

StepLoad Load(const StepTimeModel& model, int num_anchors) {
  return {.step_time = &model, .num_anchors = num_anchors, .max_draft_rows = 1000};
}

TEST(WindowPolicy, NamesAreWhatParseAccepts) {
  for (const char* name :
       {"off", "prefix", "fixed:0", "fixed:7", "fixed:64", "threshold:0", "threshold:0.5", "threshold:1"}) {
    const auto policy = ParseWindowPolicy(name);
    ASSERT_TRUE(policy.ok()) << policy.status();
    EXPECT_EQ(WindowPolicyName(*policy), name);
  }
  for (const char* bad : {"", "on", "OFF", "off:1", "prefix:", "fixed", "fixed:", "fixed:-1", "fixed:65",
                          "fixed:3.5", "fixed:99999999999", "threshold", "threshold:", "threshold:-0.1",
                          "threshold:1.1", "threshold:nan", "threshold:inf", "threshold:0.5x", " off"}) {
    const auto policy = ParseWindowPolicy(bad);
    EXPECT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(policy.status().message()), HasSubstr("off, fixed:0 to fixed:64")) << bad;
  }
}

TEST(ChooseWindows, OffChecksNothing) {
  const StepTimeModel model = LinearStepTime(10e-3, 0);
  EXPECT_THAT(Windows("off", Load(model, 2), {{0.9, 0.8}, {1.0}}), ElementsAre(0, 0));
}

TEST(ChooseWindows, FixedTakesAsManyAsThereAre) {
  const StepTimeModel model = LinearStepTime(10e-3, 0);
  const std::vector<std::vector<double>> survivals = {{0.9, 0.8, 0.7, 0.6}, {}, {0.1}, {0, 0, 0}};
  EXPECT_THAT(Windows("fixed:3", Load(model, 4), survivals), ElementsAre(3, 0, 1, 3));
  EXPECT_THAT(Windows("fixed:0", Load(model, 4), survivals), ElementsAre(0, 0, 0, 0));
}

TEST(ChooseWindows, ThresholdStopsAtTheFirstConfidenceBelowIt) {
  const StepTimeModel model = LinearStepTime(10e-3, 0);
  const std::vector<std::vector<double>> survivals(5, {0.9, 0.8, 0.7});
  const std::vector<std::vector<double>> confidences = {
      {0.9, 0.4, 0.9}, {0.3, 0.9, 0.9}, {0.5, 0.5, 0.5}, {0.9, kNan, 0.9}, {}};
  EXPECT_THAT(Windows("threshold:0.5", Load(model, 5), survivals, confidences), ElementsAre(1, 0, 3, 1, 3));
  EXPECT_THAT(Windows("threshold:0", Load(model, 5), survivals, confidences), ElementsAre(3, 3, 3, 1, 3));
  EXPECT_THAT(Windows("threshold:1", Load(model, 5), survivals, confidences), ElementsAre(0, 0, 0, 0, 3));
}

TEST(ChooseWindows, FixedAndThresholdGiveUpTheLatestPositionsOfTheHighestOrders) {
  const StepTimeModel model = LinearStepTime(10e-3, 0);
  StepLoad load = Load(model, 3);
  const std::vector<std::vector<double>> survivals(3, {0.9, 0.8, 0.7});
  const std::vector<std::vector<int>> expected = {{0, 0, 0}, {1, 0, 0}, {1, 1, 0}, {1, 1, 1}, {2, 1, 1},
                                                  {2, 2, 1}, {2, 2, 2}, {3, 2, 2}, {3, 3, 2}, {3, 3, 3}};
  for (int rows = 0; rows < 10; ++rows) {
    load.max_draft_rows = rows;
    EXPECT_EQ(Windows("fixed:7", load, survivals), expected[static_cast<size_t>(rows)]) << rows;
    EXPECT_EQ(Windows("threshold:0.5", load, survivals), expected[static_cast<size_t>(rows)]) << rows;
  }
}

TEST(ChooseWindows, PrefixFollowsTheCostOfARow) {
  const std::vector<std::vector<double>> survivals = {{0.9, 0.6, 0.3, 0.01}, {0.5, 0.1}};
  // Rows for nothing: whatever may be accepted. Only rows cost: T = B, so (2 + 0.9) / 3 < 2 / 2.
  EXPECT_THAT(Windows("prefix", Load(LinearStepTime(10e-3, 0), 2), survivals), ElementsAre(4, 2));
  EXPECT_THAT(Windows("prefix", Load(LinearStepTime(1e-9, 1e-3), 2), survivals), ElementsAre(0, 0));
  // T = 10 + B: 2/12 = .167, 2.9/13 = .223, 3.5/14 = .25, 4/15 = .267, 4.3/16 = .26875, 4.4/17 = .259.
  EXPECT_THAT(Windows("prefix", Load(LinearStepTime(10e-3, 1e-3), 2), survivals), ElementsAre(3, 1));
}

TEST(ChooseWindows, PrefixCountsContextsPrefillAndDraftTime) {
  const StepTimeModel model = LinearStepTime(2e-3, 1e-3);
  StepLoad load = Load(model, 1);
  // T = 2 + B: 1/3 = .333, 1.3/4 = .325; with 7 ms more whatever is checked 1/10, 1.3/11 = .118.
  const std::vector<std::vector<double>> survivals = {{0.3}};
  EXPECT_THAT(Windows("prefix", load, survivals), ElementsAre(0));
  load.draft_seconds = 7e-3;
  EXPECT_THAT(Windows("prefix", load, survivals), ElementsAre(1));
  load.draft_seconds = 0;
  load.num_prefill_tokens = 7;  // 1 ms each, as the model starts
  EXPECT_THAT(Windows("prefix", load, survivals), ElementsAre(1));
  load.num_prefill_tokens = 0;
  StepTimeParameters parameters = model.parameters();
  parameters.kappa_seconds = 1e-6;
  const StepTimeModel with_kappa = *StepTimeModel::FromParameters(parameters);
  load.step_time = &with_kappa;
  load.num_kv_positions = 7000;
  EXPECT_THAT(Windows("prefix", load, survivals), ElementsAre(1));
}

TEST(ChooseWindows, PrefixCrossesACliffUnlessItMayNotLookAhead) {
  // The paper's counterexample: T(1) = 1, T(2) = 2, T(3) = 2.222.
  StepTimeParameters parameters;
  parameters.num_known_points = 3;
  for (size_t i = 0; i < kTableDecodeRows.size(); ++i) {
    parameters.table_seconds[i] = i == 0 ? 1 : 2 + (kTableDecodeRows[i] - 2) * (1 / 0.45 - 2);
  }
  const StepTimeModel model = *StepTimeModel::FromParameters(parameters);
  StepLoad load = Load(model, 1);
  EXPECT_THAT(Windows("prefix", load, {{0.8, 0.72}}), ElementsAre(2));
  EXPECT_THAT(Windows("prefix", load, {{0.8, 0.0}}), ElementsAre(0));
  load.no_look_ahead = true;
  EXPECT_THAT(Windows("prefix", load, {{0.8, 0.72}}), ElementsAre(0));
  EXPECT_THAT(Windows("prefix", load, {{0.8, 0.0}}), ElementsAre(0));
}

TEST(ChooseWindows, PrefixBreaksTiesByPositionThenOrder) {
  const StepTimeModel model = LinearStepTime(10e-3, 0);
  StepLoad load = Load(model, 3);
  const std::vector<double> half(2, 0.5);
  std::vector<DraftedSequence> sequences = {
      {.order = 9, .survivals = half}, {.order = 2, .survivals = half}, {.order = 5, .survivals = half}};
  const std::vector<std::vector<int>> expected = {{0, 0, 0}, {0, 1, 0}, {0, 1, 1}, {1, 1, 1},
                                                  {1, 2, 1}, {1, 2, 2}, {2, 2, 2}};
  std::vector<int> windows;
  for (int rows = 0; rows <= 6; ++rows) {
    load.max_draft_rows = rows;
    ChooseWindows(Policy("prefix"), load, sequences, windows);
    EXPECT_EQ(windows, expected[static_cast<size_t>(rows)]) << rows;
  }
}

TEST(ChooseWindows, PrefixStopsASequenceWhereSurvivalEndsOrIsNoNumber) {
  const StepTimeModel model = LinearStepTime(10e-3, 0);
  EXPECT_THAT(Windows("prefix", Load(model, 4), {{0.9, kNan, 0.9}, {-1.0, 0.5}, {0.5, 0.9, 0}, {0}}),
              ElementsAre(1, 0, 2, 0));
}

TEST(ChooseWindows, ProbesAreCheckedWhetherTheyPayOrNot) {
  const StepTimeModel compute_bound = LinearStepTime(1e-9, 1e-3);
  StepLoad load = Load(compute_bound, 2);
  const std::vector<double> survivals = {0.5, 0.2, 0};
  std::vector<DraftedSequence> sequences = {{.order = 1, .survivals = survivals},
                                            {.order = 2, .survivals = survivals, .probe = true}};
  std::vector<int> windows;
  ChooseWindows(Policy("prefix"), load, sequences, windows);
  EXPECT_THAT(windows, ElementsAre(0, 3));
  load.max_draft_rows = 2;
  ChooseWindows(Policy("prefix"), load, sequences, windows);
  EXPECT_THAT(windows, ElementsAre(0, 2));
  load.utilization = 1;
  ChooseWindows(Policy("prefix"), load, sequences, windows);
  EXPECT_THAT(windows, ElementsAre(0, 0));
  ChooseWindows(Policy("fixed:1"), load, sequences, windows);  // does as it is told
  EXPECT_THAT(windows, ElementsAre(1, 1));
}

TEST(MaxDraftRows, ShrinkFromBusyToSaturated) {
  const double half = (kBusyUtilization + kSaturatedUtilization) / 2;
  struct Row {
    double utilization;
    int max_draft_rows;
    int64_t num_drafts;
    int expected;
  };
  const Row rows[] = {{0, 100, 50, 50},    {0, 50, 100, 50},    {kBusyUtilization, 50, 100, 50},
                      {half, 100, 50, 25}, {half, 50, 100, 25}, {kSaturatedUtilization, 100, 100, 0},
                      {5, 100, 100, 0},    {kNan, 100, 100, 0}, {0, -3, 100, 0},
                      {0, 100, 0, 0},      {-1, 100, 100, 100}};
  for (const Row& row : rows) {
    const StepLoad load = {.max_draft_rows = row.max_draft_rows, .utilization = row.utilization};
    EXPECT_NEAR(MaxDraftRows(Policy("prefix"), load, row.num_drafts), row.expected,
                row.utilization == half ? 1 : 0)
        << row.utilization << " " << row.max_draft_rows << " " << row.num_drafts;
  }
}

// Over random snapshots and all policies: windows within what is there, rows within the limit, and more
// utilization, all else equal, lengthens none of them and, with `prefix`, ends at 0.
TEST(ChooseWindows, RaisingUtilizationNeverLengthensAWindow) {
  std::mt19937_64 rng(1);
  std::uniform_real_distribution<double> unit(0, 1);
  int num_shortened = 0;
  for (int round = 0; round < 400; ++round) {
    const size_t num_sequences = 1 + rng() % 24;
    std::vector<std::vector<double>> survivals, confidences;
    for (size_t i = 0; i < num_sequences; ++i) {
      survivals.push_back(RandomSurvivals(rng, 8));
      confidences.emplace_back(survivals[i].size());
      for (double& confidence : confidences[i]) confidence = unit(rng);
      // Ties, too.
      if (i > 0 && rng() % 4 == 0) survivals[i] = survivals[i - 1], confidences[i] = confidences[i - 1];
    }
    std::vector<DraftedSequence> sequences(num_sequences);
    for (size_t i = 0; i < num_sequences; ++i) {
      sequences[i] = {.order = rng() % 100,
                      .survivals = survivals[i],
                      .confidences = confidences[i],
                      .probe = rng() % 16 == 0};
    }
    const StepTimeModel model = LinearStepTime(10e-3, std::exp(unit(rng) * 8) * 1e-6);
    StepLoad load = {.step_time = &model,
                     .num_anchors = static_cast<int>(num_sequences + rng() % 8),
                     .num_kv_positions = static_cast<int64_t>(rng() % 10000),
                     .num_prefill_tokens = static_cast<int>(rng() % 64),
                     .max_draft_rows = static_cast<int>(rng() % 200),
                     .draft_seconds = rng() % 2 == 0 ? 0 : unit(rng) * 10e-3,
                     .no_look_ahead = rng() % 2 == 0};
    for (const char* policy : {"fixed:5", "threshold:0.4", "prefix"}) {
      std::vector<int> previous, windows;
      for (double utilization = 0; utilization < 1.1; utilization += 0.01 + 0.1 * unit(rng)) {
        load.utilization = utilization;
        ChooseWindows(Policy(policy), load, sequences, windows);
        ASSERT_EQ(windows.size(), num_sequences);
        ASSERT_LE(std::accumulate(windows.begin(), windows.end(), 0), load.max_draft_rows);
        for (size_t i = 0; i < num_sequences; ++i) {
          ASSERT_GE(windows[i], 0);
          ASSERT_LE(windows[i], static_cast<int>(survivals[i].size()));
          if (!previous.empty()) {
            ASSERT_LE(windows[i], previous[i]) << policy << " round " << round << " at " << utilization;
          }
        }
        if (!previous.empty() && windows != previous) ++num_shortened;
        previous = windows;
      }
      if (Policy(policy).kind == PolicyKind::kPrefix) {
        ASSERT_EQ(std::accumulate(previous.begin(), previous.end(), 0), 0);
      }
    }
  }
  EXPECT_GT(num_shortened, 300);
}

// Against all choices of windows, on small snapshots.
TEST(ChooseWindows, PrefixIsTheBestOfAllChoices) {
  std::mt19937_64 rng(2);
  for (int round = 0; round < 200; ++round) {
    const std::vector<std::vector<double>> survivals = {RandomSurvivals(rng, 4), RandomSurvivals(rng, 4),
                                                        RandomSurvivals(rng, 4)};
    // Any rising table, cliffs included.
    StepTimeParameters parameters;
    parameters.num_known_points = 10;
    double seconds = 1e-3;
    for (double& entry : parameters.table_seconds)
      entry = seconds *= 1 + static_cast<double>(rng() % 60) / 100;
    const StepTimeModel model = *StepTimeModel::FromParameters(parameters);
    const StepLoad load = Load(model, 3);
    const auto rate = [&](const std::vector<int>& windows) {
      double tokens = 3;
      int rows = 3;
      for (size_t i = 0; i < 3; ++i) {
        rows += windows[i];
        for (int j = 0; j < windows[i]; ++j) tokens += survivals[i][static_cast<size_t>(j)];
      }
      return tokens / model.Predict({.num_decode_rows = rows});
    };
    double best = 0;
    for (int a = 0; a <= static_cast<int>(survivals[0].size()); ++a) {
      for (int b = 0; b <= static_cast<int>(survivals[1].size()); ++b) {
        for (int c = 0; c <= static_cast<int>(survivals[2].size()); ++c)
          best = std::max(best, rate({a, b, c}));
      }
    }
    EXPECT_NEAR(rate(Windows("prefix", load, survivals)), best, 1e-9 * best) << round;
  }
}

// Hundreds of drafts, so that the search does give up; times with cliffs, so that it must look beyond losses.
TEST(SearchFrontier, WhatIsHopelessMissesNothing) {
  std::mt19937 rng(7);
  int num_shorter = 0;
  for (int round = 0; round < 200; ++round) {
    std::vector<double> survivals(400), seconds(401);
    const double fall = 1 - static_cast<double>(rng() % 100) / 1000;
    double survival = 1, time = 10;
    for (double& s : survivals) s = survival *= rng() % 3 == 0 ? fall : 1;
    for (double& t : seconds) t = time += rng() % 40 == 0 ? static_cast<double>(rng() % 300) / 100 : 0.05;
    const auto search = [&](PathEnd end, int& num_seen) {
      num_seen = 0;
      return SearchFrontier(
          10, 400, end,
          [&](double& next) {
            next = survivals[static_cast<size_t>(num_seen++)];
            return true;
          },
          [&](int n) { return seconds[static_cast<size_t>(n)]; });
    };
    int seen = 0, all = 0;
    const FrontierPoint found = search(PathEnd::kHopeless, seen), best = search(PathEnd::kAll, all);
    ASSERT_EQ(found.num_admitted, best.num_admitted) << round;
    ASSERT_EQ(found.tokens, best.tokens) << round;
    num_shorter += seen < all;
  }
  EXPECT_GT(num_shorter, 20);
}

}  // namespace
}  // namespace tandem::verifier
