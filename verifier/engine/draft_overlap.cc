#include "verifier/engine/draft_overlap.h"

#include <algorithm>
#include <utility>

namespace tandem::verifier {

void DraftOverlap::OnStep(absl::Duration begin, absl::Duration end, double predicted_seconds,
                          double real_seconds) {
  step_ = Step{begin, end, predicted_seconds, real_seconds, std::nullopt};
}

void DraftOverlap::OnArrival(absl::Duration arrived) {
  if (step_) step_->last_arrival = std::max(step_->last_arrival.value_or(arrived), arrived);
}

std::optional<double> DraftOverlap::Settle(bool still_waiting, DraftTimeModel& time) {
  const std::optional<Step> step = std::exchange(step_, std::nullopt);
  if (!step || (!still_waiting && !step->last_arrival)) return std::nullopt;
  const absl::Duration until =
      still_waiting ? step->end : std::clamp(*step->last_arrival, step->begin, step->end);
  const double overlap = absl::ToDoubleSeconds(until - step->begin);
  time.ObserveOverlap(step->predicted_seconds, step->real_seconds, overlap);
  const bool negligible = overlap < DraftTimeModel::kMinOverlapShare * step->predicted_seconds;
  if (!negligible && !time.interference_known()) return std::nullopt;
  return time.Interference() * overlap;
}

}  // namespace tandem::verifier
