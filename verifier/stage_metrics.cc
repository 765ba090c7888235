#include "verifier/stage_metrics.h"

namespace tandem::verifier {

using telemetry::RaiseTo;

StageMetrics::StageMetrics(telemetry::Metrics& metrics)
    : seconds_(metrics.AddCounters("step_stage_seconds_total", "Time of forward passes by stage", "stage",
                                   models::StageNames())),
      bytes_(metrics.AddCounters("step_stage_bytes_total", "Weights and KV that the stages had to read",
                                 "stage", models::StageNames())),
      operations_(metrics.AddCounters("step_stage_operations_total",
                                      "What the stages had to compute; a multiply-add is two", "stage",
                                      models::StageNames())) {}

void StageMetrics::OnStep(const models::StepProfile& profile) {
  for (int i = 0; i < models::kNumStages; ++i) {
    const models::StepProfile::Totals& totals = profile.totals(static_cast<models::Stage>(i));
    const std::string& name = models::StageNames()[static_cast<size_t>(i)];
    RaiseTo(seconds_[name], totals.seconds());
    RaiseTo(bytes_[name], static_cast<double>(totals.work.bytes));
    RaiseTo(operations_[name], static_cast<double>(totals.work.operations));
  }
}

}  // namespace tandem::verifier
