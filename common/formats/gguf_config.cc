#include "common/formats/gguf_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/status.h"
#include "common/formats/model_limits.h"
#include "common/formats/quoted.h"

namespace tandem::formats {
namespace {

// Absent is no error, another type is one.
absl::StatusOr<int64_t> IntOr(const GgufFile& file, const std::string& key, int64_t absent) {
  return file.metadata().contains(key) ? file.GetInt(key) : absent;
}
absl::StatusOr<double> FloatOr(const GgufFile& file, const std::string& key, double absent) {
  return file.metadata().contains(key) ? file.GetFloat(key) : absent;
}
absl::StatusOr<std::string> StringOr(const GgufFile& file, const std::string& key, const char* absent) {
  return file.metadata().contains(key) ? file.GetString(key) : absent;
}

constexpr ModelFamily kFamilies[] = {ModelFamily::kLlama, ModelFamily::kQwen2, ModelFamily::kQwen3,
                                     ModelFamily::kGemma3};

absl::StatusOr<ModelFamily> FamilyOf(const GgufFile& file) {
  ASSIGN_OR_RETURN(const std::string architecture, file.GetString("general.architecture"));
  std::vector<std::string> known;
  for (const ModelFamily family : kFamilies) {
    if (architecture == ModelFamilyName(family)) return family;
    known.emplace_back(ModelFamilyName(family));
  }
  return Unimplemented("model type {} is not supported in GGUF files; {} are", Quoted(architecture),
                       fmt::join(known, ", "));
}

// Whatever changes the computation and is not built is refused (see ParseHuggingFaceConfig).
absl::Status RefuseUnsupported(const GgufFile& file, const std::string& prefix, int64_t head_dim) {
  ASSIGN_OR_RETURN(const int64_t value_length, IntOr(file, prefix + "attention.value_length", head_dim));
  if (value_length != head_dim) {
    return Unimplemented("attention.value_length {} besides attention.key_length {} is not supported",
                         value_length, head_dim);
  }
  ASSIGN_OR_RETURN(const int64_t rotated, IntOr(file, prefix + "rope.dimension_count", head_dim));
  if (rotated != head_dim) {
    return Unimplemented("rope.dimension_count {} is not supported; the head size {} is", rotated, head_dim);
  }
  ASSIGN_OR_RETURN(const double linear, FloatOr(file, prefix + "rope.scale_linear", 1.0));
  if (linear != 1.0) return Unimplemented("rope.scale_linear {} is not supported", linear);
  ASSIGN_OR_RETURN(const int64_t num_experts, IntOr(file, prefix + "expert_count", 0));
  if (num_experts != 0)
    return Unimplemented("{}expert_count is {}, which is not supported", prefix, num_experts);
  ASSIGN_OR_RETURN(const double cap, FloatOr(file, prefix + "attn_logit_softcapping", 0.0));
  if (cap != 0) return Unimplemented("{}attn_logit_softcapping is {}, which is not supported", prefix, cap);
  ASSIGN_OR_RETURN(const int64_t num_parts, IntOr(file, "split.count", 1));
  if (num_parts > 1) return Unimplemented("is one of {} parts; join them into one file", num_parts);
  return absl::OkStatus();
}

// The rows of the embedding where no key says it. CheckpointTensors checks the embedding's whole shape later.
absl::StatusOr<int64_t> VocabSize(const GgufFile& file, const std::string& prefix) {
  if (file.metadata().contains(prefix + "vocab_size")) return file.GetInt(prefix + "vocab_size");
  const auto embedding = file.tensors().find("token_embd.weight");
  if (embedding == file.tensors().end()) return InvalidArgument("tensor `token_embd.weight` is missing");
  return embedding->second.shape.front();
}

absl::StatusOr<std::vector<float>> RopeDivisors(const GgufFile& file, int64_t head_dim) {
  const auto found = file.tensors().find("rope_freqs.weight");
  if (found == file.tensors().end()) return std::vector<float>();
  const TensorView& tensor = found->second;
  if (tensor.dtype != DType::kF32 || tensor.shape != std::vector<int64_t>{head_dim / 2}) {
    return InvalidArgument("tensor `rope_freqs.weight` is {} {}, it must be F32 [{}]",
                           DTypeName(tensor.dtype), ShapeText(tensor.shape), head_dim / 2);
  }
  std::vector<float> divisors(tensor.num_elements());
  Dequantize(tensor.dtype, tensor.data, divisors);
  return divisors;
}

absl::StatusOr<std::optional<int32_t>> TokenId(const GgufFile& file, const std::string& key) {
  if (!file.metadata().contains(key)) return std::optional<int32_t>();
  ASSIGN_OR_RETURN(const int64_t id, file.GetInt(key));
  if (id < 0 || id > std::numeric_limits<int32_t>::max())
    return InvalidArgument("metadata {} is {}", Quoted(key), id);
  return std::optional<int32_t>(static_cast<int32_t>(id));
}

// Ends of turns and texts, by name: a file's eos key names but one of them, and programs are expected to know
// the others (Qwen's generation_config.json, which is not part of a GGUF file, lists both of its own).
bool EndsGeneration(std::string_view token) {
  constexpr std::string_view kEnds[] = {"<|im_end|>", "<|endoftext|>",   "<|eot_id|>",
                                        "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>"};
  return std::find(std::begin(kEnds), std::end(kEnds), token) != std::end(kEnds);
}

void AppendEndsByName(const GgufFile& file, std::vector<int32_t>& ids) {
  constexpr int64_t kControl = 3, kUserDefined = 4;  // of tokenizer.ggml.token_type
  const std::vector<std::string>* tokens = file.GetStrings("tokenizer.ggml.tokens");
  const std::vector<int64_t>* types = file.GetInts("tokenizer.ggml.token_type");
  if (tokens == nullptr || types == nullptr) return;
  for (size_t id = 0; id < std::min(tokens->size(), types->size()); ++id) {
    if ((*types)[id] != kControl && (*types)[id] != kUserDefined) continue;
    const auto end = static_cast<int32_t>(id);
    if (EndsGeneration((*tokens)[id]) && std::find(ids.begin(), ids.end(), end) == ids.end()) {
      ids.push_back(end);
    }
  }
}

absl::Status ReadTokenIds(const GgufFile& file, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.bos_token_id, TokenId(file, "tokenizer.ggml.bos_token_id"));
  // Text, turn and message end: each of them ends generation.
  for (const char* kind : {"eos", "eot", "eom"}) {
    ASSIGN_OR_RETURN(const std::optional<int32_t> id,
                     TokenId(file, fmt::format("tokenizer.ggml.{}_token_id", kind)));
    auto& ids = config.eos_token_ids;
    if (id.has_value() && std::find(ids.begin(), ids.end(), *id) == ids.end()) ids.push_back(*id);
  }
  const std::vector<std::string>* tokens = file.GetStrings("tokenizer.ggml.tokens");
  if (tokens != nullptr && std::cmp_greater(tokens->size(), config.vocab_size)) {
    return InvalidArgument("tokenizer.ggml.tokens has {} tokens, the model {}", tokens->size(),
                           config.vocab_size);
  }
  AppendEndsByName(file, config.eos_token_ids);
  return absl::OkStatus();
}

absl::Status ReadAttention(const GgufFile& file, const std::string& prefix, ModelConfig& config) {
  AttentionConfig& attention = config.attention;
  ASSIGN_OR_RETURN(attention.num_kv_heads, IntOr(file, prefix + "attention.head_count_kv", config.num_heads));
  ASSIGN_OR_RETURN(attention.rope.theta, FloatOr(file, prefix + "rope.freq_base", 10000.0));
  if (file.metadata().contains(prefix + "attention.key_length")) {
    ASSIGN_OR_RETURN(attention.head_dim, file.GetInt(prefix + "attention.key_length"));
    return absl::OkStatus();
  }
  if (config.num_heads < 1 || config.hidden_size % config.num_heads != 0) {
    return InvalidArgument("{}embedding_length {} is no multiple of attention.head_count {}", prefix,
                           config.hidden_size, config.num_heads);
  }
  attention.head_dim = config.hidden_size / config.num_heads;
  return absl::OkStatus();
}

absl::Status ReadLlamaFields(const GgufFile& file, const std::string& prefix, ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::string scaling, StringOr(file, prefix + "rope.scaling.type", "none"));
  if (scaling != "none") return Unimplemented("rope scaling {} is not supported", Quoted(scaling));
  ASSIGN_OR_RETURN(const int64_t window, IntOr(file, prefix + "attention.sliding_window", 0));
  if (window != 0) {
    return Unimplemented("{}attention.sliding_window is {}, which is not supported", prefix, window);
  }
  config.attention_scale = 1.0f / std::sqrt(static_cast<float>(config.attention.head_dim));
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    config.layers.push_back({.intermediate_size = config.intermediate_size, .kv_layer = layer});
  }
  if (config.family == ModelFamily::kLlama) {
    ASSIGN_OR_RETURN(config.attention.rope.inverse_frequency_divisors,
                     RopeDivisors(file, config.attention.head_dim));
  }
  return absl::OkStatus();
}

