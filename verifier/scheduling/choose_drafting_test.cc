#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "verifier/scheduling/test_loads.h"
#include "verifier/scheduling/window_policy.h"

namespace tandem::verifier {
namespace {

const std::vector<double> kGood = {0.8, 0.6, 0.42, 0.27};
const std::vector<double> kBad = {0.05, 0.01, 0, 0};

struct Setting {
  StepTimeModel model = LinearStepTime(10e-3, 10e-6);  // memory bound
  std::string policy = "prefix";
  double draft_base = 1e-3, draft_slope = 10e-6;
  std::vector<std::vector<double>> survivals = std::vector<std::vector<double>>(8, kGood);
  std::vector<bool> drafting = std::vector<bool>(8, false);
  double utilization = 0;
  int max_draft_rows = 1000;

  std::vector<bool> Choose() const {
    const auto n = static_cast<int>(survivals.size());
    std::vector<DraftCandidate> candidates(survivals.size());
    for (size_t i = 0; i < candidates.size(); ++i) candidates[i] = {i, survivals[i], drafting[i]};
    std::vector<double> draft_seconds = {0};
    for (int i = 1; i <= n; ++i) draft_seconds.push_back(draft_base + draft_slope * i);
    const StepLoad load = {
        .step_time = &model, .num_anchors = n, .max_draft_rows = max_draft_rows, .utilization = utilization};
    std::vector<bool> draft;
    ChooseDrafting(*ParseWindowPolicy(policy), load, draft_seconds, candidates, draft);
    return draft;
  }
  int Count() const {
    const std::vector<bool> draft = Choose();
    EXPECT_EQ(draft.size(), survivals.size());
    return static_cast<int>(std::count(draft.begin(), draft.end(), true));
  }
};

TEST(ChooseDrafting, AllNoneOrSomeByPolicyAndLoad) {
  struct Row {
    const char* name;
    Setting setting;
    int expected;
  };
  const Row rows[] = {
      {"memory bound", {}, 8},
      {"compute bound", {.model = LinearStepTime(1e-9, 1e-3)}, 0},
      {"drafting takes longer than it brings", {.draft_base = 30e-3}, 0},
      {"drafts that are never accepted", {.survivals = std::vector<std::vector<double>>(8, kBad)}, 0},
      {"nothing expected", {.survivals = std::vector<std::vector<double>>(8)}, 0},
      {"drafts for nothing, rows too dear",
       {.model = LinearStepTime(1e-9, 1e-3), .draft_base = 0, .draft_slope = 0},
       0},
      {"no room", {.max_draft_rows = 0}, 0},
      {"saturated", {.utilization = kSaturatedUtilization}, 0},
      {"off", {.policy = "off"}, 0},
      {"fixed:0", {.policy = "fixed:0"}, 0},
      {"fixed:3, whatever it costs", {.policy = "fixed:3", .draft_base = 30e-3}, 8},
      {"fixed:3, saturated", {.policy = "fixed:3", .utilization = 1}, 8},
      {"threshold, whatever it costs", {.policy = "threshold:0.5", .draft_base = 30e-3}, 8},
      {"each sequence costs too much", {.draft_slope = 10e-3}, 0},
  };
  for (const Row& row : rows) EXPECT_EQ(row.setting.Count(), row.expected) << row.name;
}

TEST(ChooseDrafting, LeavesOutThoseWhoseDraftsDoNotPay) {
  Setting setting;
  setting.draft_slope = 0.5e-3;
  for (const size_t i : {1, 4, 5}) setting.survivals[i] = kBad;
  EXPECT_EQ(setting.Choose(), (std::vector<bool>{true, false, true, true, false, false, true, true}));
}

TEST(ChooseDrafting, PrefersTheLowerOrderWhenThereIsRoomForSome) {
  Setting setting;
  setting.max_draft_rows = 8;  // the first drafts of all eight, or all four of two; each costs a millisecond
  setting.draft_slope = 1e-3;
  const std::vector<bool> draft = setting.Choose();
  const auto end = std::find(draft.begin(), draft.end(), false);
  EXPECT_GT(end - draft.begin(), 0);
  EXPECT_LT(end - draft.begin(), 8);
  EXPECT_EQ(std::count(end, draft.end(), true), 0);
}

// Around the cost at which drafting breaks even, what was chosen last stays.
TEST(ChooseDrafting, HysteresisHoldsBothWays) {
  // V(0) = 8 / T; V(8) = 8 * (1 + 2.09) / (T' + D): break-even at D = 3.09 T - T'.
  Setting setting;
  setting.draft_slope = 0;
  const double drafted = 8 * (1 + 0.8 + 0.6 + 0.42 + 0.27);
  const double with_drafts = setting.model.Predict({.num_decode_rows = 40});
  const double even = drafted / 8 * setting.model.Predict({.num_decode_rows = 8}) - with_drafts;
  const double whole = even + with_drafts;
  struct Row {
    double gain;  // of drafting
    bool before, after;
  };
  const Row rows[] = {{0.03, false, true},  {0.03, true, true},   {0.01, false, false},
                      {0.01, true, true},   {-0.01, true, true},  {-0.01, false, false},
                      {-0.03, true, false}, {-0.03, false, false}};
  for (const Row& row : rows) {
    setting.draft_base = whole / (1 + row.gain) - with_drafts;
    setting.drafting.assign(8, row.before);
    EXPECT_EQ(setting.Count(), row.after ? 8 : 0) << row.gain << " " << row.before;
  }
}

// Not even when it costs nothing.
TEST(ChooseDrafting, StopsWhereNoDraftWouldBeChecked) {
  Setting setting;
  setting.model = LinearStepTime(1e-9, 1e-3);
  setting.draft_base = setting.draft_slope = 0;
  setting.drafting.assign(8, true);
  EXPECT_EQ(setting.Count(), 0);
}

TEST(ChooseDrafting, TakesANewcomerAmongManyWhoAreDrafted) {
  Setting setting;
  setting.survivals.assign(100, kGood);
  setting.drafting.assign(100, true);
  setting.drafting[37] = false;
  setting.max_draft_rows = 10000;
  EXPECT_EQ(setting.Count(), 100);
}

TEST(ChooseDrafting, ChangesNothingForEquals) {
  Setting setting;
  setting.max_draft_rows = 8;
  setting.draft_slope = 1e-3;
  std::vector<bool> draft = setting.Choose();
  for (int round = 0; round < 5; ++round) {
    setting.drafting = draft;
    EXPECT_EQ(setting.Choose(), draft);
  }
}

// The grid with its refinement finds the best number, or one as good within the hysteresis, on random
// settings.
TEST(ChooseDrafting, IsAsGoodAsEveryNumberOfSequences) {
  std::mt19937_64 rng(3);
  std::uniform_real_distribution<double> unit(0, 1);
  for (int round = 0; round < 100; ++round) {
    Setting setting;
    setting.model = LinearStepTime(10e-3, std::exp(unit(rng) * 7) * 1e-6);
    setting.draft_base = unit(rng) * 5e-3;
    setting.draft_slope = unit(rng) * 1e-3;
    setting.survivals.resize(1 + rng() % 40);
    for (auto& survivals : setting.survivals) survivals = RandomSurvivals(rng, 7);
    setting.drafting.assign(setting.survivals.size(), rng() % 2 == 0);
    const auto rate = [&](const std::vector<bool>& draft) {
      std::vector<DraftedSequence> sequences;
      for (size_t i = 0; i < draft.size(); ++i) {
        if (draft[i]) sequences.push_back({.order = i, .survivals = setting.survivals[i]});
      }
      const double draft_seconds =
          sequences.empty()
              ? 0
              : setting.draft_base + setting.draft_slope * static_cast<double>(sequences.size());
      const StepLoad load = {.step_time = &setting.model,
                             .num_anchors = static_cast<int>(draft.size()),
                             .max_draft_rows = setting.max_draft_rows,
                             .draft_seconds = draft_seconds};
      std::vector<int> windows;
      ChooseWindows({}, load, sequences, windows);
      double tokens = load.num_anchors;
      StepShape shape = {.num_decode_rows = load.num_anchors};
      for (size_t i = 0; i < sequences.size(); ++i) {
        shape.num_decode_rows += windows[i];
        for (int j = 0; j < windows[i]; ++j) tokens += sequences[i].survivals[static_cast<size_t>(j)];
      }
      return tokens / (setting.model.Predict(shape) + draft_seconds);
    };
    std::vector<std::pair<double, size_t>> ranked;
    for (size_t i = 0; i < setting.survivals.size(); ++i) {
      double sum = 0;
      for (const double survival : setting.survivals[i]) sum += survival;
      ranked.emplace_back(-sum, i);
    }
    std::sort(ranked.begin(), ranked.end());
    std::vector<bool> draft(ranked.size(), false);
    double best = rate(draft);
    for (const auto& [gain, i] : ranked) {
      draft[i] = true;
      best = std::max(best, rate(draft));
    }
    EXPECT_GE(rate(setting.Choose()), best / (1 + kHysteresis) * (1 - 1e-9)) << round;
  }
}

}  // namespace
}  // namespace tandem::verifier
