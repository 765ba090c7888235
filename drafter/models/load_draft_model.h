// Draft models from checkpoints: DSpark, DFlash, Eagle3, by the architecture that config.json names.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "drafter/models/draft_model.h"
#include "drafter/models/draft_model_options.h"

namespace tandem::drafter {

// Borrows `pool`, which must outlive the model; the target's checkpoint may be closed after. kInvalidArgument
// names the option, field or tensor that is out of range, kUnimplemented an architecture or shape that is not
// supported, kFailedPrecondition what only the target's checkpoint has, kResourceExhausted memory that cannot
// be had.
absl::StatusOr<std::unique_ptr<DraftModel>> LoadDraftModel(const DraftModelOptions& options,
                                                           ThreadPool& pool);

}  // namespace tandem::drafter
