// Reader for safetensors files and for sharded sets with an index.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/formats/tensor.h"

namespace tandem::formats {

// Memory-mapped; views borrow. Immutable after Open.
class SafetensorsFile {
 public:
  // One file. Refuses (kInvalidArgument, naming file and reason) headers above 25 MB, more than 65,536
  // tensors, unknown types, duplicate names, gaps, overlaps, and ends outside the file.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  // model.safetensors, or model.safetensors.index.json and its shards (names inside the directory only).
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> OpenDirectory(const std::string& directory);
  virtual ~SafetensorsFile() = default;

  virtual const std::map<std::string, TensorView>& tensors() const = 0;
};

}  // namespace tandem::formats
