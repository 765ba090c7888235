#include "common/formats/gemma_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "common/formats/test_files.h"

namespace tandem::formats {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

json Gemma3() {
  return {{"model_type", "gemma3_text"}, {"vocab_size", 100},      {"hidden_size", 64},
          {"intermediate_size", 96},     {"num_hidden_layers", 7}, {"num_attention_heads", 4},
          {"num_key_value_heads", 2},    {"head_dim", 16},         {"query_pre_attn_scalar", 25},
          {"sliding_window", 9},         {"rms_norm_eps", 1e-6},   {"max_position_embeddings", 512}};
}

json Gemma4() {
  return {{"model_type", "gemma4_text"}, {"vocab_size", 100},
          {"hidden_size", 64},           {"intermediate_size", 96},
          {"num_hidden_layers", 6},      {"num_attention_heads", 4},
          {"num_key_value_heads", 2},    {"head_dim", 16},
          {"global_head_dim", 32},       {"num_global_key_value_heads", 1},
          {"attention_k_eq_v", true},    {"hidden_size_per_layer_input", 0},
          {"sliding_window", 8},         {"final_logit_softcapping", 30.0},
          {"rms_norm_eps", 1e-6},        {"max_position_embeddings", 512}};
}

ModelConfig Parsed(const json& config) {
  const auto parsed = ParseHuggingFaceConfig(config.dump(), "", "config.json");
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? *parsed : ModelConfig();
}

absl::Status StatusOf(const json& config) {
  return ParseHuggingFaceConfig(config.dump(), "", "dir/config.json").status();
}

json With(json config, const char* field, json value) {
  config[field] = std::move(value);
  return config;
}

std::vector<bool> Sliding(const ModelConfig& config) {
  std::vector<bool> sliding;
  for (const LayerConfig& layer : config.layers) sliding.push_back(layer.sliding);
  return sliding;
}

TEST(Gemma3Config, FollowsFromTheFamilyWhereTheFileIsSilent) {
  const ModelConfig config = Parsed(Gemma3());
  EXPECT_EQ(Sliding(config), (std::vector<bool>{true, true, true, true, true, false, true}));
  EXPECT_EQ(config.sliding_attention.window, 9);
  EXPECT_EQ(config.attention.window, 0);
  EXPECT_EQ(config.attention.rope.theta, 1e6);
  EXPECT_EQ(config.sliding_attention.rope.theta, 1e4);
  EXPECT_FLOAT_EQ(config.attention_scale, 0.2f);
  EXPECT_EQ(config.embedding_scale, 8.0f);
  EXPECT_EQ(config.logit_softcap, 0.0f);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(Sliding(Parsed(With(Gemma3(), "sliding_window_pattern", 2))),
            (std::vector<bool>{true, false, true, false, true, false, true}));
}

// The published config of the 4B says no more than this of its text model.
TEST(Gemma3Config, TakesTheRestOfATextConfigFromTransformers) {
  const json text = {{"hidden_size", 2560},
                     {"intermediate_size", 10240},
                     {"model_type", "gemma3_text"},
                     {"num_hidden_layers", 34},
                     {"rope_scaling", {{"factor", 8.0}, {"rope_type", "linear"}}},
                     {"sliding_window", 1024}};
  const ModelConfig config =
      Parsed({{"model_type", "gemma3"}, {"text_config", text}, {"eos_token_id", {1, 106}}});
  EXPECT_EQ(config.vocab_size, 262208);
  EXPECT_EQ(config.num_heads, 8);
  EXPECT_EQ(config.attention.num_kv_heads, 4);
  EXPECT_EQ(config.attention.head_dim, 256);
  EXPECT_EQ(config.max_position, 131072);
  EXPECT_EQ(config.attention.rope.linear_factor, 8.0);
  EXPECT_EQ(config.sliding_attention.rope.linear_factor, 1.0);
  EXPECT_FLOAT_EQ(config.attention_scale, 0.0625f);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{1, 106}));
}

TEST(Gemma3Config, ReadsBothSpellingsOfRope) {
  json older = Gemma3();
  older["rope_theta"] = 5e5;
  older["rope_local_base_freq"] = 2e4;
  older["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  const json newer =
      With(Gemma3(), "rope_parameters",
           {{"full_attention", {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 5e5}}},
            {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 2e4}}}});
  for (const json& spelled : {older, newer}) {
    const ModelConfig config = Parsed(spelled);
    EXPECT_EQ(config.attention.rope.theta, 5e5);
    EXPECT_EQ(config.attention.rope.linear_factor, 4.0);
    EXPECT_EQ(config.sliding_attention.rope.theta, 2e4);
    EXPECT_EQ(config.sliding_attention.rope.linear_factor, 1.0);
  }
  older["rope_parameters"] = newer["rope_parameters"];
  EXPECT_THAT(std::string(StatusOf(older).message()), HasSubstr("rope_scaling and rope_parameters"));
}

