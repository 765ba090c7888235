#include "common/formats/gemma_config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/formats/config_fields.h"
#include "common/formats/model_limits.h"
#include "common/formats/quoted.h"

namespace tandem::formats {
namespace {

using nlohmann::json;

constexpr const char* kFull = "full_attention";
constexpr const char* kSliding = "sliding_attention";
constexpr int64_t kUsualPattern = 6;  // every 6th layer sees everything
constexpr double kGlobalTheta = 1e6, kLocalTheta = 1e4;

// Whatever changes the computation and is not built is refused: a model half understood would speak nonsense.
absl::Status RefuseUnsupported(const json& text, ModelFamily family) {
  for (const char* field : {"attention_bias", "enable_moe_block"}) {
    ASSIGN_OR_RETURN(const bool set, BoolOr(text, field, false));
    if (set) return Unimplemented("{} is true, which is not supported", field);
  }
  for (const char* field : {"hidden_activation", "hidden_act"}) {
    ASSIGN_OR_RETURN(const std::string activation, StringOr(text, field, "gelu_pytorch_tanh"));
    if (activation != "gelu_pytorch_tanh") {
      return Unimplemented("{} {} is not supported; gelu_pytorch_tanh is", field, Quoted(activation));
    }
  }
  if (FindField(text, "attn_logit_softcapping") != nullptr) {
    return Unimplemented("attn_logit_softcapping is not supported");
  }
  // "vision" concerns images alone.
  const json* bidirectional = FindField(text, "use_bidirectional_attention");
  if (bidirectional != nullptr && *bidirectional != false && *bidirectional != "vision") {
    return Unimplemented("use_bidirectional_attention is {}, which is not supported", bidirectional->dump());
  }
  if (family != ModelFamily::kGemma4) return absl::OkStatus();
  // gemma4_unified has no such inputs and no such field; for others its absence means 256.
  ASSIGN_OR_RETURN(const std::string type, StringOr(text, "model_type", ""));
  ASSIGN_OR_RETURN(const int64_t per_layer,
                   IntOr(text, "hidden_size_per_layer_input", type.starts_with("gemma4_unified") ? 0 : 256));
  if (per_layer != 0) {
    return Unimplemented("hidden_size_per_layer_input is {}; only 0 is supported, no inputs per layer",
                         per_layer);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<bool>> ReadLayerTypes(const json& text, const ModelConfig& config) {
  std::vector<bool> sliding(config.num_layers);
  const json* types = FindField(text, "layer_types");
  if (types == nullptr) {
    ASSIGN_OR_RETURN(const int64_t pattern, IntOr(text, "sliding_window_pattern", kUsualPattern));
    RETURN_IF_ERROR(CheckCount("sliding_window_pattern", pattern, kMaxLayers));
    for (int64_t layer = 0; layer < config.num_layers; ++layer) sliding[layer] = (layer + 1) % pattern != 0;
  } else {
    if (!types->is_array()) return WrongFieldType("layer_types", "list");
    if (std::cmp_not_equal(types->size(), config.num_layers)) {
      return InvalidArgument("layer_types has {} entries, num_hidden_layers is {}", types->size(),
                             config.num_layers);
    }
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      const json& type = (*types)[layer];
      if (!type.is_string()) return WrongFieldType("an entry of layer_types", "string");
      const std::string& name = type.get_ref<const std::string&>();
      if (name != kFull && name != kSliding) {
        return Unimplemented("layer type {} is not supported; {} and {} are", Quoted(name), kFull, kSliding);
      }
      sliding[layer] = name == kSliding;
    }
  }
  // As transformers has it, whatever the list says.
  if (config.family == ModelFamily::kGemma4) sliding.back() = false;
  return sliding;
}

// One entry of rope_parameters, or an old rope_scaling, over `rope` as it is without.
absl::Status ReadRopeEntry(const json& entry, RopeConfig& rope) {
  ASSIGN_OR_RETURN(rope.theta, NumberOr(entry, "rope_theta", rope.theta));
  ASSIGN_OR_RETURN(const std::string old_type, StringOr(entry, "type", "default"));
  ASSIGN_OR_RETURN(const std::string type, StringOr(entry, "rope_type", old_type.c_str()));
  ASSIGN_OR_RETURN(const double share, NumberOr(entry, "partial_rotary_factor", 1.0));
  if (type == "proportional") {
    rope.rotated_share = share;
    ASSIGN_OR_RETURN(rope.linear_factor, NumberOr(entry, "factor", 1.0));
    return absl::OkStatus();
  }
  rope.rotated_share = 1.0;
  if (share != 1.0) {
    return Unimplemented("partial_rotary_factor {} with rope type {} is not supported", share, Quoted(type));
  }
  if (type == "linear") {
    ASSIGN_OR_RETURN(rope.linear_factor, RequiredNumber(entry, "factor"));
    return absl::OkStatus();
  }
  if (type == "default") return absl::OkStatus();
  return Unimplemented("rope type {} is not supported; default, linear and proportional are", Quoted(type));
}

// rope_parameters holds an entry for each kind of layer. Gemma3's older files have rope_theta and
// rope_scaling for the layers that see everything, and rope_local_base_freq for the others.
absl::Status ReadRope(const json& text, ModelConfig& config) {
  RopeConfig &global = config.attention.rope, &local = config.sliding_attention.rope;
  global.theta = kGlobalTheta;
  local.theta = kLocalTheta;
  const json* parameters = FindField(text, "rope_parameters");
  const json* scaling = nullptr;
  if (config.family == ModelFamily::kGemma4) {
    if (parameters == nullptr) global.rotated_share = 0.25;
  } else {
    ASSIGN_OR_RETURN(global.theta, NumberOr(text, "rope_theta", kGlobalTheta));
    ASSIGN_OR_RETURN(local.theta, NumberOr(text, "rope_local_base_freq", kLocalTheta));
    scaling = FindField(text, "rope_scaling");
  }
  if (scaling != nullptr && parameters != nullptr) {
    return InvalidArgument("rope_scaling and rope_parameters are both given");
  }
  if (scaling != nullptr) {
    if (!scaling->is_object()) return WrongFieldType("rope_scaling", "object");
    return Annotate(ReadRopeEntry(*scaling, global), "rope_scaling");
  }
  if (parameters == nullptr) return absl::OkStatus();
  if (!parameters->is_object()) return WrongFieldType("rope_parameters", "object");
  for (const auto& [name, rope] : {std::pair(kFull, &global), std::pair(kSliding, &local)}) {
    const json* entry = FindField(*parameters, name);
    if (entry == nullptr) continue;
    const std::string field = fmt::format("rope_parameters.{}", name);
    if (!entry->is_object()) return WrongFieldType(field, "object");
    RETURN_IF_ERROR(Annotate(ReadRopeEntry(*entry, *rope), field));
  }
  return absl::OkStatus();
}

// What layers say for themselves: per_layer_config {"<layer>": {"head_dim": .., "num_key_value_heads": ..}}.
// All layers of a kind must agree.
class LayerShapes {
 public:
  LayerShapes(const AttentionConfig& usual, int64_t num_layers)
      : shapes_(num_layers, {usual.num_kv_heads, usual.head_dim}) {}

  absl::Status ReadOverrides(const json& overrides) {
    if (!overrides.is_object()) return WrongFieldType("per_layer_config", "object");
    for (const auto& [key, entry] : overrides.items()) {
      size_t layer = 0;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), layer);
      if (error != std::errc() || end != key.data() + key.size() || layer >= shapes_.size()) {
        return InvalidArgument("per_layer_config names layer {}, the model has {} layers", Quoted(key),
                               shapes_.size());
      }
      const std::string prefix = fmt::format("per_layer_config.{}", layer);
      if (!entry.is_object()) return WrongFieldType(prefix, "object");
      for (const auto& [field, value] : entry.items()) {
        const std::string name = prefix + "." + field;
        if (field == "head_dim") {
          ASSIGN_OR_RETURN(shapes_[layer].head_dim, ToInt(value, name));
        } else if (field == "num_key_value_heads") {
          ASSIGN_OR_RETURN(shapes_[layer].num_kv_heads, ToInt(value, name));
        } else {
          return Unimplemented("{}.{} is not supported; head_dim and num_key_value_heads are", prefix,
                               Quoted(field));
        }
      }
    }
    return absl::OkStatus();
  }

