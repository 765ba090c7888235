#include "common/formats/gguf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <tuple>

#include "common/formats/test_files.h"

namespace tandem::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A small model; tensors are described, their bytes are not needed but for rope_freqs.
GgufContents Llama() {
  GgufContents contents;
  contents.metadata = {
      {"general.architecture", std::string("llama")},   {"llama.embedding_length", uint64_t{16}},
      {"llama.feed_forward_length", uint64_t{32}},      {"llama.block_count", uint64_t{1}},
      {"llama.attention.head_count", uint64_t{4}},      {"llama.context_length", uint64_t{64}},
      {"llama.attention.layer_norm_rms_epsilon", 1e-5},
  };
  contents.tensors["token_embd.weight"] = {"token_embd.weight", DType::kF32, {100, 16}, {}};
  return contents;
}

absl::StatusOr<ModelConfig> With(const std::string& key, GgufValue value) {
  GgufContents contents = Llama();
  contents.metadata[key] = std::move(value);
  return ConfigFromGguf(MemoryGguf(std::move(contents)));
}

TEST(GgufConfig, FillsInWhatFilesLeaveOut) {
  const auto config = ConfigFromGguf(MemoryGguf(Llama()));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vocab_size, 100);
  EXPECT_EQ(config->attention.num_kv_heads, 4);
  EXPECT_EQ(config->attention.head_dim, 4);
  EXPECT_EQ(config->attention.rope.theta, 10000.0);
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_FALSE(config->bos_token_id.has_value());
  EXPECT_TRUE(config->eos_token_ids.empty());
}

TEST(GgufConfig, CollectsEveryTokenThatEndsGeneration) {
  GgufContents contents = Llama();
  contents.metadata["tokenizer.ggml.eot_token_id"] = uint64_t{9};
  contents.metadata["tokenizer.ggml.eos_token_id"] = uint64_t{7};
  contents.metadata["tokenizer.ggml.eom_token_id"] = uint64_t{9};
  const auto config = ConfigFromGguf(MemoryGguf(std::move(contents)));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->eos_token_ids, ElementsAre(7, 9));
}

TEST(GgufConfig, KnowsTheEndsOfTurnsByNameWhereTheyAreNoPlainText) {
  GgufContents contents = Llama();
  contents.metadata["tokenizer.ggml.eos_token_id"] = uint64_t{1};
  contents.metadata["tokenizer.ggml.tokens"] =
      std::vector<std::string>{"<|endoftext|>", "<|im_end|>", "<|im_start|>", "<end_of_turn>", "<|eot_id|>"};
  contents.metadata["tokenizer.ggml.token_type"] = std::vector<int64_t>{3, 3, 3, 1, 4};
  const auto config = ConfigFromGguf(MemoryGguf(std::move(contents)));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->eos_token_ids, ElementsAre(1, 0, 4));
}

TEST(GgufConfig, TakesRopeDivisorsFromTheirTensor) {
  float divisors[] = {1.0f, 8.0f};
  const auto with = [&](std::vector<int64_t> shape) {
    GgufContents contents = Llama();
    contents.tensors["rope_freqs.weight"] = {"rope_freqs.weight", DType::kF32, std::move(shape),
                                             std::as_bytes(std::span(divisors))};
    return ConfigFromGguf(MemoryGguf(std::move(contents)));
  };
  const auto config = with({2});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->attention.rope.inverse_frequency_divisors, ElementsAre(1.0f, 8.0f));
  EXPECT_THAT(std::string(with({1, 2}).status().message()), HasSubstr("rope_freqs.weight"));
  for (const float bad : {0.0f, -1.0f, INFINITY, NAN}) {
    divisors[1] = bad;
    EXPECT_THAT(std::string(with({2}).status().message()), HasSubstr("divisor"));
  }
}

// The metadata of a file that llama.cpp's converter wrote.
GgufContents Gemma3(uint64_t num_layers = 7) {
  GgufContents contents;
  contents.metadata = {
      {"general.architecture", std::string("gemma3")},
      {"gemma3.embedding_length", uint64_t{64}},
      {"gemma3.feed_forward_length", uint64_t{128}},
      {"gemma3.block_count", num_layers},
      {"gemma3.attention.head_count", uint64_t{4}},
      {"gemma3.attention.head_count_kv", uint64_t{1}},
      {"gemma3.attention.key_length", uint64_t{32}},
      {"gemma3.attention.value_length", uint64_t{32}},
      {"gemma3.attention.sliding_window", uint64_t{512}},
      {"gemma3.context_length", uint64_t{1024}},
      {"gemma3.rope.freq_base", 1e6},
      {"gemma3.attention.layer_norm_rms_epsilon", 1e-6},
  };
  contents.tensors["token_embd.weight"] = {"token_embd.weight", DType::kF32, {100, 64}, {}};
  return contents;
}

