// A draft model on disk: config.json and model.safetensors (or shards) of the released format or of the
// compact form, with what may lie beside them.
//
//   ASSIGN_OR_RETURN(auto checkpoint, DraftCheckpoint::Open(directory));
//   ASSIGN_OR_RETURN(DraftTensor w, checkpoint->Tensor("layers.0.mlp.up_proj.weight"));
//
// Files are memory-mapped read-only; views borrow from the checkpoint. Errors name the file and the field or
// tensor. Immutable after Open, hence thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/formats/safetensors.h"
#include "common/speculation/messages.h"
#include "drafter/models/draft_config.h"
#include "drafter/models/draft_tensors.h"

namespace tandem::drafter {

class DraftCheckpoint {
 public:
  // kInvalidArgument: a tensor is missing, not known, of another shape or type, its scales are not finite, or
  // d2t names a token twice or one that is not there. Weights are looked at when they are packed.
  static absl::StatusOr<std::unique_ptr<DraftCheckpoint>> Open(const std::string& directory);

  const std::string& path() const { return path_; }
  const DraftConfig& config() const { return config_; }
  bool HasTensor(const std::string& name) const { return file_->tensors().contains(name); }
  // Of the shape that the configuration gives it. kNotFound if the file leaves it to the target.
  absl::StatusOr<DraftTensor> Tensor(const std::string& name) const;

  // The drafts' vocabulary: target ids, ascending; empty = all of the target's. Where lm_head and markov_w2
  // are stored reduced, draft_rows()[i] is the row of draft_ids()[i].
  const std::vector<int32_t>& draft_ids() const { return draft_ids_; }
  const std::vector<int32_t>& draft_rows() const { return draft_rows_; }
  // Whether there is a draft_vocab.safetensors, and its first `count` ids (or kUsualDraftVocab), ascending.
  bool ListsFrequentTokens() const;
  absl::StatusOr<std::vector<int32_t>> FrequentTokens(int32_t count) const;

  // From calibration.json; empty without one, or without a confidence head.
  const std::vector<speculation::InitialCalibration>& calibration() const { return calibration_; }

 private:
  DraftCheckpoint(std::string path, DraftConfig config, std::unique_ptr<formats::SafetensorsFile> file)
      : path_(std::move(path)), config_(std::move(config)), file_(std::move(file)) {}

  absl::Status CheckTensors();
  absl::Status ReadDraftIds();
  absl::Status ReadCalibration();

  const std::string path_;
  const DraftConfig config_;
  const std::unique_ptr<formats::SafetensorsFile> file_;
  std::map<std::string, std::vector<float>> row_scales_;  // by the int8 tensor's name
  std::vector<int32_t> draft_ids_, draft_rows_;
  std::vector<speculation::InitialCalibration> calibration_;
};

}  // namespace tandem::drafter
