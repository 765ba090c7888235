#include "cli/load_generator.h"

#include <gtest/gtest.h>

#include <fstream>

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
