// What a loaded checkpoint says of itself, for the Hello and the engine.
#pragma once

#include "absl/status/statusor.h"
#include "drafter/models/draft_model.h"
#include "drafter/models/draft_weights.h"

namespace tandem::drafter {

// Reads the projection too. weight_bytes is left to the model, which knows when all is read.
absl::StatusOr<DraftModelInfo> DescribeDraftModel(const DraftCheckpoint& checkpoint,
                                                  const DraftModelOptions& options,
                                                  DraftWeightReader& reader);

}  // namespace tandem::drafter
