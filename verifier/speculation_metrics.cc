#include "verifier/speculation_metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace tandem::verifier {

using telemetry::RaiseTo;

namespace {

std::vector<std::string> Positions(int n) {
  std::vector<std::string> positions;
  for (int i = 1; i <= n; ++i) positions.push_back(std::to_string(i));
  return positions;
}

std::vector<std::string> SurvivalBuckets() {
  std::vector<std::string> lower_ends = {"0"};
  for (size_t b = 1; b < kSurvivalBuckets; ++b) lower_ends.push_back(fmt::format("0.{}", b));
  return lower_ends;
}

const char* BreakerStateName(DraftBreaker::State state) {
  switch (state) {
    case DraftBreaker::State::kClosed:
      return "closed";
    case DraftBreaker::State::kOpen:
      return "open";
    case DraftBreaker::State::kHalfOpen:
      break;
  }
  return "half_open";
}

}  // namespace

SpeculationMetrics::SpeculationMetrics(telemetry::Metrics& metrics, const EngineOptions& options)
    : positions_(Positions(options.max_draft_tokens)),
      proposed_(metrics.AddCounter("spec_proposed_tokens_total", "Draft tokens received")),
      rounds_(metrics.AddCounter("spec_drafts_total", "Rounds in which drafts were checked")),
      checked_(metrics.AddCounter("spec_draft_tokens_total", "Draft tokens checked by the model")),
      accepted_(metrics.AddCounter("spec_accepted_tokens_total", "Draft tokens accepted")),
      expected_accepted_(metrics.AddCounter("spec_expected_accepted_tokens_total",
                                            "Acceptances that the calibrated confidences promised")),
      checked_at_(metrics.AddCounters("spec_checked_tokens_per_pos_total",
                                      "Draft tokens checked, by position", "position", positions_)),
      accepted_at_(metrics.AddCounters("spec_accepted_tokens_per_pos_total",
                                       "Draft tokens accepted, by position", "position", positions_)),
      survivals_(SurvivalBuckets()),
      expected_in_(metrics.AddCounters("spec_expected_accepted_tokens_per_survival_total",
                                       "Acceptances promised, by the promise a draft (from this on, a tenth)",
                                       "survival", survivals_)),
      checked_in_(metrics.AddCounters("spec_checked_tokens_per_survival_total",
                                      "Draft tokens checked, by what was promised of them", "survival",
                                      survivals_)),
      accepted_in_(metrics.AddCounters("spec_accepted_tokens_per_survival_total",
                                       "Draft tokens accepted, by what was promised of them", "survival",
                                       survivals_)),
      fallbacks_(metrics.AddCounters("spec_fallback_total", "Rounds of a sequence without drafts, by reason",
                                     "reason", {kDraftFallbackNames.begin(), kDraftFallbackNames.end()})),
      row_bytes_(metrics.AddCounters("hidden_state_bytes_total", "Hidden rows handed to drafters",
                                     "transport", {"inline", "shm"})),
      out_of_sync_(metrics.AddCounter("out_of_sync_total",
                                      "Sequences of which a drafter had less than was thought",
                                      {{"stream", "speculate"}})),
      windows_(metrics.AddHistogram("spec_window_tokens", "Drafts checked, per decoding sequence and step",
                                    telemetry::WindowBuckets())),
      accepted_lengths_(metrics.AddHistogram("spec_accepted_length_tokens",
                                             "Tokens of a round with drafts, the target's own included",
                                             telemetry::WindowBuckets())),
      draft_wait_(metrics.AddHistogram("draft_wait_seconds", "From asking for drafts to having them",
                                       telemetry::StepBuckets())),
      calibration_errors_(metrics.AddGauges(
          "spec_calibration_error_ratio",
          "Expected calibration error of the survivals (20 bins), by position", "position", positions_)),
      breaker_states_(metrics.AddGauges("breaker_state", "Drafters by the state of their circuit breaker",
                                        "state", {"closed", "open", "half_open"})),
      interference_(metrics.AddGauge("draft_interference_ratio",
                                     "Share of the time of drafting beside a step by which the step takes "
                                     "longer, of the drafter with the largest; 1 while unknown")) {
  const SpeculationOptions& speculation = options.speculation;
  const std::string policy = speculation.num_drafters == 0 ? "off" : WindowPolicyName(speculation.policy);
  metrics.AddGauge("spec_policy", "Always 1; the label is the window policy", {{"policy", policy}}).Set(1);
  // Seen at once by whoever looks at a dashboard: with it the text means nothing.
  metrics
      .AddGauge("spec_synthetic_acceptance",
                "1: acceptance is made up for a benchmark, the text is meaningless")
      .Set(speculation.synthetic_acceptance.empty() ? 0 : 1);
  if (speculation.num_drafters > 0) {
    drafter_up_ = &metrics.AddGauge("drafter_up", "Drafters with an open stream");
  }
}

