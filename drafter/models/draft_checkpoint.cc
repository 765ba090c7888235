#include "drafter/models/draft_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <utility>

#include "common/base/status.h"
#include "common/formats/mapped_file.h"
#include "common/formats/model_directory.h"
#include "common/formats/quoted.h"
#include "drafter/models/draft_calibration.h"
#include "drafter/models/draft_model_options.h"

namespace tandem::drafter {
namespace {

using formats::DType;
using formats::Quoted;
using formats::TensorView;

constexpr size_t kMaxJsonBytes = 1 << 20;
constexpr const char* kScaleSuffix = ".scale";
constexpr const char* kDraftVocabulary = "draft_vocab.safetensors";

absl::StatusOr<std::string> ReadInside(const std::string& directory, const char* name) {
  ASSIGN_OR_RETURN(const std::string path, formats::ResolveInside(directory, name));
  return formats::ReadTextFile(path, kMaxJsonBytes);
}

template <typename T>
std::vector<T> Values(const TensorView& tensor) {
  std::vector<T> values(tensor.num_elements());
  std::memcpy(values.data(), tensor.data.data(), values.size() * sizeof(T));
  return values;
}

absl::Status CheckShape(const TensorView& tensor, const std::vector<int64_t>& shape) {
  if (tensor.shape == shape) return absl::OkStatus();
  return InvalidArgument("tensor {}: shape {}, expected {}", Quoted(tensor.name),
                         formats::ShapeText(tensor.shape), formats::ShapeText(shape));
}

absl::Status CheckType(const TensorView& tensor, DType dtype) {
  if (tensor.dtype == dtype) return absl::OkStatus();
  return InvalidArgument("tensor {}: type {}, expected {}", Quoted(tensor.name),
                         formats::DTypeName(tensor.dtype), formats::DTypeName(dtype));
}

absl::StatusOr<std::vector<float>> ReadRowScales(const std::map<std::string, TensorView>& tensors,
                                                 const TensorView& tensor) {
  const auto found = tensors.find(tensor.name + kScaleSuffix);
  if (found == tensors.end()) {
    return InvalidArgument("tensor {}: int8 without {}", Quoted(tensor.name),
                           Quoted(tensor.name + kScaleSuffix));
  }
  RETURN_IF_ERROR(CheckShape(found->second, {tensor.shape[0]}));
  RETURN_IF_ERROR(CheckType(found->second, DType::kF32));
  std::vector<float> scales = Values<float>(found->second);
  if (!std::all_of(scales.begin(), scales.end(), [](float s) { return std::isfinite(s); })) {
    return InvalidArgument("tensor {}: scales that are not finite", Quoted(found->first));
  }
  return scales;
}

// Target ids, each in [0, vocab_size) and only once.
absl::Status CheckIds(const std::string& name, std::vector<int32_t> sorted, int64_t vocab_size) {
  std::sort(sorted.begin(), sorted.end());
  if (!sorted.empty() && (sorted.front() < 0 || sorted.back() >= vocab_size)) {
    return InvalidArgument("tensor {}: token id {}, the vocabulary has {} tokens", Quoted(name),
                           sorted.front() < 0 ? sorted.front() : sorted.back(), vocab_size);
  }
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end()) return InvalidArgument("tensor {}: token id {} twice", Quoted(name), *twice);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DraftCheckpoint>> DraftCheckpoint::Open(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::string config_json, ReadInside(directory, "config.json"));
  ASSIGN_OR_RETURN(DraftConfig config, ParseDraftConfig(config_json, directory + "/config.json"));
  ASSIGN_OR_RETURN(auto file, formats::SafetensorsFile::OpenDirectory(directory));
  std::unique_ptr<DraftCheckpoint> checkpoint(
      new DraftCheckpoint(directory, std::move(config), std::move(file)));
  absl::Status status = checkpoint->CheckTensors();
  if (status.ok()) status = checkpoint->ReadDraftIds();
  if (!status.ok()) return Annotate(status, directory);
  RETURN_IF_ERROR(checkpoint->ReadCalibration());
  return checkpoint;
}

absl::Status DraftCheckpoint::CheckTensors() {
  const auto& tensors = file_->tensors();
  std::map<std::string, bool> known = {{"t2d", true}};
  for (const DraftTensorSpec& spec : DraftTensors(config_)) {
    known[spec.name] = true;
    const auto found = tensors.find(spec.name);
    if (found == tensors.end()) {
      if (!spec.required) continue;
      return InvalidArgument("tensor {} is missing", Quoted(spec.name));
    }
    const TensorView& tensor = found->second;
    RETURN_IF_ERROR(CheckShape(tensor, spec.shape));
    if (spec.name == "d2t") {
      RETURN_IF_ERROR(CheckType(tensor, DType::kI64));
      continue;
    }
    if (config_.compact && tensor.dtype == DType::kI8 && tensor.shape.size() == 2) {
      ASSIGN_OR_RETURN(row_scales_[spec.name], ReadRowScales(tensors, tensor));
      known[spec.name + kScaleSuffix] = true;
      continue;
    }
    if (tensor.dtype != DType::kBF16 && tensor.dtype != DType::kF32) {
      return InvalidArgument("tensor {}: type {}, expected BF16 or F32", Quoted(spec.name),
                             formats::DTypeName(tensor.dtype));
    }
  }
  for (const auto& [name, tensor] : tensors) {
    if (!known.contains(name)) return InvalidArgument("tensor {} is not part of the format", Quoted(name));
  }
  return absl::OkStatus();
}

absl::StatusOr<DraftTensor> DraftCheckpoint::Tensor(const std::string& name) const {
  const auto found = file_->tensors().find(name);
  if (found == file_->tensors().end()) return NotFound("{}: no tensor {}", path_, Quoted(name));
  const auto scales = row_scales_.find(name);
  return DraftTensor{found->second, scales == row_scales_.end() ? std::vector<float>() : scales->second};
}

absl::Status DraftCheckpoint::ReadDraftIds() {
  if (config_.draft_vocab_size == 0) return absl::OkStatus();
  // Target id = i + d2t[i]. Sums of two numbers from outside: compared before they are added.
  const std::vector<int64_t> offsets = Values<int64_t>(file_->tensors().at("d2t"));
  const int64_t vocab = config_.shape.vocab_size;
  std::vector<int32_t> ids(offsets.size());
  for (int64_t i = 0; i < static_cast<int64_t>(ids.size()); ++i) {
    if (offsets[i] < -i || offsets[i] >= vocab - i) {
      return InvalidArgument("tensor `d2t`: entry {} is {}, the vocabulary has {} tokens", i, offsets[i],
                             vocab);
    }
    ids[i] = static_cast<int32_t>(i + offsets[i]);
  }
  RETURN_IF_ERROR(CheckIds("d2t", ids, vocab));
  draft_rows_.resize(ids.size());
  std::iota(draft_rows_.begin(), draft_rows_.end(), 0);
  std::sort(draft_rows_.begin(), draft_rows_.end(), [&](int32_t a, int32_t b) { return ids[a] < ids[b]; });
  for (const int32_t row : draft_rows_) draft_ids_.push_back(ids[row]);
  return absl::OkStatus();
}

bool DraftCheckpoint::ListsFrequentTokens() const {
  std::error_code error;
  return std::filesystem::exists(std::filesystem::path(path_) / kDraftVocabulary, error);
}

absl::StatusOr<std::vector<int32_t>> DraftCheckpoint::FrequentTokens(int32_t count) const {
  ASSIGN_OR_RETURN(const std::string path, formats::ResolveInside(path_, kDraftVocabulary));
  ASSIGN_OR_RETURN(const auto file, formats::SafetensorsFile::Open(path));
  const auto found = file->tensors().find("ids");
  if (found == file->tensors().end()) return InvalidArgument("{}: no tensor `ids`", path);
  const TensorView& tensor = found->second;
  absl::Status status = CheckType(tensor, DType::kI32);
  if (status.ok() && tensor.shape.size() != 1) status = InvalidArgument("tensor `ids` is not 1-dimensional");
  if (!status.ok()) return Annotate(status, path);
  std::vector<int32_t> ids = Values<int32_t>(tensor);
  if (count == kUsualDraftVocab)
    count = static_cast<int32_t>(std::min<size_t>(kUsualDraftVocabSize, ids.size()));
  if (count < 1 || static_cast<size_t>(count) > ids.size()) {
    return InvalidArgument("{}: a draft vocabulary of {} tokens, allowed are 1 to {}", path, count,
                           ids.size());
  }
  ids.resize(count);
  status = CheckIds("ids", ids, config_.shape.vocab_size);
  if (!status.ok()) return Annotate(status, path);
  std::sort(ids.begin(), ids.end());
  return ids;
}

absl::Status DraftCheckpoint::ReadCalibration() {
  if (!config_.has_confidence) return absl::OkStatus();
  const auto text = ReadInside(path_, "calibration.json");
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  if (!text.ok()) return text.status();
  ASSIGN_OR_RETURN(calibration_, ParseCalibration(*text, config_.block_size, path_ + "/calibration.json"));
  return absl::OkStatus();
}

}  // namespace tandem::drafter
