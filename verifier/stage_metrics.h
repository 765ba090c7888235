// With --profile: where the time of forward passes goes, by stage of the model (models/step_profile.h).
#pragma once

#include "common/models/step_profile.h"
#include "common/telemetry/metrics.h"

namespace tandem::verifier {

class StageMetrics {
 public:
  explicit StageMetrics(telemetry::Metrics& metrics);
  // After a step, on the step loop's thread.
  void OnStep(const models::StepProfile& profile);

 private:
  telemetry::Labelled<prometheus::Counter> seconds_, bytes_, operations_;
};

}  // namespace tandem::verifier
