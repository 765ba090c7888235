// The tensors of an opened model: complete, of the right shapes and types, found by Hugging Face names.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/call_once.h"
#include "absl/status/statusor.h"
#include "common/formats/model_config.h"
#include "common/formats/tensor.h"

namespace tandem::formats {

// The names a checkpoint's file uses.
enum class NameScheme { kHuggingFace, kGguf };

// Hugging Face names in a file: what stands for the `model.` of TensorSpec, and the head's name.
struct TextNames {
  std::string prefix = "model.";
  std::string head = "lm_head.weight";
};

// Borrows the file's tensor map and its bytes. Thread-safe.
class CheckpointTensors {
 public:
  // kInvalidArgument if a tensor that `config` needs is missing, of another shape or no weight type;
  // kUnimplemented if the file holds one that the model has no place for (a bias, an expert), unless
  // `may_ignore` says it is harmless.
  static absl::StatusOr<std::unique_ptr<CheckpointTensors>> Create(
      const ModelConfig& config, const std::map<std::string, TensorView>& file_tensors, NameScheme scheme,
      const std::function<bool(const std::string& name)>& may_ignore, const TextNames& text_names = {});

  // As Checkpoint's functions of these names. A view carries the file's own name.
  absl::StatusOr<TensorView> Tensor(const std::string& name, const std::vector<int64_t>& shape) const;
  bool HasTensor(const std::string& name) const { return by_name_.contains(name); }
  const std::string& Fingerprint() const;
  int64_t TensorBytes() const { return tensor_bytes_; }

 private:
  CheckpointTensors(const std::map<std::string, TensorView>& file_tensors, NameScheme scheme)
      : file_tensors_(file_tensors), scheme_(scheme) {}

  const std::map<std::string, TensorView>& file_tensors_;
  const NameScheme scheme_;
  std::map<std::string, const TensorView*> by_name_;  // by Hugging Face name; only what the model uses
  int64_t tensor_bytes_ = 0;

  mutable absl::once_flag fingerprint_once_;
  mutable std::string fingerprint_;
};

}  // namespace tandem::formats
