// What /metrics says about the engine.
//
//   EngineMetrics metrics(registry, engine_options);
//   auto loop = StepLoop::Start(engine, clock, [&](const StepStats& s, const EngineStats& e) {
//   metrics.OnStep(s, e); }); metrics.Follow(loop.get());     // and nullptr before the loop ends
#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/telemetry/metrics.h"
#include "verifier/engine/step_loop.h"
#include "verifier/speculation_metrics.h"

namespace tandem::verifier {

// Thread-safe. Borrows the registry.
class EngineMetrics {
 public:
  // `options` as configured: which series there are.
  EngineMetrics(telemetry::Metrics& metrics, const EngineOptions& options);

  void SetMaxSequences(int max_num_seqs) { max_num_seqs_.Set(max_num_seqs); }
  // On the loop's thread, after each step.
  void OnStep(const StepStats& step, const EngineStats& stats);
  // From now on gauges follow this loop at each scrape; nullptr: nothing.
  void Follow(const StepLoop* loop) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Refresh() ABSL_LOCKS_EXCLUDED(mu_);
  void RaiseCounters(const EngineStats& stats);

  telemetry::Labelled<prometheus::Histogram> step_seconds_;
  prometheus::Histogram& step_tokens_;
  prometheus::Histogram& step_sequences_;
  prometheus::Histogram& step_prediction_error_;
  prometheus::Counter& busy_seconds_;
  prometheus::Counter& stale_;
  int64_t stale_seen_ = 0;  // of the engine; the loop's thread only
  prometheus::Counter& preemptions_;
  prometheus::Counter& refused_admissions_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& cached_prompt_tokens_;
  prometheus::Counter& generated_tokens_;
  prometheus::Gauge& utilization_;
  telemetry::Labelled<prometheus::Gauge> utilization_parts_;
  prometheus::Gauge& sequences_running_;
  telemetry::Labelled<prometheus::Gauge> kv_blocks_;
  prometheus::Gauge& max_num_seqs_;
  SpeculationMetrics speculation_;

  absl::Mutex mu_;
  const StepLoop* loop_ ABSL_GUARDED_BY(mu_) = nullptr;
};

}  // namespace tandem::verifier
