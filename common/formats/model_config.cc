#include "common/formats/model_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "common/base/status.h"
#include "common/formats/config_fields.h"
#include "common/formats/gemma_config.h"
#include "common/formats/json.h"
#include "common/formats/model_limits.h"
#include "common/formats/quoted.h"

namespace tandem::formats {
namespace {

using nlohmann::json;

absl::StatusOr<int32_t> ToTokenId(const json& value, const char* field) {
  ASSIGN_OR_RETURN(const int64_t id, ToInt(value, field));
  if (id < 0 || id > std::numeric_limits<int32_t>::max()) return InvalidArgument("{} is {}", field, id);
  return static_cast<int32_t>(id);
}

struct ModelType {
  const char* name;
  ModelFamily family;
  bool multimodal = false;  // the text model's fields are in text_config
};
constexpr ModelType kModelTypes[] = {
    {"llama", ModelFamily::kLlama},
    {"qwen2", ModelFamily::kQwen2},
    {"qwen3", ModelFamily::kQwen3},
    {"gemma3", ModelFamily::kGemma3, true},
    {"gemma3_text", ModelFamily::kGemma3},
    {"gemma4", ModelFamily::kGemma4, true},
    {"gemma4_text", ModelFamily::kGemma4},
    {"gemma4_unified", ModelFamily::kGemma4, true},
    {"gemma4_unified_text", ModelFamily::kGemma4},
};

absl::StatusOr<ModelType> ParseModelType(const json& config) {
  const json* type = FindField(config, "model_type");
  if (type == nullptr) return InvalidArgument("model_type is missing");
  if (!type->is_string()) return WrongFieldType("model_type", "string");
  const std::string& name = type->get_ref<const std::string&>();
  std::vector<std::string> known;
  for (const ModelType& known_type : kModelTypes) {
    if (name == known_type.name) return known_type;
    known.emplace_back(known_type.name);
  }
  return Unimplemented("model type {} is not supported; {} are", Quoted(name), fmt::join(known, ", "));
}

// Whatever changes the computation and is not built is refused: a model half understood would speak nonsense.
absl::Status RefuseUnsupported(const json& config) {
  for (const char* field : {"attention_bias", "mlp_bias", "use_sliding_window", "rope_interleaved"}) {
    ASSIGN_OR_RETURN(const bool set, BoolOr(config, field, false));
    if (set) return Unimplemented("{} is true, which is not supported", field);
  }
  ASSIGN_OR_RETURN(const std::string activation, StringOr(config, "hidden_act", "silu"));
  if (activation != "silu")
    return Unimplemented("hidden_act {} is not supported; silu is", Quoted(activation));
  const json* layer_types = FindField(config, "layer_types");
  if (layer_types == nullptr) return absl::OkStatus();
  if (!layer_types->is_array()) return WrongFieldType("layer_types", "list");
  ASSIGN_OR_RETURN(const int64_t num_layers, RequiredInt(config, "num_hidden_layers"));
  if (std::cmp_not_equal(layer_types->size(), num_layers)) {
    return InvalidArgument("layer_types has {} entries, num_hidden_layers is {}", layer_types->size(),
                           num_layers);
  }
  for (const json& type : *layer_types) {
    if (!type.is_string()) return WrongFieldType("an entry of layer_types", "string");
    const std::string& name = type.get_ref<const std::string&>();
    if (name != "full_attention") return Unimplemented("layer type {} is not supported", Quoted(name));
  }
  return absl::OkStatus();
}

// rope_scaling (until transformers 4) and rope_parameters (since 5) are one object under two names.
absl::StatusOr<const json*> FindRopeParameters(const json& config) {
  const json* old_name = FindField(config, "rope_scaling");
  const json* new_name = FindField(config, "rope_parameters");
  if (old_name != nullptr && new_name != nullptr && *old_name != *new_name) {
    return InvalidArgument("rope_scaling and rope_parameters contradict each other");
  }
  const json* parameters = new_name != nullptr ? new_name : old_name;
  if (parameters != nullptr && !parameters->is_object()) {
    return WrongFieldType(new_name != nullptr ? "rope_parameters" : "rope_scaling", "object");
  }
  return parameters;
}

absl::StatusOr<RopeConfig> ParseRope(const json& config, int64_t max_position) {
  RopeConfig rope;
  ASSIGN_OR_RETURN(const json* parameters, FindRopeParameters(config));
  const bool theta_inside = parameters != nullptr && FindField(*parameters, "rope_theta") != nullptr;
  if (theta_inside || FindField(config, "rope_theta") != nullptr) {
    ASSIGN_OR_RETURN(rope.theta, RequiredNumber(theta_inside ? *parameters : config, "rope_theta"));
  }
  for (const json* object : {&config, parameters}) {
    if (object == nullptr || FindField(*object, "partial_rotary_factor") == nullptr) continue;
    ASSIGN_OR_RETURN(const double share, RequiredNumber(*object, "partial_rotary_factor"));
    if (share != 1.0) return Unimplemented("partial_rotary_factor {} is not supported; 1 is", share);
  }
  if (parameters == nullptr) return rope;

  ASSIGN_OR_RETURN(const std::string old_type, StringOr(*parameters, "type", "default"));
  ASSIGN_OR_RETURN(const std::string type, StringOr(*parameters, "rope_type", old_type.c_str()));
  if (type == "default") return rope;
  if (type != "llama3")
    return Unimplemented("rope type {} is not supported; default and llama3 are", Quoted(type));
  RopeConfig::Llama3 scaling;
  ASSIGN_OR_RETURN(scaling.factor, RequiredNumber(*parameters, "factor"));
  ASSIGN_OR_RETURN(scaling.low_freq_factor, RequiredNumber(*parameters, "low_freq_factor"));
  ASSIGN_OR_RETURN(scaling.high_freq_factor, RequiredNumber(*parameters, "high_freq_factor"));
  ASSIGN_OR_RETURN(const int64_t outer, IntOr(config, "original_max_position_embeddings", max_position));
  ASSIGN_OR_RETURN(scaling.original_context, IntOr(*parameters, "original_max_position_embeddings", outer));
  rope.llama3 = scaling;
  return rope;
}

// Appends the ids of eos_token_id (an integer, a list, or null) that are not there yet.
absl::Status AppendEosIds(const json& object, std::vector<int32_t>& ids) {
  constexpr size_t kMaxEosIds = 1024;
  const json* value = FindField(object, "eos_token_id");
  if (value == nullptr) return absl::OkStatus();
  const json list = value->is_array() ? *value : json::array({*value});
  if (list.size() > kMaxEosIds) {
    return InvalidArgument("eos_token_id has {} ids, the limit is {}", list.size(), kMaxEosIds);
  }
  for (const json& item : list) {
    ASSIGN_OR_RETURN(const int32_t id, ToTokenId(item, "eos_token_id"));
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return absl::OkStatus();
}

// The fields of Llama and Qwen beside those that all families share.
absl::Status ReadLlamaFields(const json& text, ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnsupported(text));
  AttentionConfig& attention = config.attention;
  ASSIGN_OR_RETURN(attention.num_kv_heads, IntOr(text, "num_key_value_heads", config.num_heads));
  // Without the field, transformers takes 128 for Qwen3 and divides for the others.
  if (FindField(text, "head_dim") != nullptr) {
    ASSIGN_OR_RETURN(attention.head_dim, RequiredInt(text, "head_dim"));
  } else if (config.family == ModelFamily::kQwen3) {
    attention.head_dim = 128;
  } else {
    if (config.num_heads < 1 || config.hidden_size % config.num_heads != 0) {
      return InvalidArgument(
          "hidden_size {} is no multiple of num_attention_heads {} and head_dim is missing",
          config.hidden_size, config.num_heads);
    }
    attention.head_dim = config.hidden_size / config.num_heads;
  }
  config.attention_scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim));
  ASSIGN_OR_RETURN(attention.rope, ParseRope(text, config.max_position));
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    config.layers.push_back({.intermediate_size = config.intermediate_size, .kv_layer = layer});
  }
  return absl::OkStatus();
}

