// The bytes of a safetensors file taken apart: a pure function, for SafetensorsFile and for tests.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "common/formats/tensor.h"

namespace tandem::formats {

// Tensors by name, views into `file`. kInvalidArgument says what is wrong where; kUnimplemented names a known
// dtype that is not supported. The file's name is for the caller to add.
absl::StatusOr<std::map<std::string, TensorView>> ParseSafetensors(std::span<const std::byte> file);

}  // namespace tandem::formats
