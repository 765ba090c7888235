// The two kinds of checkpoint behind Checkpoint::Open.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/formats/checkpoint.h"

namespace tandem::formats {

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenGgufCheckpoint(const std::string& path);
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenHuggingFaceCheckpoint(const std::string& directory);

}  // namespace tandem::formats