TEST(GgufConfig, TakesWhatGemma3DoesNotSayFromTheFamily) {
  const auto config = ConfigFromGguf(MemoryGguf(Gemma3()));
  ASSERT_TRUE(config.ok()) << config.status();
  for (int64_t layer = 0; layer < 7; ++layer) EXPECT_EQ(config->layers[layer].sliding, layer != 5) << layer;
  EXPECT_EQ(config->attention.rope.theta, 1e6);
  EXPECT_EQ(config->attention.window, 0);
  EXPECT_EQ(config->sliding_attention.rope.theta, 1e4);
  EXPECT_EQ(config->sliding_attention.window, 512);
  EXPECT_EQ(config->sliding_attention.head_dim, 32);
  EXPECT_FLOAT_EQ(config->attention_scale, 1 / std::sqrt(32.0f));
  EXPECT_EQ(config->embedding_scale, 8.0f);
  // The 27B, known by its 62 layers, scales by hidden_size / heads.
  const auto large = ConfigFromGguf(MemoryGguf(Gemma3(62)));
  ASSERT_TRUE(large.ok()) << large.status();
  EXPECT_FLOAT_EQ(large->attention_scale, 0.25f);
}

TEST(GgufConfig, ScalesOnlyGemma3sGlobalLayersLinearly) {
  GgufContents contents = Gemma3();
  contents.metadata["gemma3.rope.scaling.type"] = std::string("linear");
  contents.metadata["gemma3.rope.scaling.factor"] = 8.0;
  const auto config = ConfigFromGguf(MemoryGguf(std::move(contents)));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->attention.rope.linear_factor, 8.0);
  EXPECT_EQ(config->sliding_attention.rope.linear_factor, 1.0);
}

TEST(GgufConfig, RefusesGemma3sFieldsOutOfRangeByName) {
  const std::tuple<const char*, GgufValue, const char*> values[] = {
      {"gemma3.attention.sliding_window", uint64_t{0}, "sliding_window"},
      {"gemma3.attention.sliding_window", int64_t{-5}, "sliding_window"},
      {"gemma3.attention.sliding_window", 8.0, "sliding_window"},
      {"gemma3.attention.sliding_window_pattern", uint64_t{0}, "sliding_window_pattern"},
      {"gemma3.rope.freq_base_swa", std::nan(""), "rope_theta"},
      {"gemma3.rope.freq_base", 0.0, "rope_theta"},
      {"gemma3.final_logit_softcapping", std::nan(""), "final_logit_softcapping"},
      {"gemma3.final_logit_softcapping", -1.0, "final_logit_softcapping"},
      {"gemma3.attention.key_length", uint64_t{0}, "attention.key_length"},
      {"gemma3.attention.head_count", uint64_t{0}, "attention.head_count"},
      {"gemma3.attention.head_count_kv", uint64_t{0}, "num_key_value_heads"},
      {"gemma3.block_count", uint64_t{1000000000}, "block_count"},
  };
  for (const auto& [key, value, named] : values) {
    GgufContents contents = Gemma3();
    contents.metadata[key] = value;
    const absl::Status status = ConfigFromGguf(MemoryGguf(std::move(contents))).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(named)) << key;
  }
  GgufContents without = Gemma3();
  without.metadata.erase("gemma3.attention.sliding_window");
  EXPECT_THAT(std::string(ConfigFromGguf(MemoryGguf(std::move(without))).status().message()),
              HasSubstr("gemma3.attention.sliding_window"));
}

TEST(GgufConfig, RefusesWhatWouldChangeTheComputation) {
  const std::pair<const char*, GgufValue> values[] = {
      {"general.architecture", std::string("gemma4")},
      {"llama.rope.scaling.type", std::string("yarn")},
      {"llama.rope.scale_linear", 2.0},
      {"llama.rope.dimension_count", uint64_t{2}},
      {"llama.attention.value_length", uint64_t{8}},
      {"llama.attention.sliding_window", uint64_t{128}},
      {"llama.expert_count", uint64_t{8}},
      {"split.count", uint64_t{2}},
  };
  for (const auto& [key, value] : values) {
    EXPECT_EQ(With(key, value).status().code(), absl::StatusCode::kUnimplemented) << key;
  }
  EXPECT_TRUE(With("llama.rope.scaling.type", std::string("none")).ok());
}

TEST(GgufConfig, RefusesValuesOutOfRangeOrOfAnotherType) {
  const std::pair<const char*, GgufValue> values[] = {
      {"llama.embedding_length", uint64_t{0}},
      {"llama.embedding_length", 16.0},
      {"llama.embedding_length", ~uint64_t{0}},
      {"llama.embedding_length", int64_t{-16}},
      {"llama.feed_forward_length", std::vector<int64_t>{32}},  // one for each layer: other models than ours
      {"llama.vocab_size", uint64_t{1} << 40},
      {"llama.attention.head_count", int64_t{-4}},
      {"llama.attention.key_length", uint64_t{5}},
      {"llama.rope.freq_base", std::nan("")},
      {"llama.attention.layer_norm_rms_epsilon", uint64_t{1}},
      {"tokenizer.ggml.eos_token_id", uint64_t{100}},
      {"tokenizer.ggml.bos_token_id", uint64_t{0xffffffff}},
      {"tokenizer.ggml.tokens", std::vector<std::string>(101)},
  };
  for (const auto& [key, value] : values) {
    EXPECT_EQ(With(key, value).status().code(), absl::StatusCode::kInvalidArgument) << key;
  }
}

}  // namespace
}  // namespace tandem::formats
