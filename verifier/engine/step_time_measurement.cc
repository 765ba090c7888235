#include "verifier/engine/step_time_measurement.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "common/base/status.h"
#include "verifier/scheduling/step_time_cache.h"

namespace tandem::verifier {
namespace {

constexpr int kRounds = 3;

// Of one step of `rows` rows: one sequence at positions 0, 1, ... in block 0. The caller keeps the pool
// active, as the step loop does: waking its threads for each product would take longer than the products.
double TimeStep(models::Model& model, kernels::KvCache& cache, const Clock& clock, int rows,
                models::Outputs& outputs) {
  std::vector<int32_t> numbers(rows);
  std::iota(numbers.begin(), numbers.end(), 0);
  const std::vector<int32_t> tokens(rows, 0);
  const int32_t block = 0;
  const kernels::SequenceRows sequence{0, rows, 0, {&block, 1}};
  const absl::Duration begin = clock.Now();
  model.Forward({tokens, numbers, {&sequence, 1}, numbers, {}}, cache, outputs);
  // A clock that stands still, or is too coarse, gives the smallest time that the step-time model takes.
  return std::max(absl::ToDoubleSeconds(clock.Now() - begin), 1e-9);
}

bool StillHolds(const StepTimeModel& kept, models::Model& model, kernels::KvCache& cache, ThreadPool& pool,
                const Clock& clock) {
  const int max_rows = std::min(model.options().max_step_tokens, model.options().max_logits_rows);
  const ThreadPool::Active active(pool);
  models::Outputs outputs;
  TimeStep(model, cache, clock, 1, outputs);  // page in the weights
  for (const int rows : kCheckedRows) {
    if (rows > max_rows) break;
    double seconds = TimeStep(model, cache, clock, rows, outputs);
    for (int round = 1; round < kRounds; ++round)
      seconds = std::min(seconds, TimeStep(model, cache, clock, rows, outputs));
    const double expected = kept.Predict({.num_decode_rows = rows});
    if (std::abs(expected - seconds) > kMaxKeptError * seconds) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<StepTimeModel> MeasureStepTime(models::Model& model, kernels::KvCache& cache, ThreadPool& pool,
                                              const Clock& clock, absl::Duration limit) {
  const ThreadPool::Active active(pool);
  const int max_rows = std::min(model.options().max_step_tokens, model.options().max_logits_rows);
  models::Outputs outputs;
  const absl::Duration begin = clock.Now();
  TimeStep(model, cache, clock, 1, outputs);  // page in the weights
  std::vector<StepTimePoint> points;
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < kMeasuredDecodeRows.size() && kMeasuredDecodeRows[i] <= max_rows; ++i) {
      const bool required = round == 0 && kMeasuredDecodeRows[i] <= 2;
      // A step of twice the rows takes at most about twice the time of the last.
      const double expected = i < points.size() ? points[i].seconds
                              : points.empty()  ? 0
                                                : 2 * points.back().seconds;
      if (!required && clock.Now() - begin + absl::Seconds(expected) > limit) {
        return StepTimeModel::FromMeasurements(points);
      }
      const double seconds = TimeStep(model, cache, clock, kMeasuredDecodeRows[i], outputs);
      if (i == points.size()) {
        points.push_back({kMeasuredDecodeRows[i], seconds});
      } else {
        points[i].seconds = std::min(points[i].seconds, seconds);
      }
    }
  }
  return StepTimeModel::FromMeasurements(points);
}

absl::StatusOr<StepTimeModel> LoadOrMeasureStepTime(models::Model& model, kernels::KvCache& cache,
                                                    ThreadPool& pool, const Clock& clock,
                                                    absl::Duration limit, const std::string& path) {
  const std::string numerics_id = model.NumericsId();
  if (!path.empty()) {
    if (absl::StatusOr<StepTimeModel> kept = LoadStepTime(path, numerics_id);
        kept.ok() && StillHolds(*kept, model, cache, pool, clock)) {
      return kept;
    }
  }
  ASSIGN_OR_RETURN(StepTimeModel measured, MeasureStepTime(model, cache, pool, clock, limit));
  if (path.empty()) return measured;
  if (const absl::Status saved = SaveStepTime(measured, path, numerics_id); !saved.ok()) {
    std::fprintf(stderr, "step times are not kept: %s\n", std::string(saved.message()).c_str());
  }
  return measured;
}

}  // namespace tandem::verifier
