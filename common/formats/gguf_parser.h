// The bytes of a GGUF file taken apart: a pure function, for GgufFile and for tests.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "common/formats/gguf.h"
#include "common/formats/tensor.h"

namespace tandem::formats {

struct GgufContents {
  std::map<std::string, GgufValue> metadata;
  std::map<std::string, TensorView> tensors;  // views into the parsed bytes
};

// kInvalidArgument says what is wrong where; kUnimplemented names a known tensor type that is not supported.
// The file's name is for the caller to add. Unused bytes between tensors and after them are allowed, as in
// ggml's own reader.
absl::StatusOr<GgufContents> ParseGguf(std::span<const std::byte> file);

}  // namespace tandem::formats
