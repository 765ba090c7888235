#include "common/formats/model_config.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "common/base/status.h"
#include "common/formats/json.h"
#include "common/formats/model_limits.h"
#include "common/formats/quoted.h"

namespace tandem::formats {
namespace {

using nlohmann::json;

// The value of a field that is present and not null (published configs write null for "not set").
const json* Find(const json& object, const char* field) {
  const auto found = object.find(field);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

absl::Status WrongType(const char* field, const char* wanted) {
  return InvalidArgument("{} is no {}", field, wanted);
}

absl::StatusOr<int64_t> ToInt(const json& value, const char* field) {
  if (value.is_number_unsigned() && !std::in_range<int64_t>(value.get<uint64_t>())) {
    return InvalidArgument("{} is {}, above 2^63", field, value.get<uint64_t>());
  }
  if (!value.is_number_integer()) return WrongType(field, "integer");
  return value.get<int64_t>();
}

absl::StatusOr<int64_t> RequiredInt(const json& object, const char* field) {
  const json* value = Find(object, field);
  if (value == nullptr) return InvalidArgument("{} is missing", field);
  return ToInt(*value, field);
}

absl::StatusOr<int64_t> IntOr(const json& object, const char* field, int64_t absent) {
  const json* value = Find(object, field);
  if (value == nullptr) return absent;
  return ToInt(*value, field);
}

absl::StatusOr<double> RequiredNumber(const json& object, const char* field) {
  const json* value = Find(object, field);
  if (value == nullptr) return InvalidArgument("{} is missing", field);
  if (!value->is_number()) return WrongType(field, "number");
  return value->get<double>();
}

absl::StatusOr<bool> BoolOr(const json& object, const char* field, bool absent) {
  const json* value = Find(object, field);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) return WrongType(field, "truth value");
  return value->get<bool>();
}

absl::StatusOr<std::string> StringOr(const json& object, const char* field, const char* absent) {
  const json* value = Find(object, field);
  if (value == nullptr) return std::string(absent);
  if (!value->is_string()) return WrongType(field, "string");
  return value->get<std::string>();
}

absl::StatusOr<int32_t> ToTokenId(const json& value, const char* field) {
  ASSIGN_OR_RETURN(const int64_t id, ToInt(value, field));
  if (id < 0 || id > std::numeric_limits<int32_t>::max()) return InvalidArgument("{} is {}", field, id);
  return static_cast<int32_t>(id);
}

absl::StatusOr<ModelFamily> ParseFamily(const json& config) {
  const json* type = Find(config, "model_type");
  if (type == nullptr) return InvalidArgument("model_type is missing");
  if (!type->is_string()) return WrongType("model_type", "string");
  const std::string& name = type->get_ref<const std::string&>();
  for (const ModelFamily family : {ModelFamily::kLlama, ModelFamily::kQwen3}) {
    if (name == ModelFamilyName(family)) return family;
  }
  return Unimplemented("model type {} is not supported; llama and qwen3 are", Quoted(name));
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
  if (Find(config, "quantization_config") != nullptr) {
    return Unimplemented("quantization_config: quantised safetensors are not supported; GGUF files are");
  }
  const json* layer_types = Find(config, "layer_types");
  if (layer_types == nullptr) return absl::OkStatus();
  if (!layer_types->is_array()) return WrongType("layer_types", "list");
  ASSIGN_OR_RETURN(const int64_t num_layers, RequiredInt(config, "num_hidden_layers"));
  if (std::cmp_not_equal(layer_types->size(), num_layers)) {
    return InvalidArgument("layer_types has {} entries, num_hidden_layers is {}", layer_types->size(),
                           num_layers);
  }
  for (const json& type : *layer_types) {
    if (!type.is_string()) return WrongType("an entry of layer_types", "string");
    const std::string& name = type.get_ref<const std::string&>();
    if (name != "full_attention") return Unimplemented("layer type {} is not supported", Quoted(name));
  }
  return absl::OkStatus();
}

// rope_scaling (until transformers 4) and rope_parameters (since 5) are one object under two names.
absl::StatusOr<const json*> FindRopeParameters(const json& config) {
  const json* old_name = Find(config, "rope_scaling");
  const json* new_name = Find(config, "rope_parameters");
  if (old_name != nullptr && new_name != nullptr && *old_name != *new_name) {
    return InvalidArgument("rope_scaling and rope_parameters contradict each other");
  }
  const json* parameters = new_name != nullptr ? new_name : old_name;
  if (parameters != nullptr && !parameters->is_object()) {
    return WrongType(new_name != nullptr ? "rope_parameters" : "rope_scaling", "object");
  }
  return parameters;
}

absl::StatusOr<RopeConfig> ParseRope(const json& config, int64_t max_position) {
  RopeConfig rope;
  ASSIGN_OR_RETURN(const json* parameters, FindRopeParameters(config));
  const bool theta_inside = parameters != nullptr && Find(*parameters, "rope_theta") != nullptr;
  if (theta_inside || Find(config, "rope_theta") != nullptr) {
    ASSIGN_OR_RETURN(rope.theta, RequiredNumber(theta_inside ? *parameters : config, "rope_theta"));
  }
  for (const json* object : {&config, parameters}) {
    if (object == nullptr || Find(*object, "partial_rotary_factor") == nullptr) continue;
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
  const json* value = Find(object, "eos_token_id");
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

absl::StatusOr<ModelConfig> FromJson(const json& object) {
  ModelConfig config;
  ASSIGN_OR_RETURN(config.family, ParseFamily(object));
  RETURN_IF_ERROR(RefuseUnsupported(object));
  ASSIGN_OR_RETURN(config.vocab_size, RequiredInt(object, "vocab_size"));
  ASSIGN_OR_RETURN(config.hidden_size, RequiredInt(object, "hidden_size"));
  ASSIGN_OR_RETURN(config.intermediate_size, RequiredInt(object, "intermediate_size"));
  ASSIGN_OR_RETURN(config.num_layers, RequiredInt(object, "num_hidden_layers"));
  ASSIGN_OR_RETURN(config.num_heads, RequiredInt(object, "num_attention_heads"));
  ASSIGN_OR_RETURN(config.num_kv_heads, IntOr(object, "num_key_value_heads", config.num_heads));
  ASSIGN_OR_RETURN(config.max_position, RequiredInt(object, "max_position_embeddings"));
  ASSIGN_OR_RETURN(const double eps, RequiredNumber(object, "rms_norm_eps"));
  config.rms_norm_eps = static_cast<float>(eps);
  ASSIGN_OR_RETURN(config.tie_word_embeddings, BoolOr(object, "tie_word_embeddings", false));

  // Without the field, transformers takes 128 for Qwen3 and divides for Llama.
  if (Find(object, "head_dim") != nullptr) {
    ASSIGN_OR_RETURN(config.head_dim, RequiredInt(object, "head_dim"));
  } else if (config.family == ModelFamily::kQwen3) {
    config.head_dim = 128;
  } else {
    if (config.num_heads < 1 || config.hidden_size % config.num_heads != 0) {
      return InvalidArgument(
          "hidden_size {} is no multiple of num_attention_heads {} and head_dim is missing",
          config.hidden_size, config.num_heads);
    }
    config.head_dim = config.hidden_size / config.num_heads;
  }
  ASSIGN_OR_RETURN(config.rope, ParseRope(object, config.max_position));
  if (const json* bos = Find(object, "bos_token_id"); bos != nullptr) {
    ASSIGN_OR_RETURN(config.bos_token_id, ToTokenId(*bos, "bos_token_id"));
  }
  RETURN_IF_ERROR(AppendEosIds(object, config.eos_token_ids));
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

const char* ModelFamilyName(ModelFamily family) {
  switch (family) {
    case ModelFamily::kLlama:
      return "llama";
    case ModelFamily::kQwen3:
      return "qwen3";
  }
  TANDEM_CHECK(false);
}

absl::StatusOr<ModelConfig> ParseHuggingFaceConfig(const std::string& config_json,
                                                   const std::string& generation_config_json,
                                                   const std::string& path) {
  auto config = Parse(config_json, generation_config_json);
  if (!config.ok()) return Annotate(config.status(), path);
  return config;
}

}  // namespace tandem::formats