  // Of the layers with this value of `sliding`, if there are any.
  absl::Status Take(const std::vector<bool>& sliding, bool wanted, AttentionConfig& attention) const {
    std::optional<Shape> common;
    for (size_t layer = 0; layer < shapes_.size(); ++layer) {
      if (sliding[layer] != wanted) continue;
      const Shape& shape = shapes_[layer];
      if (common.has_value() &&
          (common->num_kv_heads != shape.num_kv_heads || common->head_dim != shape.head_dim)) {
        return Unimplemented("per_layer_config: {} layers of different shapes are not supported",
                             wanted ? kSliding : kFull);
      }
      common = shape;
    }
    if (!common.has_value()) return absl::OkStatus();
    attention.num_kv_heads = common->num_kv_heads;
    attention.head_dim = common->head_dim;
    return absl::OkStatus();
  }

 private:
  struct Shape {
    int64_t num_kv_heads, head_dim;
  };
  std::vector<Shape> shapes_;
};

// Gemma4's layers that see everything have heads of their own.
absl::Status ReadHeads(const json& text, const std::vector<bool>& sliding, ModelConfig& config) {
  AttentionConfig &full = config.attention, &local = config.sliding_attention;
  ASSIGN_OR_RETURN(full.head_dim, IntOr(text, "head_dim", 256));
  ASSIGN_OR_RETURN(full.num_kv_heads, IntOr(text, "num_key_value_heads", 4));
  local.head_dim = full.head_dim;
  local.num_kv_heads = full.num_kv_heads;
  if (config.family != ModelFamily::kGemma4) return absl::OkStatus();
  ASSIGN_OR_RETURN(full.value_is_key, BoolOr(text, "attention_k_eq_v", false));
  if (const json* overrides = FindField(text, "per_layer_config"); overrides != nullptr) {
    LayerShapes shapes(local, config.num_layers);
    RETURN_IF_ERROR(shapes.ReadOverrides(*overrides));
    RETURN_IF_ERROR(shapes.Take(sliding, /*wanted=*/false, full));
    return shapes.Take(sliding, /*wanted=*/true, local);
  }
  ASSIGN_OR_RETURN(full.head_dim, IntOr(text, "global_head_dim", 512));
  RETURN_IF_ERROR(CheckCount("global_head_dim", full.head_dim, kMaxHeadDim));
  if (!full.value_is_key) return absl::OkStatus();
  ASSIGN_OR_RETURN(full.num_kv_heads, IntOr(text, "num_global_key_value_heads", local.num_kv_heads));
  return CheckCount("num_global_key_value_heads", full.num_kv_heads, kMaxHeads);
}

// The last num_kv_shared_layers layers read K and V of the last layer of their kind before them.
absl::Status ShareKv(const json& text, ModelConfig& config) {
  ASSIGN_OR_RETURN(const int64_t num_shared, IntOr(text, "num_kv_shared_layers", 0));
  if (num_shared < 0 || num_shared >= config.num_layers) {
    return InvalidArgument("num_kv_shared_layers is {}, allowed are 0 to {}", num_shared,
                           config.num_layers - 1);
  }
  ASSIGN_OR_RETURN(const bool double_wide, BoolOr(text, "use_double_wide_mlp", false));
  const int64_t first_shared = config.num_layers - num_shared;
  std::optional<int64_t> last[2];  // by kind
  for (int64_t i = 0; i < config.num_layers; ++i) {
    LayerConfig& layer = config.layers[i];
    std::optional<int64_t>& source = last[layer.sliding ? 1 : 0];
    if (i < first_shared) {
      source = i;
      continue;
    }
    if (!source.has_value()) {
      return InvalidArgument("num_kv_shared_layers is {}: layer {} has no {} layer before them to share with",
                             num_shared, i, layer.sliding ? kSliding : kFull);
    }
    layer.kv_layer = *source;
    if (double_wide) layer.intermediate_size *= 2;
  }
  return absl::OkStatus();
}

absl::Status ReadWindow(const json& text, ModelConfig& config) {
  const bool any_sliding = std::any_of(config.layers.begin(), config.layers.end(),
                                       [](const LayerConfig& layer) { return layer.sliding; });
  if (FindField(text, "sliding_window") == nullptr) {
    if (!any_sliding) return absl::OkStatus();
    // Gemma4's kinds of files have different defaults.
    if (config.family == ModelFamily::kGemma4) return InvalidArgument("sliding_window is missing");
  }
  ASSIGN_OR_RETURN(config.sliding_attention.window, IntOr(text, "sliding_window", 4096));
  return CheckCount("sliding_window", config.sliding_attention.window, kMaxContext);
}

}  // namespace

