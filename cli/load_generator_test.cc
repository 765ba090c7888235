#include "cli/load_generator.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>

namespace tandem::cli {
namespace {

TEST(LoadGeneratorTest, PercentileIsTheNearestRank) {
  std::vector<double> values = {5, 1, 4, 2, 3};
  EXPECT_EQ(Percentile(values, 0.5), 3);
  EXPECT_EQ(Percentile(values, 0.99), 5);
  EXPECT_EQ(Percentile(values, 0.0), 1);
  std::vector<double> none;
  EXPECT_EQ(Percentile(none, 0.5), 0);
}

TEST(LoadGeneratorTest, SampleIsDrawnWithoutRepetition) {
  std::vector<std::vector<std::string>> prompts;
  for (int i = 0; i < 20; ++i) prompts.push_back({std::to_string(i)});
  const auto sample = SamplePrompts(prompts, 8, 5);
  EXPECT_EQ(sample.size(), 8u);
  EXPECT_EQ(std::set(sample.begin(), sample.end()).size(), 8u);
  EXPECT_EQ(sample, SamplePrompts(prompts, 8, 5));
  EXPECT_NE(sample, SamplePrompts(prompts, 8, 6));
  EXPECT_EQ(SamplePrompts(prompts, 100, 5).size(), 20u);
}

TEST(LoadGeneratorTest, ReadsPromptsAndNamesTheBadLine) {
  const std::string path = testing::TempDir() + "/prompts.jsonl";
  std::ofstream(path) << "{\"turns\": [\"a\", \"b\"]}\n\n{\"turns\": [\"c\"], \"id\": 3}\n";
  EXPECT_EQ(ReadPrompts(path)->size(), 2u);
  EXPECT_EQ((*ReadPrompts(path))[0][1], "b");
  std::ofstream(path) << "{\"turns\": [\"a\"]}\n{\"turns\": []}\n";
  EXPECT_EQ(ReadPrompts(path).status().message(), path + ":2: expected {\"turns\": [\"...\"]}");
  EXPECT_EQ(ReadPrompts(path + ".none").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace tandem::cli
