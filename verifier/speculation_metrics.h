// What /metrics says about speculation: proposals, checks and acceptances by position, windows, calibration,
// drafters.
#pragma once

#include <vector>

#include "common/telemetry/metrics.h"
#include "verifier/engine/engine.h"

namespace tandem::verifier {

// Not thread-safe: EngineMetrics calls it.
class SpeculationMetrics {
 public:
  // Borrows the registry.
  SpeculationMetrics(telemetry::Metrics& metrics, const EngineOptions& options);

  // On the loop's thread, after each step.
  void OnStep(const StepStats& step, const EngineStats& stats);
  // Gauges, at a scrape.
  void Refresh(const EngineStats& stats);

 private:
  const std::vector<std::string> positions_;  // "1", "2", ...
  prometheus::Counter& proposed_;
  prometheus::Counter& rounds_;
  prometheus::Counter& checked_;
  prometheus::Counter& accepted_;
  prometheus::Counter& expected_accepted_;
  telemetry::Labelled<prometheus::Counter> checked_at_, accepted_at_;
  const std::vector<std::string> survivals_;  // lower ends of the buckets: "0", "0.1", ...
  telemetry::Labelled<prometheus::Counter> expected_in_, checked_in_, accepted_in_;
  telemetry::Labelled<prometheus::Counter> fallbacks_;
  telemetry::Labelled<prometheus::Counter> row_bytes_;
  prometheus::Counter& out_of_sync_;
  prometheus::Histogram& windows_;
  prometheus::Histogram& accepted_lengths_;
  prometheus::Histogram& draft_wait_;
  telemetry::Labelled<prometheus::Gauge> calibration_errors_;
  telemetry::Labelled<prometheus::Gauge> breaker_states_;
  prometheus::Gauge& interference_;
  prometheus::Gauge* drafter_up_ = nullptr;  // only where a drafter is configured
};

}  // namespace tandem::verifier