void SpeculationMetrics::OnStep(const StepStats& step, const EngineStats& stats) {
  for (const int window : step.windows) windows_.Observe(window);
  for (const int length : step.accepted_lengths) accepted_lengths_.Observe(length);
  for (const double seconds : step.draft_waits) draft_wait_.Observe(seconds);
  RaiseTo(proposed_, static_cast<double>(stats.drafted));
  RaiseTo(checked_, static_cast<double>(stats.checked));
  RaiseTo(accepted_, static_cast<double>(stats.accepted));
  const SpeculationStats& speculation = stats.speculation;
  RaiseTo(rounds_, static_cast<double>(speculation.rounds));
  RaiseTo(expected_accepted_, speculation.expected_accepted);
  for (size_t i = 0; i < std::min(positions_.size(), speculation.checked_at.size()); ++i) {
    RaiseTo(checked_at_[positions_[i]], static_cast<double>(speculation.checked_at[i]));
    RaiseTo(accepted_at_[positions_[i]], static_cast<double>(speculation.accepted_at[i]));
  }
  for (size_t b = 0; b < survivals_.size(); ++b) {
    RaiseTo(expected_in_[survivals_[b]], speculation.expected_in[b]);
    RaiseTo(checked_in_[survivals_[b]], static_cast<double>(speculation.checked_in[b]));
    RaiseTo(accepted_in_[survivals_[b]], static_cast<double>(speculation.accepted_in[b]));
  }
  for (size_t i = 0; i < kDraftFallbackNames.size(); ++i) {
    RaiseTo(fallbacks_[kDraftFallbackNames[i]], static_cast<double>(speculation.fallbacks[i]));
  }
  RaiseTo(row_bytes_["inline"], static_cast<double>(speculation.inline_row_bytes));
  RaiseTo(row_bytes_["shm"], static_cast<double>(speculation.shm_row_bytes));
  RaiseTo(out_of_sync_, static_cast<double>(speculation.out_of_sync));
}

void SpeculationMetrics::Refresh(const EngineStats& stats) {
  if (drafter_up_ == nullptr) return;
  double up = 0, closed = 0, open = 0, half_open = 0, interference = 0;
  std::vector<double> errors(positions_.size(), 0.0);
  for (const EngineStats::DrafterStatus& drafter : stats.drafters) {
    up += drafter.up;
    interference = std::max(interference, drafter.interference);
    const std::string state = BreakerStateName(drafter.breaker);
    (state == "closed" ? closed : state == "open" ? open : half_open) += 1;
    for (size_t i = 0; i < std::min(errors.size(), drafter.calibration_errors.size()); ++i) {
      errors[i] = std::max(errors[i], drafter.calibration_errors[i]);
    }
  }
  drafter_up_->Set(up);
  interference_.Set(interference);
  breaker_states_["closed"].Set(closed);
  breaker_states_["open"].Set(open);
  breaker_states_["half_open"].Set(half_open);
  for (size_t i = 0; i < positions_.size(); ++i) calibration_errors_[positions_[i]].Set(errors[i]);
}

}  // namespace tandem::verifier
