#include "common/base/model_store.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace tandem {
namespace {

TEST(ModelStoreTest, ResolvesPathsNamesAndSaysWhatToDoOtherwise) {
  namespace fs = std::filesystem;
  const fs::path cache = fs::path(testing::TempDir()) / "model_store_test";
  fs::remove_all(cache);
  ASSERT_EQ(setenv("XDG_CACHE_HOME", cache.c_str(), 1), 0);

  const NamedModel* model = FindNamedModel(kDefaultModel);
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(ResolveModel(kDefaultModel).status().message(),
            "model smollm2-135m is not on this machine; get it with: tandem pull smollm2-135m");

  const std::string directory = *ModelDirectory(*model);
  EXPECT_EQ(directory, (cache / "tandem/models/smollm2-135m").string());
  fs::create_directories(directory);
  std::ofstream(fs::path(directory) / model->file) << "x";
  EXPECT_EQ(*ResolveModel(kDefaultModel), (fs::path(directory) / model->file).string());

  EXPECT_EQ(*ResolveModel(cache.string()), cache.string());
  EXPECT_EQ(ResolveModel("no-such-model").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace tandem
