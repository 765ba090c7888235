#include "verifier/scheduling/step_time_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

namespace tandem::verifier {
namespace {

using ::testing::HasSubstr;

constexpr char kId[] = "cpu/avx3 int8 \"bf16\"/\n1";

class StepTimeCacheTest : public ::testing::Test {
 protected:
  StepTimeCacheTest() {
    std::string name = (std::filesystem::temp_directory_path() / "step_time_cache_test.XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
    path_ = StepTimeCachePath(directory_, kId);
  }
  ~StepTimeCacheTest() override { std::filesystem::remove_all(directory_); }

  static StepTimeModel MakeModel() {
    const std::vector<StepTimePoint> points = {{1, 0.01}, {2, 0.011}, {4, 0.0125}, {8, 0.017}, {16, 0.03}};
    StepTimeModel model = *StepTimeModel::FromMeasurements(points);
    for (int i = 0; i < 100; ++i) {
      model.Observe({.num_decode_rows = 5, .num_kv_positions = 3000, .num_prefill_tokens = i % 7}, 0.02);
    }
    return model;
  }
  void Write(const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(path_).parent_path());
    std::ofstream(path_, std::ios::binary) << text;
  }
  std::string Read() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::string directory_;
  std::string path_;
};

TEST_F(StepTimeCacheTest, LoadsWhatItSavedBitForBit) {
  const StepTimeModel model = MakeModel();
  ASSERT_TRUE(SaveStepTime(model, path_, kId).ok());
  const auto loaded = LoadStepTime(path_, kId);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->parameters().table_seconds, model.parameters().table_seconds);
  EXPECT_EQ(loaded->parameters().num_known_points, model.parameters().num_known_points);
  EXPECT_EQ(loaded->parameters().kappa_seconds, model.parameters().kappa_seconds);
  EXPECT_EQ(loaded->parameters().pi_seconds, model.parameters().pi_seconds);
  EXPECT_EQ(loaded->parameters().offset_seconds, model.parameters().offset_seconds);
}

TEST_F(StepTimeCacheTest, ReplacesAnOlderFileAndLeavesNoOtherBehind) {
  Write("an older file");
  ASSERT_TRUE(SaveStepTime(MakeModel(), path_, kId).ok());
  EXPECT_TRUE(LoadStepTime(path_, kId).ok());
  const std::filesystem::directory_iterator files(std::filesystem::path(path_).parent_path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST_F(StepTimeCacheTest, SaysThatThereIsNoFile) {
  EXPECT_EQ(LoadStepTime(path_, kId).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(StepTimeCacheTest, PathsDifferByNumericsAndStayInTheDirectory) {
  EXPECT_NE(StepTimeCachePath(directory_, "a"), StepTimeCachePath(directory_, "b"));
  const std::string path = StepTimeCachePath(directory_, "../../etc/passwd");
  EXPECT_EQ(std::filesystem::path(path).parent_path(), std::filesystem::path(directory_) / "step_time");
}

TEST_F(StepTimeCacheTest, RefusesAnotherNumericsId) {
  ASSERT_TRUE(SaveStepTime(MakeModel(), path_, kId).ok());
  EXPECT_THAT(LoadStepTime(path_, "other").status().message(), HasSubstr("numerics_id"));
}

TEST_F(StepTimeCacheTest, RefusesHostileFiles) {
  ASSERT_TRUE(SaveStepTime(MakeModel(), path_, kId).ok());
  const std::string good = Read();
  const auto replaced = [&](const std::string& from, const std::string& to) {
    const size_t at = good.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return std::string(good).replace(at, from.size(), to);
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not JSON"},
      {"[]", "not a JSON object"},
      {"null", "not a JSON object"},
      {"{}", "format"},
      {good.substr(0, good.size() / 2), "not JSON"},
      {std::string(200000, ' '), "larger than"},
      {std::string(60000, '['), "not JSON"},
      {replaced("\"format\": 1", "\"format\": 2"), "format"},
      {replaced("\"format\": 1", "\"format\": \"1\""), "format"},
      {replaced("\"table_seconds\": [", "\"table_seconds\": [1,"), "table_seconds"},
      {replaced("\"table_seconds\"", "\"table\""), "table_seconds"},
      {replaced("\"num_known_points\": ", "\"num_known_points\": 9999999999"), "num_known_points"},
      {replaced("\"num_known_points\": ", "\"num_known_points\": -"), "num_known_points"},
      {replaced("\"kappa_seconds\": ", "\"kappa_seconds\": -"), "kappa_seconds"},
      {replaced("\"pi_seconds\": ", "\"pi_seconds\": 1e300, \"x\": "), "pi_seconds"},
      {replaced("\"offset_seconds\": ", "\"offset_seconds\": 1e5, \"x\": "), "offset_seconds"},
      {replaced("\"offset_seconds\": ", "\"offset_seconds\": 1e999, \"x\": "), "not JSON"},
  };
  for (const auto& [text, reason] : cases) {
    Write(text);
    const absl::Status status = LoadStepTime(path_, kId).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text.substr(0, 200);
    EXPECT_THAT(status.message(), HasSubstr(reason)) << text.substr(0, 200);
    EXPECT_THAT(status.message(), HasSubstr(path_));
  }
}

TEST_F(StepTimeCacheTest, NeverLoadsAnInvalidModelFromADamagedFile) {
  ASSERT_TRUE(SaveStepTime(MakeModel(), path_, kId).ok());
  const std::string good = Read();
  std::mt19937_64 rng(1);
  for (int i = 0; i < 2000; ++i) {
    std::string text = good;
    for (uint64_t n = 1 + rng() % 3; n > 0; --n) text[rng() % text.size()] = static_cast<char>(rng());
    Write(text);
    const auto loaded = LoadStepTime(path_, kId);
    EXPECT_TRUE(!loaded.ok() || loaded->parameters().Validate().ok()) << text;
  }
}

TEST_F(StepTimeCacheTest, RefusesWhatIsNoRegularFile) {
  std::filesystem::create_directories(path_);
  EXPECT_FALSE(LoadStepTime(path_, kId).ok());
  EXPECT_FALSE(SaveStepTime(MakeModel(), path_, kId).ok());
  std::filesystem::remove(path_);
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(LoadStepTime(path_, kId).status().message(), HasSubstr("not a regular file"));
}

TEST_F(StepTimeCacheTest, SaysWhyItCannotSave) {
  std::ofstream(directory_ + "/file") << "x";
  const absl::Status status = SaveStepTime(MakeModel(), directory_ + "/file/step_time/x.json", kId);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("/file/step_time"));
}

}  // namespace
}  // namespace tandem::verifier
