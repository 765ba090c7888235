// What the config.json of Gemma3 and Gemma4 says beside the fields that all families share.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "common/formats/model_config.h"

namespace tandem::formats {

// Fills in layers, both kinds of attention, attention_scale and logit_softcap. `text` is the text model's
// object; of `config`, family, num_layers, num_heads and intermediate_size have been read. Fields that a file
// leaves out have transformers' defaults where every published file of the family agrees with them. Errors as
// of ParseHuggingFaceConfig.
absl::Status ReadGemmaFields(const nlohmann::json& text, ModelConfig& config);

}  // namespace tandem::formats
