#include "verifier/engine/decision_record.h"

#include <algorithm>
#include <cmath>

#include "common/base/status.h"

namespace tandem::verifier {

StepDecision& DecisionRecord::Open(absl::Duration begin) {
  Close(begin);
  begin_ = begin;
  num_sequences_ = 0;
  open_ = true;
  return step_;
}

void DecisionRecord::Add(const Sequence& sequence, int32_t length, int window, int accepted) {
  TANDEM_CHECK(open_ && 0 <= accepted && accepted <= window);
  const PendingDrafts& drafts = sequence.drafts;
  const bool asked = sequence.progress.asked_length == length;
  // Drafts without survivals are not a drafter's.
  if (!asked && drafts.survivals.empty()) return;
  if (num_sequences_ == step_.sequences.size()) step_.sequences.emplace_back();
  SequenceDecision& decision = step_.sequences[num_sequences_++];
  decision.order = sequence.admission_number();
  decision.drafted = asked;
  decision.probe = sequence.progress.probe;
  decision.survivals.assign(drafts.survivals.begin(), drafts.survivals.end());
  decision.confidences.clear();
  if (!drafts.confidence_logits.empty()) {
    for (size_t i = 0; i < drafts.survivals.size(); ++i) {
      decision.confidences.push_back(1 / (1 + std::exp(-double{drafts.confidence_logits[i]})));
    }
  }
  decision.window = window;
  decision.accepted = accepted;
}

void DecisionRecord::Close(absl::Duration now) {
  if (!open_) return;
  open_ = false;
  step_.sequences.resize(num_sequences_);
  // A clock too coarse to see a step gives the shortest time that a trace holds.
  step_.real_seconds = std::max(absl::ToDoubleSeconds(now - begin_), 1e-9);
  observer_.OnDecision(step_);
}

}  // namespace tandem::verifier
