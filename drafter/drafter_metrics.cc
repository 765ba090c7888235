#include "drafter/drafter_metrics.h"

namespace tandem::drafter {

using telemetry::RaiseTo;

DrafterMetrics::DrafterMetrics(telemetry::Metrics& metrics)
    : step_seconds_(metrics.AddHistogram("draft_step_seconds", "Time of a step: rows in, drafts out",
                                         telemetry::StepBuckets())),
      busy_seconds_(metrics.AddCounter("drafter_busy_seconds_total", "Time spent in steps")),
      sequences_(metrics.AddGauge("drafter_sequences", "Sequences of all verifiers")),
      lag_(metrics.AddGauge("drafter_context_lag_tokens",
                            "Rows that have come and wait for the model, of the sequence with most")),
      kv_blocks_(metrics.AddGauges("kv_blocks", "Context blocks by state; together all of them", "state",
                                   {"free", "used"})),
      drafts_(metrics.AddCounter("drafter_drafts_total", "Rounds drafted")),
      draft_tokens_(metrics.AddCounter("drafter_draft_tokens_total", "Tokens drafted")),
      rows_(metrics.AddCounter("drafter_context_rows_total", "Hidden rows taken into contexts")),
      shared_rows_(metrics.AddCounter("drafter_shared_rows_total",
                                      "Hidden rows that another sequence's context already held")),
      evictions_(metrics.AddCounter("drafter_evictions_total", "Contexts lost for want of memory")),
      out_of_sync_(metrics.AddCounter("out_of_sync_total", "Sequences that had to be fed again",
                                      {{"stream", "speculate"}})),
      stale_(metrics.AddCounter("stale_messages_total", "Messages that came too late to matter",
                                {{"stream", "speculate"}})) {
  metrics.OnScrape([this] { Refresh(); });
}

void DrafterMetrics::OnStep(const DraftStep& step) {
  step_seconds_.Observe(absl::ToDoubleSeconds(step.time));
  busy_seconds_.Increment(absl::ToDoubleSeconds(step.time));
}

void DrafterMetrics::Follow(const DraftLoop* loop) {
  absl::MutexLock lock(&mu_);
  loop_ = loop;
}

void DrafterMetrics::Refresh() {
  absl::MutexLock lock(&mu_);
  if (loop_ == nullptr) return;
  const DraftEngineStats stats = loop_->stats();
  sequences_.Set(static_cast<double>(stats.sequences));
  lag_.Set(static_cast<double>(stats.worst_lag));
  kv_blocks_["free"].Set(static_cast<double>(stats.blocks_free));
  kv_blocks_["used"].Set(static_cast<double>(stats.blocks_total - stats.blocks_free));
  RaiseTo(drafts_, static_cast<double>(stats.drafts));
  RaiseTo(draft_tokens_, static_cast<double>(stats.draft_tokens));
  RaiseTo(rows_, static_cast<double>(stats.rows));
  RaiseTo(shared_rows_, static_cast<double>(stats.shared_rows));
  RaiseTo(evictions_, static_cast<double>(stats.evictions));
  RaiseTo(out_of_sync_, static_cast<double>(stats.out_of_sync));
  RaiseTo(stale_, static_cast<double>(stats.stale));
}

}  // namespace tandem::drafter
