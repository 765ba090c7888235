// What a model's files say about its shape: one struct for Hugging Face config.json and GGUF metadata.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::formats {

enum class ModelFamily { kLlama, kQwen3 };
const char* ModelFamilyName(ModelFamily family);

// Rotary embedding. Pairs are (j, j + head_dim/2).
struct RopeConfig {
  double theta = 10000.0;
  // "llama3" scaling (transformers' rope_type): wavelengths above original_context / low_freq_factor are
  // stretched by `factor`, those below original_context / high_freq_factor kept, those between interpolated.
  struct Llama3 {
    double factor, low_freq_factor, high_freq_factor;
    int64_t original_context;
  };
  std::optional<Llama3> llama3;
  // GGUF's rope_freqs.weight [head_dim/2]: each inverse frequency is divided by its factor. Empty = none.
  std::vector<float> inverse_frequency_divisors;
};

// Every field is checked by the loader: counts within [1, limit], heads a multiple of kv_heads, finite
// numbers.
struct ModelConfig {
  ModelFamily family = ModelFamily::kLlama;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position = 0;  // context the model was trained for, in tokens
  float rms_norm_eps = 0;
  bool tie_word_embeddings = false;
  RopeConfig rope;
  std::optional<int32_t> bos_token_id;
  std::vector<int32_t>
      eos_token_ids;  // every id that ends generation, from config.json and generation_config.json
};

// From the text of config.json (and generation_config.json, empty if there is none). `path` names the file in
// errors. Old and new spellings (rope_theta, rope_scaling | rope_parameters) are accepted. kUnimplemented
// names a model type that is not supported; kInvalidArgument a field out of range.
absl::StatusOr<ModelConfig> ParseHuggingFaceConfig(const std::string& config_json,
                                                   const std::string& generation_config_json,
                                                   const std::string& path);

}  // namespace tandem::formats
