// Windows of the recorded decodes with a confidence threshold: what ChooseWindows keeps is what was sent to
// verification, in every round of every case of golden/drafters.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/support/golden.h"
#include "verifier/scheduling/window_policy.h"

namespace tandem::verifier {
namespace {

using nlohmann::json;

TEST(ThresholdGolden, WindowsAreThoseOfTheRecordedRounds) {
  std::vector<std::filesystem::path> files;
  const auto root = testing::GoldenDir() / "drafters";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("trace_") && name.ends_with(".json")) files.push_back(entry.path());
  }
  int num_cut = 0, num_whole = 0, num_empty = 0;
  for (const auto& file : files) {
    json traces = json::parse(testing::ReadFile(file));
    if (!traces.is_array()) traces = json::array({traces});
    for (const json& trace : traces) {
      const double threshold = trace.at("confidence_threshold");
      if (!(threshold > 0)) continue;
      SCOPED_TRACE(file.string());
      const auto policy = ParseWindowPolicy("threshold:" + trace.at("confidence_threshold").dump());
      ASSERT_TRUE(policy.ok()) << policy.status();
      for (const json& round : trace.at("rounds")) {
        SCOPED_TRACE("start " + round.at("start").dump());
        std::vector<double> confidences;
        for (const double z : round.at("all_confidence_logits"))
          confidences.push_back(1 / (1 + std::exp(-z)));
        // Survivals don't weigh, and as many drafts go out as there is room for.
        const std::vector<double> survivals(confidences.size(), 1.0);
        const DraftedSequence sequence = {.order = 1, .survivals = survivals, .confidences = confidences};
        std::vector<int> windows;
        ChooseWindows(*policy, {.num_anchors = 1, .max_draft_rows = 1000, .no_look_ahead = true},
                      {&sequence, 1}, windows);
        const auto sent = round.at("drafts").size();
        EXPECT_EQ(static_cast<size_t>(windows[0]), sent);
        num_empty += sent == 0;
        num_whole += sent == confidences.size();
        num_cut += sent > 0 && sent < confidences.size();
      }
    }
  }
  EXPECT_GT(num_cut, 0);
  EXPECT_GT(num_whole + num_empty, 0);
}

}  // namespace
}  // namespace tandem::verifier
