// What /metrics says about the draft engine.
//
//   DrafterMetrics metrics(registry);
//   auto loop = DraftLoop::Start(engine, clock, [&](const DraftStep& s, const DraftEngineStats&) {
//     metrics.OnStep(s);
//   });
//   metrics.Follow(loop.get());     // and nullptr before the loop ends
#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/telemetry/metrics.h"
#include "drafter/engine/draft_loop.h"

namespace tandem::drafter {

// Thread-safe. Borrows the registry.
class DrafterMetrics {
 public:
  explicit DrafterMetrics(telemetry::Metrics& metrics);

  // On the loop's thread, after each step.
  void OnStep(const DraftStep& step);
  // From now on gauges and totals follow this loop at each scrape; nullptr: they stand still.
  void Follow(const DraftLoop* loop) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Refresh() ABSL_LOCKS_EXCLUDED(mu_);

  prometheus::Histogram& step_seconds_;
  prometheus::Counter& busy_seconds_;
  prometheus::Gauge& sequences_;
  prometheus::Gauge& lag_;
  telemetry::Labelled<prometheus::Gauge> kv_blocks_;
  prometheus::Counter& drafts_;
  prometheus::Counter& draft_tokens_;
  prometheus::Counter& rows_;
  prometheus::Counter& shared_rows_;
  prometheus::Counter& evictions_;
  prometheus::Counter& out_of_sync_;
  prometheus::Counter& stale_;

  absl::Mutex mu_;
  const DraftLoop* loop_ ABSL_GUARDED_BY(mu_) = nullptr;
};

}  // namespace tandem::drafter
