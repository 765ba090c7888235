#include "verifier/scheduling/replay.h"

#include <algorithm>

#include "common/base/status.h"

namespace tandem::verifier {
namespace {

// Accepted drafts of a window of `window`, as far as the record tells, else as expected.
double AcceptedAt(const SequenceDecision& sequence, int window) {
  if (window <= sequence.window || sequence.accepted < sequence.window) {
    return std::min(sequence.accepted, window);
  }
  // All that was checked stood: a_j / a_window for the drafts beyond.
  const auto& survivals = sequence.survivals;
  const double known = sequence.window == 0 ? 1 : survivals[static_cast<size_t>(sequence.window - 1)];
  double accepted = sequence.accepted;
  for (int j = sequence.window; j < window && known > 0; ++j)
    accepted += survivals[static_cast<size_t>(j)] / known;
  return accepted;
}

StepTimeModel ModelOf(const StepTimeParameters& parameters) {
  auto model = StepTimeModel::FromParameters(parameters);
  TANDEM_CHECK(model.ok());
  return *std::move(model);
}

}  // namespace

Replayer::Replayer(const TraceHeader& header, const WindowPolicy& policy)
    : policy_(policy),
      no_look_ahead_(header.acceptance == speculation::AcceptanceMode::kRejection),
      step_time_(ModelOf(header.step_time)) {}

void Replayer::Add(const StepDecision& step) {
  sequences_.clear();
  int recorded_rows = 0;
  for (const SequenceDecision& sequence : step.sequences) {
    sequences_.push_back({sequence.order, sequence.survivals, sequence.confidences, sequence.probe});
    recorded_rows += sequence.window;
  }
  if (step.num_anchors > 0) {
    const double draft_seconds = policy_.kind == PolicyKind::kOff ? 0 : step.draft_seconds;
    const StepLoad load = {.step_time = &step_time_,
                           .num_anchors = step.num_anchors,
                           .num_kv_positions = step.num_kv_positions,
                           .num_prefill_tokens = step.num_prefill_tokens,
                           .max_draft_rows = step.max_draft_rows,
                           .draft_seconds = draft_seconds,
                           .utilization = step.utilization,
                           .no_look_ahead = no_look_ahead_};
    ChooseWindows(policy_, load, sequences_, windows_);
    int num_rows = 0;
    for (size_t i = 0; i < windows_.size(); ++i) {
      num_rows += windows_[i];
      result_.replayed.tokens += AcceptedAt(step.sequences[i], windows_[i]);
      result_.recorded.tokens += step.sequences[i].accepted;
    }
    const double recorded = step_time_.Predict(step.Shape(recorded_rows)) + step.draft_seconds;
    const double replayed = step_time_.Predict(step.Shape(num_rows)) + draft_seconds;
    result_.replayed.seconds += step.real_seconds * replayed / recorded;
    result_.recorded.seconds += step.real_seconds;
    result_.replayed.tokens += step.num_anchors;
    result_.recorded.tokens += step.num_anchors;
    result_.replayed.window_sum += num_rows;
    result_.recorded.window_sum += recorded_rows;
    result_.num_anchors += step.num_anchors;
    ++result_.num_steps;
  }
  step_time_.Observe(step.Shape(recorded_rows), step.real_seconds - step.draft_seconds);
}

absl::StatusOr<ReplayResult> Replay(TraceReader& trace, const WindowPolicy& policy) {
  Replayer replayer(trace.header(), policy);
  StepDecision step;
  while (true) {
    ASSIGN_OR_RETURN(const bool any, trace.Next(step));
    if (!any) return replayer.result();
    replayer.Add(step);
  }
}

}  // namespace tandem::verifier
