#include "verifier/scripted_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace tandem::verifier {
namespace {

constexpr int kVocab = 50, kHidden = 8;

std::unique_ptr<models::Model> NewModel(std::vector<int32_t> table) {
  formats::ModelConfig config;
  config.vocab_size = kVocab;
  config.hidden_size = kHidden;
  config.num_layers = 2;
  config.max_position = 64;
  models::ModelOptions options;
  options.max_step_tokens = options.max_logits_rows = 16;
  return NewScriptedModel(config, options, std::move(table), absl::ZeroDuration());
}

// The likeliest token behind each of the positions [first, first + count).
std::vector<int32_t> TokensBehind(models::Model& model, kernels::KvCache& kv, int32_t first, int32_t count) {
  std::vector<int32_t> tokens(count, 1), positions(count), logits_rows(count), blocks = {0, 1, 2, 3};
  std::iota(positions.begin(), positions.end(), first);
  std::iota(logits_rows.begin(), logits_rows.end(), 0);
  const kernels::SequenceRows rows = {0, count, first, blocks};
  models::Outputs outputs;
  model.Forward({tokens, positions, {&rows, 1}, logits_rows, {}}, kv, outputs);
  std::vector<int32_t> likeliest;
  for (int32_t i = 0; i < count; ++i) {
    const auto row = outputs.logits.subspan(i * kVocab, kVocab);
    likeliest.push_back(static_cast<int32_t>(std::ranges::max_element(row) - row.begin()));
    EXPECT_EQ(std::ranges::count(row, 0.0f), kVocab - 1) << "row " << i;
  }
  return likeliest;
}

TEST(ScriptedModelTest, TokensComeFromTheTableByPosition) {
  const auto model = NewModel({7, 8, 9});
  const auto kv = kernels::KvCache::Create(model->kv_layout(), 4);
  ASSERT_TRUE(kv.ok());
  EXPECT_EQ(TokensBehind(*model, **kv, 0, 5), (std::vector<int32_t>{7, 8, 9, 7, 8}));
  EXPECT_EQ(TokensBehind(*model, **kv, 5, 3), (std::vector<int32_t>{9, 7, 8}));
}

TEST(ScriptedModelTest, OptionsAreResolvedAsARealModelsAre) {
  const auto model = NewModel({1});
  EXPECT_EQ(model->options().max_positions, 64);
  EXPECT_EQ(model->options().max_taps, 3);
}

}  // namespace
}  // namespace tandem::verifier