// Without these fields transformers has the values of Gemma3's 4B, whose file leaves them out.
struct SizeDefaults {
  int64_t vocab_size = 262208, num_heads = 8, max_position = 131072;
  double eps = 1e-6;
};

absl::Status ReadSizes(const json& text, ModelConfig& config) {
  const bool has_defaults = config.family == ModelFamily::kGemma3;
  const SizeDefaults defaults;
  const auto size = [&](const char* field, int64_t absent) {
    return has_defaults ? IntOr(text, field, absent) : RequiredInt(text, field);
  };
  ASSIGN_OR_RETURN(config.vocab_size, size("vocab_size", defaults.vocab_size));
  ASSIGN_OR_RETURN(config.hidden_size, RequiredInt(text, "hidden_size"));
  ASSIGN_OR_RETURN(config.intermediate_size, RequiredInt(text, "intermediate_size"));
  ASSIGN_OR_RETURN(config.num_layers, RequiredInt(text, "num_hidden_layers"));
  ASSIGN_OR_RETURN(config.num_heads, size("num_attention_heads", defaults.num_heads));
  ASSIGN_OR_RETURN(config.max_position, size("max_position_embeddings", defaults.max_position));
  ASSIGN_OR_RETURN(const double eps, has_defaults ? NumberOr(text, "rms_norm_eps", defaults.eps)
                                                  : RequiredNumber(text, "rms_norm_eps"));
  config.rms_norm_eps = static_cast<float>(eps);
  // Counts that loops and lists depend on before everything is checked.
  RETURN_IF_ERROR(CheckCount("num_hidden_layers", config.num_layers, kMaxLayers));
  return CheckCount("intermediate_size", config.intermediate_size, kMaxIntermediate);
}

