// What a step decided on drafts, put together while the step runs, for whoever observes decisions.
//
//   StepDecision& step = record.Open(begin);     // the step computes something; the one before ends at
//   `begin` step.num_anchors = ...;                      // the caller fills in everything but sequences and
//   real time record.Add(sequence, length, window, accepted);      // behind each window record.Close(now);
//   // nothing runs any more: no next step will end this one
//
// A step's time reaches to the start of the next one (waits for drafts and messages are part of it), unless
// nothing is left to run behind it. Memory is reused, so that a step costs copies of a few numbers.
//
// Not thread-safe; the step loop owns it.
#pragma once

#include "absl/time/time.h"
#include "verifier/engine/sequence.h"
#include "verifier/scheduling/decision_trace.h"

namespace tandem::verifier {

// Told of every step that computed something, in order, on the step loop's thread: it must take microseconds.
class DecisionObserver {
 public:
  virtual ~DecisionObserver() = default;
  // `step` may be swapped with one that is of no use any more, for its memory; its content is overwritten.
  virtual void OnDecision(StepDecision& step) = 0;
};

class DecisionRecord {
 public:
  // Borrows the observer.
  explicit DecisionRecord(DecisionObserver& observer) : observer_(observer) {}

  StepDecision& Open(absl::Duration begin);
  // Before the sequence's drafts are cleared; `length` = its confirmed tokens when the step began. Without
  // drafts at hand, and none asked for in this round: no-op.
  void Add(const Sequence& sequence, int32_t length, int window, int accepted);
  // No-op if no step is open.
  void Close(absl::Duration now);

 private:
  DecisionObserver& observer_;
  StepDecision step_;
  size_t num_sequences_ = 0;  // of step_.sequences; the entries behind them are kept for their memory
  absl::Duration begin_;
  bool open_ = false;
};

}  // namespace tandem::verifier
