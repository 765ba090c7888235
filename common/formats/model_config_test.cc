#include "common/formats/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tandem::formats {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

json Llama() {
  return {{"model_type", "llama"},    {"vocab_size", 100},      {"hidden_size", 64},
          {"intermediate_size", 96},  {"num_hidden_layers", 2}, {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"rms_norm_eps", 1e-5},   {"max_position_embeddings", 512}};
}

json With(const char* field, json value) {
  json config = Llama();
  config[field] = std::move(value);
  return config;
}

ModelConfig Parsed(const json& config, const std::string& generation = "") {
  const auto parsed = ParseHuggingFaceConfig(config.dump(), generation, "config.json");
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? *parsed : ModelConfig();
}

absl::Status StatusOf(const json& config, const std::string& generation = "") {
  return ParseHuggingFaceConfig(config.dump(), generation, "dir/config.json").status();
}

TEST(HuggingFaceConfig, TakesDefaultsOfTransformers) {
  json config = Llama();
  config.erase("num_key_value_heads");
  const ModelConfig parsed = Parsed(config);
  EXPECT_EQ(parsed.attention.num_kv_heads, 4);
  EXPECT_EQ(parsed.attention.head_dim, 16);
  EXPECT_EQ(parsed.attention.rope.theta, 10000.0);
  EXPECT_FALSE(parsed.attention.rope.llama3.has_value());
  EXPECT_FALSE(parsed.tie_word_embeddings);
  EXPECT_FALSE(parsed.bos_token_id.has_value());
  EXPECT_THAT(parsed.eos_token_ids, IsEmpty());
  config["model_type"] = "qwen3";
  EXPECT_EQ(Parsed(config).attention.head_dim, 128);
}

TEST(HuggingFaceConfig, ReadsBothSpellingsOfRope) {
  const json scaling = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 64}};
  json older = With("rope_scaling", scaling);
  older["rope_theta"] = 5e5;
  json oldest = older;
  oldest["rope_scaling"].erase("rope_type");
  oldest["rope_scaling"]["type"] = "llama3";
  json newer = With("rope_parameters", scaling);
  newer["rope_parameters"]["rope_theta"] = 5e5;
  for (const json& config : {older, oldest, newer}) {
    const RopeConfig rope = Parsed(config).attention.rope;
    EXPECT_EQ(rope.theta, 5e5);
    ASSERT_TRUE(rope.llama3.has_value()) << config;
    EXPECT_EQ(rope.llama3->factor, 8.0);
    EXPECT_EQ(rope.llama3->low_freq_factor, 1.0);
    EXPECT_EQ(rope.llama3->high_freq_factor, 4.0);
    EXPECT_EQ(rope.llama3->original_context, 64);
  }
  older["rope_parameters"] = {{"rope_type", "default"}};
  EXPECT_THAT(std::string(StatusOf(older).message()), HasSubstr("contradict"));
}

TEST(HuggingFaceConfig, UnitesTheEndTokensOfBothFiles) {
  EXPECT_THAT(Parsed(With("eos_token_id", 7), R"({"eos_token_id": [7, 3]})").eos_token_ids,
              ElementsAre(7, 3));
  EXPECT_THAT(Parsed(With("eos_token_id", {5, 5, 6})).eos_token_ids, ElementsAre(5, 6));
  EXPECT_THAT(Parsed(With("eos_token_id", nullptr), R"({"eos_token_id": 4})").eos_token_ids, ElementsAre(4));
}

TEST(HuggingFaceConfig, NamesTheFileAndTheModelTypeItDoesNotKnow) {
  const absl::Status status = StatusOf(With("model_type", "mamba"));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), AllOf(StartsWith("dir/config.json: "), HasSubstr("`mamba`")));
}