// What files of gemma3 do not say follows from the family: which layers see everything, the rotary base of
// the others, the query scale, the scaled embedding.
absl::Status ReadGemma3Fields(const GgufFile& file, const std::string& prefix, ModelConfig& config) {
  constexpr int64_t kLayersOf27B = 62;  // the one with another query scale
  config.sliding_attention = config.attention;
  AttentionConfig& sliding = config.sliding_attention;
  ASSIGN_OR_RETURN(sliding.rope.theta, FloatOr(file, prefix + "rope.freq_base_swa", 10000.0));
  ASSIGN_OR_RETURN(sliding.window, file.GetInt(prefix + "attention.sliding_window"));
  RETURN_IF_ERROR(CheckCount("attention.sliding_window", sliding.window, kMaxContext));
  ASSIGN_OR_RETURN(const int64_t pattern, IntOr(file, prefix + "attention.sliding_window_pattern", 6));
  RETURN_IF_ERROR(CheckCount("attention.sliding_window_pattern", pattern, kMaxLayers));
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    config.layers.push_back({(layer + 1) % pattern != 0, config.intermediate_size, layer});
  }
  ASSIGN_OR_RETURN(const std::string scaling, StringOr(file, prefix + "rope.scaling.type", "none"));
  if (scaling != "none" && scaling != "linear") {
    return Unimplemented("rope scaling {} is not supported; none and linear are", Quoted(scaling));
  }
  if (scaling == "linear") {
    ASSIGN_OR_RETURN(config.attention.rope.linear_factor, file.GetFloat(prefix + "rope.scaling.factor"));
  }
  const int64_t scalar =
      config.num_layers == kLayersOf27B ? config.hidden_size / config.num_heads : config.attention.head_dim;
  config.attention_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(scalar)));
  ASSIGN_OR_RETURN(const double cap, FloatOr(file, prefix + "final_logit_softcapping", 0.0));
  if (!std::isfinite(cap) || cap < 0) {
    return InvalidArgument("{}final_logit_softcapping is {}, it must be finite and not below 0", prefix, cap);
  }
  config.logit_softcap = static_cast<float>(cap);
  config.embedding_scale = std::sqrt(static_cast<float>(config.hidden_size));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file) {
  ModelConfig config;
  ASSIGN_OR_RETURN(config.family, FamilyOf(file));
  const std::string prefix = std::string(ModelFamilyName(config.family)) + ".";
  ASSIGN_OR_RETURN(config.vocab_size, VocabSize(file, prefix));
  ASSIGN_OR_RETURN(config.hidden_size, file.GetInt(prefix + "embedding_length"));
  ASSIGN_OR_RETURN(config.intermediate_size, file.GetInt(prefix + "feed_forward_length"));
  ASSIGN_OR_RETURN(config.num_layers, file.GetInt(prefix + "block_count"));
  ASSIGN_OR_RETURN(config.num_heads, file.GetInt(prefix + "attention.head_count"));
  ASSIGN_OR_RETURN(config.max_position, file.GetInt(prefix + "context_length"));
  ASSIGN_OR_RETURN(const double eps, file.GetFloat(prefix + "attention.layer_norm_rms_epsilon"));
  config.rms_norm_eps = static_cast<float>(eps);
  config.tie_word_embeddings = !file.tensors().contains("output.weight");
  // Counts that are divided by, or that lists are made of, before everything is checked.
  RETURN_IF_ERROR(CheckCount("block_count", config.num_layers, kMaxLayers));
  RETURN_IF_ERROR(CheckCount("attention.head_count", config.num_heads, kMaxHeads));
  RETURN_IF_ERROR(ReadAttention(file, prefix, config));
  RETURN_IF_ERROR(CheckCount("attention.key_length", config.attention.head_dim, kMaxHeadDim));
  RETURN_IF_ERROR(RefuseUnsupported(file, prefix, config.attention.head_dim));
  RETURN_IF_ERROR(config.family == ModelFamily::kGemma3 ? ReadGemma3Fields(file, prefix, config)
                                                        : ReadLlamaFields(file, prefix, config));
  RETURN_IF_ERROR(ReadTokenIds(file, config));
  RETURN_IF_ERROR(CheckModelConfig(config));
  return config;
}

}  // namespace tandem::formats
