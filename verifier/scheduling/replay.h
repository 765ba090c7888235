// Runs another window policy over a recorded trace: what would it have chosen, how many tokens, in what time?
//
// An estimate, since a trace shows one course of events only:
// - Time: the step time model, starting from the trace's and learning from its steps in order, predicts the
//   step with the recorded windows and with the new ones; the real time is scaled by their ratio. The
//   recorded policy thus gets the recorded time.
// - Tokens: up to the recorded window the real outcome counts. Behind a window that stood as a whole, the
//   calibrated survivals of further drafts do; behind a rejection nothing would have stood.
// - Who was drafted is taken from the trace: sequences without drafts at hand get none. `off` drafts nobody
//   and pays no draft time.
// - Steps are taken as they were recorded, although other windows would have led to others.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "verifier/scheduling/decision_trace.h"
#include "verifier/scheduling/step_time_model.h"
#include "verifier/scheduling/window_policy.h"

namespace tandem::verifier {

// Of one policy over the decoding steps of a trace.
struct ReplayTotals {
  double tokens = 0;  // anchors' successors included
  double seconds = 0;
  double window_sum = 0;

  double tokens_per_second() const { return seconds > 0 ? tokens / seconds : 0; }
};

struct ReplayResult {
  int64_t num_steps = 0;
  int64_t num_anchors = 0;  // decoding sequences, summed over the steps
  ReplayTotals replayed, recorded;

  // Per decoding sequence and step.
  double mean_window() const {
    return num_anchors > 0 ? replayed.window_sum / static_cast<double>(num_anchors) : 0;
  }
  double mean_accepted_length() const {  // bonus included
    return num_anchors > 0 ? replayed.tokens / static_cast<double>(num_anchors) : 0;
  }
};

// Steps one by one, for a trace larger than memory.
class Replayer {
 public:
  // The header is valid, as TraceReader gives it.
  Replayer(const TraceHeader& header, const WindowPolicy& policy);

  // Steps without a decoding sequence only teach the time model.
  void Add(const StepDecision& step);
  const ReplayResult& result() const { return result_; }

 private:
  const WindowPolicy policy_;
  const bool no_look_ahead_;
  StepTimeModel step_time_;
  ReplayResult result_;
  std::vector<DraftedSequence> sequences_;
  std::vector<int> windows_;
};

// The rest of a trace; the reader's error if a line is bad.
absl::StatusOr<ReplayResult> Replay(TraceReader& trace, const WindowPolicy& policy);

}  // namespace tandem::verifier
