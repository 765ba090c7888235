// Measures the model's step times at start, for StepTimeModel.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/thread_pool.h"
#include "common/kernels/kv_cache.h"
#include "common/models/model.h"
#include "verifier/scheduling/step_time_model.h"

namespace tandem::verifier {

// Runs steps of kMeasuredDecodeRows rows (as far as the model takes them), all with logits, and keeps the
// fastest of each. Ends at the first step that would pass `limit`, but 1 and 2 rows are always measured.
// Overwrites block 0 of `cache`, so no sequence may use it yet. `pool` is the model's.
absl::StatusOr<StepTimeModel> MeasureStepTime(models::Model& model, kernels::KvCache& cache, ThreadPool& pool,
                                              const Clock& clock, absl::Duration limit);

// The model kept at `path` if it fits this model's numerics id and steps of kCheckedRows rows still take what
// it says, within kMaxKeptError: kernels, machines and what else runs there change. Else measures, and keeps
// the result there. An empty path keeps nothing. Trouble with the file costs the measurement only: it is a
// cache.
inline constexpr int kCheckedRows[] = {1, 4};
inline constexpr double kMaxKeptError = 0.25;
absl::StatusOr<StepTimeModel> LoadOrMeasureStepTime(models::Model& model, kernels::KvCache& cache,
                                                    ThreadPool& pool, const Clock& clock,
                                                    absl::Duration limit, const std::string& path);

}  // namespace tandem::verifier
