// What a model's files may claim. Far above every published model of the supported families; low enough that
// products of two of them fit 63 bits and that nothing sized by one of them is a threat.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "common/formats/model_config.h"

namespace tandem::formats {

inline constexpr int64_t kMaxVocab = 1 << 22;
inline constexpr int64_t kMaxHidden = 1 << 17;
inline constexpr int64_t kMaxIntermediate = 1 << 20;
inline constexpr int64_t kMaxLayers = 1024;
inline constexpr int64_t kMaxHeads = 1024;
inline constexpr int64_t kMaxHeadDim = 1024;
inline constexpr int64_t kMaxContext = 1 << 26;

// kInvalidArgument names field, value and limit unless 1 <= value <= limit.
absl::Status CheckCount(const char* field, int64_t value, int64_t limit);

// Checks every field of a filled config against the limits and against the others; fields are called by their
// Hugging Face names. kInvalidArgument names field, value and limit.
absl::Status CheckModelConfig(const ModelConfig& config);

}  // namespace tandem::formats