TEST(Gemma4Config, GivesLayersThatSeeEverythingHeadsOfTheirOwn) {
  const ModelConfig config = Parsed(Gemma4());
  EXPECT_EQ(Sliding(config), (std::vector<bool>{true, true, true, true, true, false}));
  EXPECT_EQ(config.attention.head_dim, 32);
  EXPECT_EQ(config.attention.num_kv_heads, 1);
  EXPECT_TRUE(config.attention.value_is_key);
  EXPECT_EQ(config.sliding_attention.head_dim, 16);
  EXPECT_EQ(config.sliding_attention.num_kv_heads, 2);
  EXPECT_FALSE(config.sliding_attention.value_is_key);
  EXPECT_EQ(config.attention.rope.rotated_share, 0.25);
  EXPECT_EQ(config.sliding_attention.rope.rotated_share, 1.0);
  EXPECT_EQ(config.attention_scale, 1.0f);
  EXPECT_EQ(config.logit_softcap, 30.0f);
  // Without k = v there are no KV heads of their own, whatever the field says.
  EXPECT_EQ(Parsed(With(Gemma4(), "attention_k_eq_v", false)).attention.num_kv_heads, 2);
  json per_layer = Gemma4();
  per_layer["per_layer_config"] = {{"5", {{"head_dim", 64}, {"num_key_value_heads", 4}}}};
  EXPECT_EQ(Parsed(per_layer).attention.head_dim, 64);
  EXPECT_EQ(Parsed(per_layer).attention.num_kv_heads, 4);
  EXPECT_EQ(Parsed(per_layer).sliding_attention.head_dim, 16);
}

TEST(Gemma4Config, SharesKvWithTheLastLayerOfTheSameKindBefore) {
  json config = Gemma4();
  config["layer_types"] = {"sliding_attention", "full_attention",    "sliding_attention",
                           "full_attention",    "sliding_attention", "full_attention"};
  config["num_kv_shared_layers"] = 2;
  config["use_double_wide_mlp"] = true;
  const ModelConfig parsed = Parsed(config);
  const int64_t sources[] = {0, 1, 2, 3, 2, 3};
  for (int64_t i = 0; i < 6; ++i) {
    EXPECT_EQ(parsed.layers[i].kv_layer, sources[i]) << i;
    EXPECT_EQ(parsed.layers[i].intermediate_size, i < 4 ? 96 : 192) << i;
  }
  config["num_kv_shared_layers"] = 5;  // no full_attention layer is left that has its own
  EXPECT_THAT(std::string(StatusOf(config).message()),
              AllOf(HasSubstr("num_kv_shared_layers is 5"), HasSubstr("full_attention")));
}

TEST(GemmaConfig, RefusesWhatWouldChangeTheComputation) {
  const std::pair<const char*, json> of_both[] = {
      {"attention_bias", true},
      {"hidden_activation", "gelu"},
      {"attn_logit_softcapping", 50.0},
      {"use_bidirectional_attention", true},
      {"use_bidirectional_attention", "all"},
      {"quantization_config", {{"quant_method", "gptq"}}},
      {"layer_types", std::vector<std::string>(6, "chunked_attention")},
      {"rope_parameters", {{"full_attention", {{"rope_type", "yarn"}}}}},
      {"rope_parameters", {{"sliding_attention", {{"partial_rotary_factor", 0.5}}}}},
  };
  for (const auto& [field, value] : of_both) {
    for (json config : {With(Gemma3(), "num_hidden_layers", 6), Gemma4()}) {
      const absl::Status status = StatusOf(With(config, field, value));
      EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << field << ": " << status;
      EXPECT_THAT(std::string(status.message()), StartsWith("dir/config.json: "));
    }
  }
  const std::pair<const char*, json> of_gemma4[] = {
      {"enable_moe_block", true},
      {"hidden_size_per_layer_input", 256},
      {"hidden_size_per_layer_input", nullptr},  // means 256
      {"per_layer_config", {{"0", {{"num_attention_heads", 8}}}}},
      {"per_layer_config", {{"0", {{"head_dim", 32}}}}},  // another than in the other sliding layers
  };
  for (const auto& [field, value] : of_gemma4) {
    const absl::Status status = StatusOf(With(Gemma4(), field, value));
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << field << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
  }
  EXPECT_TRUE(StatusOf(With(Gemma4(), "use_bidirectional_attention", "vision")).ok());
}

