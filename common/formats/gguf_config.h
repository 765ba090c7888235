// A model's configuration out of GGUF metadata.
#pragma once

#include "absl/status/statusor.h"
#include "common/formats/gguf.h"
#include "common/formats/model_config.h"

namespace tandem::formats {

// Errors as of ParseHuggingFaceConfig, without the file's name. Embeddings are tied where there is no
// output.weight; rope_freqs.weight becomes inverse_frequency_divisors.
absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file);

}  // namespace tandem::formats
