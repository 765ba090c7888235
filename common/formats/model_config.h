// What a model's files say about its shape: one struct for Hugging Face config.json and GGUF metadata.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/formats/model_family.h"

namespace tandem::formats {

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
  // "linear" scaling: every position, hence every frequency, is divided by it.
  double linear_factor = 1.0;
  // "proportional": only the first of the pairs turn, floor(rotated_share * head_dim / 2) of them; the
  // frequencies are those of the whole head.
  double rotated_share = 1.0;
  // GGUF's rope_freqs.weight [head_dim/2]: each inverse frequency is divided by its factor. Empty = none.
  std::vector<float> inverse_frequency_divisors;
};

// How one kind of layer attends.
struct AttentionConfig {
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  RopeConfig rope;
  int64_t window = 0;         // a position sees so many, itself the last; 0 = all before it
  bool value_is_key = false;  // no v_proj: the value is what k_proj gives
};

struct LayerConfig {
  bool sliding = false;  // attends as sliding_attention says
  int64_t intermediate_size = 0;
  // Whose K and V the layer reads: its own, or those of an earlier layer of the same kind; it then has no
  // k_proj and v_proj.
  int64_t kv_layer = 0;
};

// Every field is checked by the loader: counts within [1, limit], heads a multiple of kv_heads, finite
// numbers.
struct ModelConfig {
  ModelFamily family = ModelFamily::kLlama;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  // of layers that do not say otherwise
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t max_position = 0;           // context the model was trained for, in tokens
  AttentionConfig attention;          // of layers that see all positions before theirs
  AttentionConfig sliding_attention;  // of the others, if there are any
  float attention_scale = 0;          // of q * k
  std::vector<LayerConfig> layers;    // [num_layers]
  float rms_norm_eps = 0;
  float embedding_scale = 1;  // what enters the first layer is the embedding times this
  float logit_softcap = 0;    // logits become c * tanh(logits / c); 0 = they stay
  bool tie_word_embeddings = false;
  std::optional<int32_t> bos_token_id;
  // Every id that ends generation: of config.json, generation_config.json and tokenizer_config.json, or of
  // GGUF.
  std::vector<int32_t> eos_token_ids;

  const FamilyTraits& traits() const { return TraitsOf(family); }
  const AttentionConfig& AttentionOf(int64_t layer) const {
    return layers[layer].sliding ? sliding_attention : attention;
  }
  bool HasOwnKv(int64_t layer) const { return layers[layer].kv_layer == layer; }
};

// From the text of config.json (and generation_config.json, empty if there is none). `path` names the file in
// errors. Old and new spellings (rope_theta, rope_scaling | rope_parameters) are accepted; of a multimodal
// model (text_config) the text model counts. kUnimplemented names a model type that is not supported;
// kInvalidArgument a field out of range.
absl::StatusOr<ModelConfig> ParseHuggingFaceConfig(const std::string& config_json,
                                                   const std::string& generation_config_json,
                                                   const std::string& path);

}  // namespace tandem::formats
