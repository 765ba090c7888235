#include "drafter/models/draft_info.h"

#include <filesystem>

#include "common/base/status.h"

namespace tandem::drafter {
namespace {

absl::StatusOr<speculation::Projection> ReadProjection(const DraftConfig& config, DraftWeightReader& reader) {
  speculation::Projection projection;
  projection.width = static_cast<int32_t>(config.shape.hidden_size);
  projection.taps = config.taps;
  ASSIGN_OR_RETURN(projection.fc, reader.ReadFloats("fc.weight"));
  if (config.architecture == DraftArchitecture::kEagle3) return projection;
  ASSIGN_OR_RETURN(projection.norm, reader.ReadFloats("hidden_norm.weight"));
  projection.norm_eps = config.shape.rms_norm_eps;
  return projection;
}

// Of the directory, whatever way it was written.
std::string NameOf(const std::string& path) {
  const auto normal = std::filesystem::path(path).lexically_normal();
  return normal.has_filename() ? normal.filename() : normal.parent_path().filename();
}

}  // namespace

absl::StatusOr<DraftModelInfo> DescribeDraftModel(const DraftCheckpoint& checkpoint,
                                                  const DraftModelOptions& options,
                                                  DraftWeightReader& reader) {
  const DraftConfig& config = checkpoint.config();
  if (options.max_positions > 0 && options.max_positions <= config.block_size) {
    return InvalidArgument("max_positions is {}, a block behind one position takes {}", options.max_positions,
                           config.block_size + 1);
  }
  DraftModelInfo info;
  info.algorithm = config.algorithm();
  info.name = NameOf(checkpoint.path());
  info.target_fingerprint = config.target_fingerprint;
  info.vocab_size = static_cast<int32_t>(config.shape.vocab_size);
  info.hidden_size = static_cast<int32_t>(config.shape.hidden_size);
  info.num_target_layers = config.num_target_layers;
  info.mask_token_id = config.mask_token_id;
  info.block_size = config.block_size;
  info.has_confidence = config.has_confidence;
  info.max_positions = options.max_positions > 0
                           ? options.max_positions
                           : static_cast<int32_t>(config.shape.max_position) + config.block_size;
  info.calibration = checkpoint.calibration();
  ASSIGN_OR_RETURN(info.projection, ReadProjection(config, reader));
  return info;
}

}  // namespace tandem::drafter
