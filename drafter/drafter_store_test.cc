#include "drafter/drafter_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace tandem::drafter {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DrafterStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("tandem-drafter-store-" + std::to_string(getpid()));
    for (const char* place : {"a/one", "b/one", "b/smollm2-135m-dspark-r0"}) {
      fs::create_directories(root_ / place);
      std::ofstream(root_ / place / "config.json") << "{}";
    }
    fs::create_directories(root_ / "a/empty");
    places_ = {(root_ / "a").string(), (root_ / "b").string()};
  }
  void TearDown() override { fs::remove_all(root_); }

  fs::path root_;
  std::vector<std::string> places_;
};

TEST_F(DrafterStoreTest, PathsStandForThemselves) {
  EXPECT_EQ(*ResolveDrafter(root_.string(), "", places_), root_.string());
  EXPECT_EQ(*ResolveDrafter("./not/there", "", places_), "./not/there");  // the loader says what is missing
}

TEST_F(DrafterStoreTest, NamesAreLookedForInOrder) {
  EXPECT_EQ(*ResolveDrafter("one", "", places_), places_[0] + "/one");
  EXPECT_EQ(*ResolveDrafter("smollm2-135m-dspark-r0", "", places_), places_[1] + "/smollm2-135m-dspark-r0");
  const absl::Status missing = ResolveDrafter("empty", "", places_).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr(places_[0] + ", " + places_[1]));
}

TEST_F(DrafterStoreTest, TheDefaultIsTheTargetsOwn) {
  for (const char* target : {"smollm2-135m", "/models/SmolLM2-135M-Instruct.Q4_1.gguf"})
    EXPECT_EQ(*ResolveDrafter("default", target, places_), places_[1] + "/smollm2-135m-dspark-r0");
  const absl::Status unknown = ResolveDrafter("default", "/models/other.gguf", places_).status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("/models/other.gguf"));
}

TEST_F(DrafterStoreTest, TheSourceTreesDraftersAreFoundUnlessAnotherPlaceIsNamed) {
  unsetenv("TANDEM_DRAFTERS_DIR");
  EXPECT_TRUE(ResolveDrafter("default", "smollm2-135m", DrafterDirectories()).ok());
  EXPECT_THAT(DrafterDirectories(), Contains(HasSubstr("share/tandem/drafters")));
  setenv("TANDEM_DRAFTERS_DIR", "/elsewhere", 1);
  EXPECT_THAT(DrafterDirectories(), ElementsAre("/elsewhere"));
  EXPECT_FALSE(ResolveDrafter("default", "smollm2-135m", DrafterDirectories()).ok());
  unsetenv("TANDEM_DRAFTERS_DIR");
}

}  // namespace
}  // namespace tandem::drafter