TEST(HuggingFaceConfig, RefusesWhatWouldChangeTheComputation) {
  const std::pair<const char*, json> fields[] = {
      {"attention_bias", true},
      {"mlp_bias", true},
      {"use_sliding_window", true},
      {"rope_interleaved", true},
      {"hidden_act", "gelu"},
      {"quantization_config", {{"quant_method", "gptq"}}},
      {"layer_types", {"full_attention", "sliding_attention"}},
      {"partial_rotary_factor", 0.5},
      {"rope_parameters", {{"partial_rotary_factor", 0.5}}},
      {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}}},
  };
  for (const auto& [field, value] : fields) {
    const absl::Status status = StatusOf(With(field, value));
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << field << ": " << status;
  }
  EXPECT_TRUE(StatusOf(With("layer_types", {"full_attention", "full_attention"})).ok());
  EXPECT_TRUE(StatusOf(With("sliding_window", 4096)).ok()) << "means nothing without use_sliding_window";
  EXPECT_TRUE(StatusOf(With("partial_rotary_factor", 1.0)).ok());
}

TEST(HuggingFaceConfig, RefusesFieldsOutOfRangeByName) {
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 64}};
  const auto scaling = [&](const char* field, json value) {
    json changed = llama3;
    changed[field] = std::move(value);
    return changed;
  };
  struct Case {
    const char* field;
    json value;
    const char* message;
  };
  const Case cases[] = {
      {"vocab_size", 0, "vocab_size is 0"},
      {"vocab_size", 1 << 23, "vocab_size is 8388608"},
      {"vocab_size", "many", "vocab_size is no integer"},
      {"vocab_size", 10.5, "vocab_size is no integer"},
      {"vocab_size", nullptr, "vocab_size is missing"},
      {"hidden_size", -64, "hidden_size"},
      {"hidden_size", 66, "no multiple of num_attention_heads"},
      {"hidden_size", 18446744073709551615u, "hidden_size"},
      {"intermediate_size", 1 << 21, "intermediate_size"},
      {"num_hidden_layers", 4294967295u, "num_hidden_layers"},
      {"num_attention_heads", 0, "num_attention_heads"},
      {"num_key_value_heads", 0, "num_key_value_heads"},
      {"num_key_value_heads", 3, "no multiple of num_key_value_heads 3"},
      {"head_dim", 15, "head_dim is 15"},
      {"head_dim", 2048, "head_dim is 2048"},
      {"max_position_embeddings", 0, "max_position_embeddings"},
      {"rms_norm_eps", 0.0, "rms_norm_eps"},
      {"rms_norm_eps", -1e-5, "rms_norm_eps"},
      {"rms_norm_eps", 1e300, "rms_norm_eps"},
      {"rms_norm_eps", "1e-5", "rms_norm_eps is no number"},
      {"tie_word_embeddings", 1, "tie_word_embeddings is no truth value"},
      {"rope_theta", 0.0, "rope_theta"},
      {"rope_parameters", {1, 2}, "rope_parameters is no object"},
      {"rope_scaling", scaling("factor", 0.0), "rope factor"},
      {"rope_scaling", scaling("factor", nullptr), "factor is missing"},
      {"rope_scaling", scaling("low_freq_factor", 4.0), "low_freq_factor"},
      {"rope_scaling", scaling("low_freq_factor", 0.0), "low_freq_factor"},
      {"rope_scaling", scaling("original_max_position_embeddings", 0), "original_max_position_embeddings"},
      {"layer_types", {"full_attention"}, "layer_types has 1 entries"},
      {"bos_token_id", 100, "bos_token_id is 100"},
      {"bos_token_id", -1, "bos_token_id is -1"},
      {"eos_token_id", 100, "eos_token_id is 100"},
      {"eos_token_id", {1, "2"}, "eos_token_id is no integer"},
      {"eos_token_id", json::array({json::array({1})}), "eos_token_id is no integer"},
      {"eos_token_id", std::vector<int>(1025, 1), "eos_token_id has 1025 ids"},
      {"model_type", 3, "model_type is no string"},
  };
  for (const Case& c : cases) {
    const absl::Status status = StatusOf(With(c.field, c.value));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument)
        << c.field << " = " << c.value << ": " << status;
    EXPECT_THAT(std::string(status.message()), AllOf(StartsWith("dir/config.json: "), HasSubstr(c.message)));
  }
  EXPECT_THAT(std::string(StatusOf(Llama(), R"({"eos_token_id": 1000})").message()),
              HasSubstr("eos_token_id is 1000"));
  EXPECT_THAT(std::string(StatusOf(Llama(), "[]").message()), HasSubstr("generation_config.json"));
  EXPECT_FALSE(StatusOf(json::array()).ok());
}

}  // namespace
}  // namespace tandem::formats