absl::Status ReadGemmaFields(const json& text, ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnsupported(text, config.family));
  ASSIGN_OR_RETURN(const std::vector<bool> sliding, ReadLayerTypes(text, config));
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    config.layers.push_back({sliding[layer], config.intermediate_size, layer});
  }
  RETURN_IF_ERROR(ReadHeads(text, sliding, config));
  RETURN_IF_ERROR(ReadRope(text, config));
  RETURN_IF_ERROR(ReadWindow(text, config));
  config.attention_scale = 1.0f;
  if (config.family == ModelFamily::kGemma3) {
    ASSIGN_OR_RETURN(const double scalar, NumberOr(text, "query_pre_attn_scalar", 256));
    if (!std::isfinite(scalar) || !(scalar > 0)) {
      return InvalidArgument("query_pre_attn_scalar is {}, it must be above 0", scalar);
    }
    config.attention_scale = static_cast<float>(1.0 / std::sqrt(scalar));
  } else {
    RETURN_IF_ERROR(ShareKv(text, config));
  }
  if (FindField(text, "final_logit_softcapping") != nullptr) {
    ASSIGN_OR_RETURN(const double cap, RequiredNumber(text, "final_logit_softcapping"));
    if (!std::isfinite(cap) || !(cap > 0)) {
      return InvalidArgument("final_logit_softcapping is {}, it must be above 0", cap);
    }
    config.logit_softcap = static_cast<float>(cap);
  }
  return absl::OkStatus();
}

}  // namespace tandem::formats