TEST(GemmaConfig, RefusesFieldsOutOfRangeByName) {
  struct Case {
    const char* field;
    json value;
    const char* message;
  };
  const Case of_both[] = {
      {"num_hidden_layers", 1000000000, "num_hidden_layers is 1000000000"},
      {"num_hidden_layers", 0, "num_hidden_layers is 0"},
      {"num_attention_heads", 0, "num_attention_heads is 0"},
      {"num_attention_heads", 3, "num_attention_heads 3 is no multiple"},
      {"num_key_value_heads", 0, "num_key_value_heads is 0"},
      {"head_dim", 0, "head_dim is 0"},
      {"head_dim", 15, "head_dim is 15"},
      {"head_dim", -16, "head_dim is -16"},
      {"sliding_window", 0, "sliding_window is 0"},
      {"sliding_window", -8, "sliding_window is -8"},
      {"sliding_window", int64_t{1} << 40, "sliding_window is 1099511627776"},
      {"sliding_window", 8.5, "sliding_window is no integer"},
      {"sliding_window", "8", "sliding_window is no integer"},
      {"layer_types", {"full_attention"}, "layer_types has 1 entries"},
      {"layer_types", "full_attention", "layer_types is no list"},
      {"layer_types", std::vector<int>(6, 1), "layer_types is no string"},
      {"sliding_window_pattern", 0, "sliding_window_pattern is 0"},
      {"final_logit_softcapping", 0.0, "final_logit_softcapping is 0"},
      {"final_logit_softcapping", -30.0, "final_logit_softcapping is -30"},
      {"final_logit_softcapping", "30", "final_logit_softcapping is no number"},
      {"rms_norm_eps", 0.0, "rms_norm_eps"},
      {"rope_parameters", {1}, "rope_parameters is no object"},
      {"rope_parameters", {{"full_attention", 3}}, "rope_parameters.full_attention is no object"},
      {"rope_parameters", {{"full_attention", {{"rope_theta", 0.0}}}}, "rope_theta"},
      {"rope_parameters", {{"sliding_attention", {{"rope_type", "linear"}}}}, "factor is missing"},
      {"rope_parameters",
       {{"full_attention", {{"rope_type", "linear"}, {"factor", 0.0}}}},
       "rope factor is 0"},
      {"rope_parameters",
       {{"full_attention", {{"rope_type", "proportional"}, {"partial_rotary_factor", 1.5}}}},
       "partial_rotary_factor is 1.5"},
  };
  const Case of_gemma3[] = {
      {"query_pre_attn_scalar", 0, "query_pre_attn_scalar is 0"},
      {"query_pre_attn_scalar", -1, "query_pre_attn_scalar is -1"},
      {"query_pre_attn_scalar", "x", "query_pre_attn_scalar is no number"},
      {"rope_scaling", {1}, "rope_scaling is no object"},
      {"rope_local_base_freq", 0.0, "rope_theta is 0"},
  };
  const Case of_gemma4[] = {
      {"sliding_window", nullptr, "sliding_window is missing"},
      {"global_head_dim", 0, "global_head_dim is 0"},
      {"global_head_dim", 2048, "global_head_dim is 2048"},
      {"num_global_key_value_heads", 0, "num_global_key_value_heads is 0"},
      {"num_kv_shared_layers", -1, "num_kv_shared_layers is -1"},
      {"num_kv_shared_layers", 6, "num_kv_shared_layers is 6"},
      {"per_layer_config", {1}, "per_layer_config is no object"},
      {"per_layer_config", {{"6", json::object()}}, "per_layer_config names layer `6`"},
      {"per_layer_config", {{"-1", json::object()}}, "per_layer_config names layer `-1`"},
      {"per_layer_config", {{"5", 1}}, "per_layer_config.5 is no object"},
      {"per_layer_config", {{"5", {{"head_dim", "x"}}}}, "per_layer_config.5.head_dim is no integer"},
      {"per_layer_config", {{"5", {{"head_dim", 0}}}}, "full_attention layers: head_dim is 0"},
  };
  const auto check = [](const json& base, const Case& c) {
    const absl::Status status = StatusOf(With(base, c.field, c.value));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument)
        << c.field << " = " << c.value << ": " << status;
    EXPECT_THAT(std::string(status.message()), AllOf(StartsWith("dir/config.json: "), HasSubstr(c.message)));
  };
  for (const Case& c : of_both) {
    check(With(Gemma3(), "num_hidden_layers", 6), c);
    check(Gemma4(), c);
  }
  for (const Case& c : of_gemma3) check(Gemma3(), c);
  for (const Case& c : of_gemma4) check(Gemma4(), c);
}

TEST(GemmaConfig, NamesTheTextConfigOfAMultimodalModel) {
  json text = Gemma4();
  text["model_type"] = "gemma4_unified_text";
  const json unified = {{"model_type", "gemma4_unified"}, {"text_config", text}};
  EXPECT_TRUE(StatusOf(unified).ok()) << StatusOf(unified);
  json changed = unified;
  changed["text_config"]["num_attention_heads"] = "four";
  EXPECT_EQ(StatusOf(changed).message(), "dir/config.json: text_config: num_attention_heads is no integer");
  changed["text_config"] = 3;
  EXPECT_EQ(StatusOf(changed).message(), "dir/config.json: text_config is no object");
  changed.erase("text_config");
  EXPECT_EQ(StatusOf(changed).message(), "dir/config.json: text_config is missing");
}

}  // namespace
}  // namespace tandem::formats
