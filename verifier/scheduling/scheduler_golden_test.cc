// Window search against tests/golden/drafters/tables/scheduler.json: the same frontier as ChooseWindows, over
// the tables' step times.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "tests/support/golden.h"
#include "verifier/scheduling/frontier.h"

namespace tandem::verifier {
namespace {

using nlohmann::json;
using Table = std::vector<std::vector<double>>;

std::vector<DraftedSequence> Sequences(const Table& survivals) {
  std::vector<DraftedSequence> sequences(survivals.size());
  for (size_t i = 0; i < survivals.size(); ++i) sequences[i] = {.order = i, .survivals = survivals[i]};
  return sequences;
}

struct Search {
  std::vector<int> lengths;
  FrontierPoint best;
  std::vector<double> path;  // tokens per second by number of admissions
};

template <typename SecondsOf>
Search RunSearch(const Table& survivals, int max_admitted, bool stop_early, SecondsOf&& seconds_of) {
  const std::vector<DraftedSequence> sequences = Sequences(survivals);
  Frontier frontier(sequences, TieBreak::kOrder);
  double tokens = static_cast<double>(survivals.size());
  Search search = {std::vector<int>(survivals.size()), {}, {tokens / seconds_of(0)}};
  std::vector<size_t> admitted;
  search.best = SearchFrontier(
      tokens, max_admitted, stop_early ? PathEnd::kFirstLoss : PathEnd::kAll,
      [&](double& survival) {
        Frontier::Draft draft;
        if (!frontier.Next(draft)) return false;
        admitted.push_back(draft.sequence);
        survival = draft.survival;
        tokens += survival;
        search.path.push_back(tokens / seconds_of(static_cast<int>(admitted.size())));
        return true;
      },
      seconds_of);
  for (int n = 0; n < search.best.num_admitted; ++n) ++search.lengths[admitted[static_cast<size_t>(n)]];
  return search;
}

double Rate(const FrontierPoint& point) { return point.tokens / point.seconds; }

class SchedulerGoldenTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto path = testing::GoldenDir() / "drafters/tables/scheduler.json";
    file_ = json::parse(testing::ReadFile(path), nullptr, /*allow_exceptions=*/false);
    ASSERT_FALSE(file_.is_discarded()) << "cannot read " << path;
    ASSERT_FALSE(file_["cases"].empty());
  }
  json file_;
};

TEST_F(SchedulerGoldenTest, WindowsAndThroughputOfEveryCase) {
  constexpr double kTolerance = 1e-12;  // relative: sums of some hundred doubles
  for (size_t c = 0; c < file_["cases"].size(); ++c) {
    const json& expected = file_["cases"][c];
    SCOPED_TRACE("case " + std::to_string(c) + ", " + expected["curve"].get<std::string>());
    const Table survivals = expected["survival"];
    const std::vector<double> step_seconds = expected["step_seconds"];
    ASSERT_EQ(expected["first_batch"], survivals.size());
    const int max_admitted = static_cast<int>(step_seconds.size()) - 1;
    const auto seconds_of = [&](int n) { return step_seconds.at(static_cast<size_t>(n)); };

    const Search whole = RunSearch(survivals, max_admitted, /*stop_early=*/false, seconds_of);
    const std::vector<double> path = expected["throughput_path"];
    ASSERT_EQ(whole.path.size(), path.size());
    for (size_t n = 0; n < path.size(); ++n) EXPECT_NEAR(whole.path[n], path[n], kTolerance * path[n]) << n;
    EXPECT_EQ(whole.lengths, expected["no_early_stop"]["lengths"].get<std::vector<int>>());
    const double best = expected["no_early_stop"]["tokens_per_second"];
    EXPECT_NEAR(Rate(whole.best), best, kTolerance * best);
    if (expected.contains("exhaustive") && !expected["exhaustive"].is_null()) {
      EXPECT_NEAR(best, expected["exhaustive"]["tokens_per_second"].get<double>(), kTolerance * best);
    }

    const Search early = RunSearch(survivals, max_admitted, /*stop_early=*/true, seconds_of);
    EXPECT_EQ(early.lengths, expected["early_stop"]["lengths"].get<std::vector<int>>());
    const double early_rate = expected["early_stop"]["tokens_per_second"];
    EXPECT_NEAR(Rate(early.best), early_rate, kTolerance * early_rate);

    const json& old = expected["two_steps_old"];
    const Search budget =
        RunSearch(old["survival"].get<Table>(), max_admitted, /*stop_early=*/false, seconds_of);
    EXPECT_EQ(budget.best.num_admitted, old["budget"].get<int>());
    // Every admission pays where a row costs nothing.
    const Search admitted =
        RunSearch(survivals, budget.best.num_admitted, /*stop_early=*/true, [](int) { return 1.0; });
    EXPECT_EQ(admitted.lengths, old["lengths"].get<std::vector<int>>());
  }
}

// The law of the first token, by enumeration of the two drafts that may be drawn.
TEST_F(SchedulerGoldenTest, EarlyStopKeepsTheTargetsLawWhereAGlobalSearchDoesNot) {
  const json& example = file_["counterexample"];
  const std::vector<double> p = example["p"], q = example["q"], step_seconds = example["step_seconds"];
  for (const bool stop_early : {true, false}) {
    const json& expected = example[stop_early ? "early_stop" : "global_search"];
    std::vector<double> law(2, 0);
    for (size_t x = 0; x < 2; ++x) {
      const std::vector<double> survivals = example[x == 0 ? "survival_if_A" : "survival_if_B"];
      const Search search = RunSearch({survivals}, 2, stop_early,
                                      [&](int n) { return step_seconds.at(static_cast<size_t>(n)); });
      EXPECT_EQ(search.lengths[0],
                expected[x == 0 ? "length_if_first_draft_is_A" : "length_if_first_draft_is_B"].get<int>());
      if (search.lengths[0] == 0) {  // dropped: the target draws
        for (size_t v = 0; v < 2; ++v) law[v] += q[x] * p[v];
        continue;
      }
      const double accepted = std::min(1.0, p[x] / q[x]);
      law[x] += q[x] * accepted;
      law[1 - x] +=
          q[x] * (1 - accepted);  // all that the residual holds: p exceeds q at the other token only
    }
    const std::vector<double> expected_law = expected["law_of_first_token"];
    for (size_t v = 0; v < 2; ++v) EXPECT_NEAR(law[v], expected_law[v], 1e-12) << stop_early;
  }
}

}  // namespace
}  // namespace tandem::verifier
