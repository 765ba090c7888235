// Logits, tapped layers and greedy ids of the tiny golden models (golden/targets, golden/gguf), in f32.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <optional>

#include "common/models/golden_case.h"
#include "common/models/golden_compare.h"
#include "common/models/model.h"
#include "common/models/model_driver.h"

namespace tandem::models {
namespace {

class GoldenLogits : public ::testing::TestWithParam<GoldenCase> {
 protected:
  void SetUp() override {
    checkpoint_ = OpenCase(GetParam());
    ASSERT_NE(checkpoint_, nullptr);
    expected_.emplace(GetParam().expected);
    auto model = LoadModel(*checkpoint_,
                           {.activation_type = kernels::ActivationType::kF32,
                            .kv_type = kernels::KvType::kF32,
                            .max_step_tokens = 128,
                            .max_logits_rows = 128},
                           pool_);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    driver_.emplace(*model_, 16);
    checkpoint_.reset();  // the model must not need it any more
  }

  void CheckPrompt(int prompt, int chunk) {
    const std::string suffix = fmt::format(".{}", prompt);
    const std::vector<int32_t> ids = expected_->Ints("input_ids" + suffix);
    const std::vector<int32_t> taps = TapsOf(*expected_, prompt);
    ModelDriver::Sequence sequence;
    const ModelDriver::Result result =
        driver_->Run(sequence, ids, std::min<int>(chunk, 128), /*with_logits=*/true, taps);
    driver_->Release(sequence);

    std::vector<float> logits;
    for (const auto& row : result.logits) logits.insert(logits.end(), row.begin(), row.end());
    ExpectClose(logits, expected_->Floats("logits" + suffix), LogitTolerance,
                fmt::format("logits{} in chunks of {}", suffix, chunk));
    for (size_t i = 0; i < taps.size(); ++i) {
      const std::string name = fmt::format("hidden_{}{}", taps[i], suffix);
      const std::vector<float> hidden = expected_->Floats(name);
      float largest = 0;
      for (const float h : hidden) largest = std::max(largest, std::abs(h));
      ExpectClose(
          result.taps[i], hidden, [&](float) { return kHiddenTolerance * largest; },
          fmt::format("{} in chunks of {}", name, chunk));
    }
  }

  ThreadPool pool_{2};
  std::unique_ptr<formats::Checkpoint> checkpoint_;
  std::optional<ExpectedTensors> expected_;
  std::unique_ptr<Model> model_;
  std::optional<ModelDriver> driver_;
};

TEST_P(GoldenLogits, LogitsAndTapsMatchInOneGoInChunksAndTokenByToken) {
  if (model_ == nullptr) return;
  int prompt = 0;
  for (; expected_->Has(fmt::format("input_ids.{}", prompt)); ++prompt) {
    if (std::filesystem::is_directory(GetParam().model)) {
      EXPECT_FALSE(TapsOf(*expected_, prompt).empty());
    }
    for (const int chunk : {1 << 20, 16, 3, 1}) CheckPrompt(prompt, chunk);
  }
  EXPECT_GT(prompt, 0) << "no prompt in " << GetParam().expected;
}

TEST_P(GoldenLogits, GreedyContinuationIsTheReference) {
  if (model_ == nullptr) return;
  const std::vector<int32_t> expected = expected_->Ints("greedy_ids");
  ASSERT_FALSE(expected.empty());
  EXPECT_EQ(driver_->Greedy(expected_->Ints("input_ids.0"), static_cast<int>(expected.size())), expected);
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenLogits, ::testing::ValuesIn(AllCases()), [](const auto& info) {
  std::string name = info.param.name;
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
});

TEST(GoldenLogitsCases, ExistInBothFormats) {
  EXPECT_FALSE(DirectoryCases().empty()) << "no model in " << testing::GoldenDir() / "targets";
  EXPECT_FALSE(GgufCases().empty()) << "no model in " << testing::GoldenDir() / "gguf";
}

}  // namespace
}  // namespace tandem::models
