#include "common/formats/checkpoint_tensors.h"

#include <algorithm>
#include <set>
#include <string_view>

#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/formats/model_tensors.h"
#include "common/formats/quoted.h"

namespace tandem::formats {
namespace {

absl::Status CheckShape(const TensorView& tensor, const std::vector<int64_t>& shape) {
  if (tensor.shape == shape) return absl::OkStatus();
  return InvalidArgument("tensor {} has shape {}, the model needs {}", Quoted(tensor.name),
                         ShapeText(tensor.shape), ShapeText(shape));
}

std::string FileName(const TensorSpec& spec, NameScheme scheme, const TextNames& text_names) {
  constexpr std::string_view kPrefix = "model.";
  if (scheme == NameScheme::kGguf) return spec.gguf_name;
  return spec.name.starts_with(kPrefix) ? text_names.prefix + spec.name.substr(kPrefix.size())
                                        : text_names.head;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointTensors>> CheckpointTensors::Create(
    const ModelConfig& config, const std::map<std::string, TensorView>& file_tensors, NameScheme scheme,
    const std::function<bool(const std::string& name)>& may_ignore, const TextNames& text_names) {
  std::unique_ptr<CheckpointTensors> tensors(new CheckpointTensors(file_tensors, scheme));
  std::set<std::string> used;
  for (const TensorSpec& spec : ModelTensors(config)) {
    const std::string file_name = FileName(spec, scheme, text_names);
    const auto found = file_tensors.find(file_name);
    if (found == file_tensors.end()) return InvalidArgument("tensor {} is missing", Quoted(file_name));
    const TensorView& tensor = found->second;
    RETURN_IF_ERROR(CheckShape(tensor, spec.shape));
    if (!CanDequantize(tensor.dtype)) {
      return InvalidArgument("tensor {} has type {}, which is no type for weights", Quoted(file_name),
                             DTypeName(tensor.dtype));
    }
    used.insert(file_name);
    tensors->by_name_.emplace(spec.name, &tensor);
    tensors->tensor_bytes_ += static_cast<int64_t>(tensor.data.size());
  }
  for (const auto& [name, tensor] : file_tensors) {
    if (used.contains(name) || may_ignore(name)) continue;
    return Unimplemented("tensor {} has no place in a {} model as it is supported", Quoted(name),
                         ModelFamilyName(config.family));
  }
  return tensors;
}

absl::StatusOr<TensorView> CheckpointTensors::Tensor(const std::string& name,
                                                     const std::vector<int64_t>& shape) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return NotFound("tensor {} is missing", Quoted(name));
  RETURN_IF_ERROR(CheckShape(*found->second, shape));
  return *found->second;
}

const std::string& CheckpointTensors::Fingerprint() const {
  absl::call_once(fingerprint_once_, [this] {
    Sha256 all;
    for (const auto& [name, tensor] : file_tensors_) {  // the map is sorted by name
      Sha256 data;
      data.Update(tensor.data);
      std::vector<int64_t> shape = tensor.shape;
      if (scheme_ == NameScheme::kGguf)
        std::reverse(shape.begin(), shape.end());  // innermost first, as stored
      all.Update(
          fmt::format("{} {} {} {}\n", name, DTypeName(tensor.dtype), ShapeText(shape), data.Finish()));
    }
    fingerprint_ = all.Finish();
  });
  return fingerprint_;
}

}  // namespace tandem::formats
