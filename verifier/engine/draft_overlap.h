// How long a drafter with cores of its own drafted beside the last step, for DraftTimeModel::ObserveOverlap.
//
// Answers arrive while a step runs and are taken behind it, so a step is settled when the next one begins:
//
//   overlap.OnStep(begin, end, predicted, real);   // behind a step during which drafts were outstanding
//   overlap.OnArrival(arrived);                    // answers of the time since
//   overlap.Settle(still_waiting, time);           // before the next step
//
// Plain data of the step loop's thread.
#pragma once

#include <optional>

#include "absl/time/time.h"
#include "verifier/scheduling/draft_time_model.h"

namespace tandem::verifier {

class DraftOverlap {
 public:
  // Drafts asked for before `begin` were not there yet when it began.
  void OnStep(absl::Duration begin, absl::Duration end, double predicted_seconds, double real_seconds);
  void OnArrival(absl::Duration arrived);  // of drafts asked for before that step
  // still_waiting: for drafts that were asked for before that step. Teaches `time`; returns the seconds that
  // drafting took from the step. Nothing if there was no such step, if neither an answer nor somebody who
  // waits for one says that the drafter was at work, or if it was for a while and s is not known yet.
  std::optional<double> Settle(bool still_waiting, DraftTimeModel& time);
  absl::Duration step_begin() const { return step_ ? step_->begin : -absl::InfiniteDuration(); }

 private:
  struct Step {
    absl::Duration begin, end;
    double predicted_seconds = 0, real_seconds = 0;
    std::optional<absl::Duration> last_arrival;
  };
  std::optional<Step> step_;
};

}  // namespace tandem::verifier
