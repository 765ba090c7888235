#include "drafter/models/draft_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>

#include "common/base/status.h"
#include "common/formats/json.h"
#include "common/formats/model_limits.h"
#include "common/formats/quoted.h"
#include "common/kernels/attention.h"
#include "common/speculation/messages.h"

namespace tandem::drafter {
namespace {

using formats::Quoted;
using nlohmann::json;

constexpr int64_t kMaxTaps = 64;
constexpr int64_t kEagle3Taps = 5;
constexpr size_t kFingerprintDigits = 64;

// Present and not null.
const json* Find(const json& object, const char* field) {
  const auto found = object.find(field);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

absl::StatusOr<int64_t> ToInt(const json& value, const char* field, int64_t low, int64_t high) {
  if (!value.is_number_integer()) return InvalidArgument("{} is no integer", field);
  if (value.is_number_unsigned() && !std::in_range<int64_t>(value.get<uint64_t>())) {
    return InvalidArgument("{} is {}, allowed are {} to {}", field, value.get<uint64_t>(), low, high);
  }
  const auto number = value.get<int64_t>();
  if (number < low || number > high) {
    return InvalidArgument("{} is {}, allowed are {} to {}", field, number, low, high);
  }
  return number;
}

// A field that must be there unless `absent` says what its absence means.
absl::StatusOr<int32_t> Int(const json& config, const char* field, int64_t low, int64_t high,
                            std::optional<int32_t> absent = std::nullopt) {
  const json* value = Find(config, field);
  if (value == nullptr) {
    if (absent.has_value()) return *absent;
    return InvalidArgument("{} is missing", field);
  }
  ASSIGN_OR_RETURN(const int64_t number, ToInt(*value, field, low, high));
  return static_cast<int32_t>(number);
}

absl::StatusOr<bool> BoolOrFalse(const json& config, const char* field) {
  const json* value = Find(config, field);
  if (value == nullptr) return false;
  if (!value->is_boolean()) return InvalidArgument("{} is no truth value", field);
  return value->get<bool>();
}

absl::StatusOr<std::string> StringOrEmpty(const json& config, const char* field) {
  const json* value = Find(config, field);
  if (value == nullptr) return std::string();
  if (!value->is_string()) return InvalidArgument("{} is no string", field);
  return value->get<std::string>();
}

struct ArchitectureName {
  const char* name;
  DraftArchitecture architecture;
  std::optional<formats::ModelFamily> style;  // absent: as the model type says
};
constexpr ArchitectureName kArchitectures[] = {
    {"Qwen3DSparkModel", DraftArchitecture::kDSpark, formats::ModelFamily::kQwen3},
    {"Qwen3Eagle3Model", DraftArchitecture::kEagle3, formats::ModelFamily::kQwen3},
    {"Gemma4DSparkModel", DraftArchitecture::kDSpark, formats::ModelFamily::kGemma4},
    {"Gemma4Eagle3Model", DraftArchitecture::kEagle3, formats::ModelFamily::kGemma4},
    {"Eagle3DraftModel", DraftArchitecture::kEagle3, std::nullopt},
};

absl::StatusOr<ArchitectureName> ParseArchitecture(const json& config) {
  const json* list = Find(config, "architectures");
  if (list == nullptr) return InvalidArgument("architectures is missing");
  if (!list->is_array() || list->size() != 1 || !list->front().is_string()) {
    return InvalidArgument("architectures is no list of one string");
  }
  const std::string name = list->front().get<std::string>();
  std::vector<std::string> known;
  for (const ArchitectureName& architecture : kArchitectures) {
    if (name == architecture.name) return architecture;
    known.emplace_back(architecture.name);
  }
  return Unimplemented("architecture {} is not supported; {} are", Quoted(name), fmt::join(known, ", "));
}

// The style of the draft layers, out of the family that the copied config names.
absl::Status SetStyle(const ArchitectureName& architecture, formats::ModelConfig& shape) {
  using formats::ModelFamily;
  const ModelFamily style = shape.family == ModelFamily::kGemma4 ? ModelFamily::kGemma4 : ModelFamily::kQwen3;
  if (shape.family == ModelFamily::kGemma3 || style != architecture.style.value_or(style)) {
    return Unimplemented("model_type: draft layers of the family {} are not supported in a {}",
                         formats::ModelFamilyName(shape.family), architecture.name);
  }
  for (int64_t layer = 0; layer < shape.num_layers; ++layer) {
    if (shape.layers[layer].sliding) {
      return Unimplemented("layer_types: sliding_attention is not supported in draft layers");
    }
    if (!shape.HasOwnKv(layer))
      return Unimplemented("num_kv_shared_layers is not 0, draft layers share no K and V");
  }
  if (shape.attention.head_dim > kernels::kMaxHeadDim) {
    return Unimplemented("head_dim is {}, only up to {} is supported", shape.attention.head_dim,
                         kernels::kMaxHeadDim);
  }
  shape.family = style;
  return absl::OkStatus();
}

absl::Status ParseTaps(const json& config, DraftConfig& result) {
  const bool eagle3 = result.architecture == DraftArchitecture::kEagle3;
  const json* list = Find(config, "target_layer_ids");
  if (list == nullptr) return InvalidArgument("target_layer_ids is missing");
  if (!list->is_array()) return InvalidArgument("target_layer_ids is no list");
  const auto count = static_cast<int64_t>(list->size());
  if (eagle3 && count != kEagle3Taps) {
    return InvalidArgument("target_layer_ids has {} entries, Eagle3 has {}", count, kEagle3Taps);
  }
  if (count < 1 || count > kMaxTaps) {
    return InvalidArgument("target_layer_ids has {} entries, allowed are 1 to {}", count, kMaxTaps);
  }
  for (const json& entry : *list) {
    // The last block's output is never tapped: what a drafter saw of it in training is not defined.
    ASSIGN_OR_RETURN(const int64_t tap, ToInt(entry, "an entry of target_layer_ids", eagle3 ? 0 : -1,
                                              int64_t{result.num_target_layers} - 2));
    if (!result.taps.empty() && tap <= result.taps.back()) {
      return InvalidArgument("target_layer_ids is not strictly increasing: {} after {}", tap,
                             result.taps.back());
    }
    result.taps.push_back(static_cast<int32_t>(tap));
  }
  return absl::OkStatus();
}

absl::Status ParseMarkov(const json& config, DraftConfig& result) {
  ASSIGN_OR_RETURN(result.markov_rank, Int(config, "markov_rank", 0, formats::kMaxHidden, 0));
  if (result.markov_rank == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string written, StringOrEmpty(config, "markov_head_type"));
  std::string name = written;
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name == "vanilla") {
    result.markov = MarkovType::kVanilla;
  } else if (name == "gated") {
    result.markov = MarkovType::kGated;
  } else if (name == "rnn") {
    result.markov = MarkovType::kRnn;
  } else {
    return InvalidArgument("markov_head_type is {}, allowed are vanilla, gated and rnn", Quoted(written));
  }
  return absl::OkStatus();
}

absl::Status ParseDSpark(const json& config, DraftConfig& result) {
  ASSIGN_OR_RETURN(result.block_size, Int(config, "block_size", 1, speculation::kMaxBlockSize));
  ASSIGN_OR_RETURN(result.mask_token_id, Int(config, "mask_token_id", 0, result.shape.vocab_size - 1));
  RETURN_IF_ERROR(ParseMarkov(config, result));
  ASSIGN_OR_RETURN(result.has_confidence, BoolOrFalse(config, "enable_confidence_head"));
  if (!result.has_confidence) return absl::OkStatus();
  ASSIGN_OR_RETURN(result.confidence_with_markov, BoolOrFalse(config, "confidence_head_with_markov"));
  if (result.confidence_with_markov && result.markov_rank == 0) {
    return InvalidArgument("confidence_head_with_markov is true and markov_rank is 0");
  }
  return absl::OkStatus();
}

absl::Status ParseEagle3(const json& config, DraftConfig& result) {
  ASSIGN_OR_RETURN(result.block_size, Int(config, "ttt_length", 1, speculation::kMaxBlockSize));
  const int64_t layers = result.shape.num_layers;
  ASSIGN_OR_RETURN(const int32_t draft_layers, Int(config, "draft_num_hidden_layers", 1, 1, 1));
  if (layers != draft_layers) return InvalidArgument("num_hidden_layers is {}, Eagle3 has one", layers);
  return absl::OkStatus();
}

absl::Status ParseCompactForm(const json& config, DraftConfig& result) {
  ASSIGN_OR_RETURN(const int32_t format, Int(config, "tandem_format", 1, 1, 0));
  result.compact = format != 0;
  ASSIGN_OR_RETURN(result.draft_vocab_size, Int(config, "draft_vocab_size", 1, result.shape.vocab_size, 0));
  ASSIGN_OR_RETURN(result.target_fingerprint, StringOrEmpty(config, "target_fingerprint"));
  const auto is_hex = [](unsigned char c) { return std::isdigit(c) || (c >= 'a' && c <= 'f'); };
  const std::string& digits = result.target_fingerprint;
  if (!digits.empty() &&
      (digits.size() != kFingerprintDigits || !std::all_of(digits.begin(), digits.end(), is_hex))) {
    return InvalidArgument("target_fingerprint is {}, no SHA-256 in lower-case hex", Quoted(digits));
  }
  return absl::OkStatus();
}

// What the draft adds to its target's config.
absl::Status ParseDraftFields(const json& config, DraftConfig& result) {
  if (result.shape.tie_word_embeddings) {
    return InvalidArgument("tie_word_embeddings is true, draft checkpoints have it false");
  }
  ASSIGN_OR_RETURN(result.num_target_layers, Int(config, "num_target_layers", 1, formats::kMaxLayers));
  RETURN_IF_ERROR(ParseTaps(config, result));
  RETURN_IF_ERROR(ParseCompactForm(config, result));
  return result.architecture == DraftArchitecture::kEagle3 ? ParseEagle3(config, result)
                                                           : ParseDSpark(config, result);
}

absl::StatusOr<json> ParseObject(const std::string& text) {
  ASSIGN_OR_RETURN(json config, formats::ParseJson(text));
  if (!config.is_object()) return InvalidArgument("is no JSON object");
  return config;
}

}  // namespace

const char* DraftConfig::algorithm() const {
  if (architecture == DraftArchitecture::kEagle3) return "eagle3";
  return markov_rank == 0 && !has_confidence ? "dflash" : "dspark";
}

absl::StatusOr<DraftConfig> ParseDraftConfig(const std::string& config_json, const std::string& path) {
  const auto config = ParseObject(config_json);
  if (!config.ok()) return Annotate(config.status(), path);
  // First: without a known architecture the other fields mean nothing.
  const auto architecture = ParseArchitecture(*config);
  if (!architecture.ok()) return Annotate(architecture.status(), path);
  DraftConfig result;
  result.architecture = architecture->architecture;
  ASSIGN_OR_RETURN(result.shape, formats::ParseHuggingFaceConfig(config_json, "", path));
  RETURN_IF_ERROR(Annotate(SetStyle(*architecture, result.shape), path));
  const absl::Status fields = ParseDraftFields(*config, result);
  if (!fields.ok()) return Annotate(fields, path);
  return result;
}

}  // namespace tandem::drafter