absl::Status ReadText(const json& text, ModelConfig& config) {
  RETURN_IF_ERROR(ReadSizes(text, config));
  const bool gemma = config.family == ModelFamily::kGemma3 || config.family == ModelFamily::kGemma4;
  RETURN_IF_ERROR(gemma ? ReadGemmaFields(text, config) : ReadLlamaFields(text, config));
  if (config.traits().scaled_embedding) {
    config.embedding_scale = std::sqrt(static_cast<float>(config.hidden_size));
  }
  if (const json* bos = FindField(text, "bos_token_id"); bos != nullptr) {
    ASSIGN_OR_RETURN(config.bos_token_id, ToTokenId(*bos, "bos_token_id"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> FromJson(const json& object) {
  ModelConfig config;
  ASSIGN_OR_RETURN(const ModelType type, ParseModelType(object));
  config.family = type.family;
  if (FindField(object, "quantization_config") != nullptr) {
    return Unimplemented("quantization_config: quantised safetensors are not supported; GGUF files are");
  }
  ASSIGN_OR_RETURN(config.tie_word_embeddings,
                   BoolOr(object, "tie_word_embeddings", config.traits().scaled_embedding));
  if (!type.multimodal) {
    RETURN_IF_ERROR(ReadText(object, config));
  } else {
    const json* text = FindField(object, "text_config");
    if (text == nullptr) return InvalidArgument("text_config is missing");
    if (!text->is_object()) return WrongFieldType("text_config", "object");
    RETURN_IF_ERROR(Annotate(ReadText(*text, config), "text_config"));
  }
  // The outer ids first: of a multimodal model they are all that end a turn.
  RETURN_IF_ERROR(AppendEosIds(object, config.eos_token_ids));
  if (type.multimodal) {
    RETURN_IF_ERROR(Annotate(AppendEosIds(object["text_config"], config.eos_token_ids), "text_config"));
  }
  return config;
}

absl::StatusOr<json> ParseObject(const std::string& text) {
  ASSIGN_OR_RETURN(json object, ParseJson(text));
  if (!object.is_object()) return InvalidArgument("is no JSON object");
  return object;
}

absl::StatusOr<ModelConfig> Parse(const std::string& config_json, const std::string& generation_config_json) {
  ASSIGN_OR_RETURN(const json object, ParseObject(config_json));
  ASSIGN_OR_RETURN(ModelConfig config, FromJson(object));
  if (!generation_config_json.empty()) {
    auto generation = ParseObject(generation_config_json);
    if (!generation.ok()) return Annotate(generation.status(), "generation_config.json");
    const absl::Status added = AppendEosIds(*generation, config.eos_token_ids);
    if (!added.ok()) return Annotate(added, "generation_config.json");
  }
  RETURN_IF_ERROR(CheckModelConfig(config));
  return config;
}

}  // namespace

absl::StatusOr<ModelConfig> ParseHuggingFaceConfig(const std::string& config_json,
                                                   const std::string& generation_config_json,
                                                   const std::string& path) {
  auto config = Parse(config_json, generation_config_json);
  if (!config.ok()) return Annotate(config.status(), path);
  return config;
}

}  // namespace tandem::formats
