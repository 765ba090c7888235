#include "verifier/engine_metrics.h"

namespace tandem::verifier {

using telemetry::RaiseTo;

EngineMetrics::EngineMetrics(telemetry::Metrics& metrics, const EngineOptions& options)
    : step_seconds_(metrics.AddHistograms("step_seconds", "Time of a step by phase", "phase",
                                          {"plan", "forward", "sample", "project", "deliver"},
                                          telemetry::StepBuckets())),
      step_tokens_(metrics.AddHistogram("step_tokens", "Tokens of a step: anchors, drafts and prefill",
                                        telemetry::PowerOfTwoBuckets())),
      step_sequences_(
          metrics.AddHistogram("step_sequences", "Sequences of a step", telemetry::PowerOfTwoBuckets())),
      step_prediction_error_(metrics.AddHistogram("step_prediction_error_ratio",
                                                  "|predicted - real| / real time of a step",
                                                  telemetry::RelativeErrorBuckets())),
      busy_seconds_(metrics.AddCounter("verifier_busy_seconds_total", "Time spent in steps")),
      // One series with those that the Run service drops.
      stale_(metrics.AddCounter("stale_messages_total", "Messages that came too late to matter",
                                {{"stream", "run"}})),
      preemptions_(
          metrics.AddCounter("verifier_preemptions_total", "Running sequences that gave up their blocks")),
      refused_admissions_(metrics.AddCounter("verifier_refused_admissions_total",
                                             "Admissions sent back because there was no room yet")),
      prompt_tokens_(
          metrics.AddCounter("verifier_prompt_tokens_total", "Prompt tokens of placed admissions")),
      cached_prompt_tokens_(metrics.AddCounter("verifier_cached_prompt_tokens_total",
                                               "Prompt tokens taken from the prefix cache")),
      generated_tokens_(
          metrics.AddCounter("verifier_generated_tokens_total", "Tokens sampled and confirmed")),
      utilization_(metrics.AddGauge("verifier_utilization_ratio",
                                    "The larger of its parts, smoothed over 16 steps; above 1 is possible")),
      utilization_parts_(metrics.AddGauges("verifier_utilization_part_ratio", "Parts of the utilization",
                                           "kind", {"tokens", "kv"})),
      sequences_running_(metrics.AddGauge("sequences_running", "Sequences in KV memory")),
      kv_blocks_(metrics.AddGauges("kv_blocks", "KV blocks by state; together all of the pool", "state",
                                   {"free", "cached", "used"})),
      max_num_seqs_(metrics.AddGauge("max_num_seqs", "Limit of sequences in KV memory")),
      speculation_(metrics, options) {
  metrics.OnScrape([this] { Refresh(); });
}

void EngineMetrics::OnStep(const StepStats& step, const EngineStats& stats) {
  step_seconds_["plan"].Observe(absl::ToDoubleSeconds(step.plan));
  step_seconds_["forward"].Observe(absl::ToDoubleSeconds(step.forward));
  step_seconds_["sample"].Observe(absl::ToDoubleSeconds(step.sample));
  step_seconds_["project"].Observe(absl::ToDoubleSeconds(step.project));
  step_seconds_["deliver"].Observe(absl::ToDoubleSeconds(step.deliver));
  busy_seconds_.Increment(
      absl::ToDoubleSeconds(step.plan + step.forward + step.sample + step.project + step.deliver));
  if (step.sequences > 0) {
    step_tokens_.Observe(step.anchors + step.draft_tokens + step.prefill_tokens);
    step_sequences_.Observe(step.sequences);
    step_prediction_error_.Observe(step.prediction_error);
  }
  RaiseCounters(stats);
  speculation_.OnStep(step, stats);
}

void EngineMetrics::RaiseCounters(const EngineStats& stats) {
  stale_.Increment(static_cast<double>(stats.stale_messages - stale_seen_));
  stale_seen_ = stats.stale_messages;
  RaiseTo(preemptions_, static_cast<double>(stats.preemptions));
  RaiseTo(refused_admissions_, static_cast<double>(stats.refused_admissions));
  RaiseTo(prompt_tokens_, static_cast<double>(stats.prompt_tokens));
  RaiseTo(cached_prompt_tokens_, static_cast<double>(stats.cached_prompt_tokens));
  RaiseTo(generated_tokens_, static_cast<double>(stats.generated_tokens));
}

void EngineMetrics::Follow(const StepLoop* loop) {
  absl::MutexLock lock(&mu_);
  loop_ = loop;
}

void EngineMetrics::Refresh() {
  absl::MutexLock lock(&mu_);
  if (loop_ == nullptr) return;
  const EngineStats stats = loop_->stats();
  utilization_.Set(stats.utilization);
  utilization_parts_["tokens"].Set(stats.utilization_tokens);
  utilization_parts_["kv"].Set(stats.utilization_kv);
  sequences_running_.Set(stats.running_sequences);
  kv_blocks_["free"].Set(stats.blocks_free);
  kv_blocks_["cached"].Set(stats.blocks_cached);
  kv_blocks_["used"].Set(stats.blocks_total - stats.blocks_free - stats.blocks_cached);
  speculation_.Refresh(stats);
}

}  // namespace tandem::verifier
