// The trained target of golden/drafters/trained_pair: its greedy texts, and the layers that drafters read.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/models/golden_case.h"
#include "common/models/model.h"
#include "common/models/model_driver.h"

namespace tandem::models {
namespace {

class TrainedPair : public ::testing::Test {
 protected:
  void Load(kernels::KvType kv_type) {
    const auto checkpoint = formats::Checkpoint::Open(directory_ / "target");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    auto model = LoadModel(
        **checkpoint,
        {.activation_type = kernels::ActivationType::kF32, .kv_type = kv_type, .max_step_tokens = 256},
        pool_);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    driver_.emplace(*model_, static_cast<int>((model_->config().max_position + 15) / 16));
  }

  void CheckGreedyExamples() {
    const auto examples = nlohmann::json::parse(testing::ReadFile(directory_ / "greedy_examples.json"));
    ASSERT_FALSE(examples.empty());
    for (const auto& example : examples) {
      const std::vector<int32_t> prompt = example.at("prompt_ids"), expected = example.at("greedy_ids");
      EXPECT_EQ(driver_->Greedy(prompt, static_cast<int>(expected.size())), expected) << example.at("user");
    }
  }

  const std::filesystem::path directory_ = testing::GoldenDir() / "drafters/trained_pair";
  ThreadPool pool_{2};
  std::unique_ptr<Model> model_;
  std::optional<ModelDriver> driver_;
};

TEST_F(TrainedPair, GreedyTextsAreTheReferencesWithF32Kv) {
  Load(kernels::KvType::kF32);
  if (!HasFatalFailure()) CheckGreedyExamples();
}

TEST_F(TrainedPair, GreedyTextsAreTheReferencesWithBF16Kv) {
  Load(kernels::KvType::kBF16);
  if (!HasFatalFailure()) CheckGreedyExamples();
}

// features [n, taps * H]: the tapped layers' outputs side by side; tolerance of golden/drafters/README.md.
TEST_F(TrainedPair, TappedLayersAreTheDraftersFeatures) {
  Load(kernels::KvType::kF32);
  if (HasFatalFailure()) return;
  const auto facts = nlohmann::json::parse(testing::ReadFile(directory_ / "facts.json"));
  const ExpectedTensors expected(directory_ / "expect.safetensors");
  const std::vector<int32_t> taps = facts.at("target_layer_ids");
  const size_t hidden = model_->config().hidden_size;
  for (const auto& [name, prompt] : facts.at("prompts").items()) {
    const std::vector<int32_t> ids = prompt.at("token_ids");
    const std::vector<float> features = expected.Floats(name + ".features");
    ModelDriver::Sequence sequence;
    const auto result = driver_->Run(sequence, ids, 16, /*with_logits=*/false, taps);
    driver_->Release(sequence);
    ASSERT_EQ(features.size(), ids.size() * taps.size() * hidden);
    for (size_t i = 0; i < features.size(); ++i) {
      const size_t row = i / (taps.size() * hidden), tap = i / hidden % taps.size();
      const float actual = result.taps[tap][row * hidden + i % hidden];
      ASSERT_NEAR(actual, features[i], 2e-4f + 1e-4f * std::abs(features[i])) << name << " element " << i;
    }
  }
}

}  // namespace
}  // namespace tandem::models
