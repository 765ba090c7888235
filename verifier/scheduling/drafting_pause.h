// Spares asking for whom to draft (ChooseDrafting) where the answer was nobody: it changes as slowly as what
// is learnt, and asking costs 0.3 % of a step of 3 ms.
//
// The answer holds for kSteps, or until the load rises or somebody has a latency target. When the load falls,
// they begin anew: where one request has ended the next is often about to come, and a sequence that is
// drafted for the moment between pays for the drafter's reading of its whole context, which the step and the
// newcomers wait for. Who is drafted already is not held up by any of this.
//
//   if (pause.Holds(policy, load, candidates)) draft.assign(candidates.size(), false);
//   else { ChooseDrafting(policy, load, costs, candidates, draft); pause.Observe(load, draft); }
//
// Deterministic, no clock. Not thread-safe; the step loop owns it.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "verifier/scheduling/window_policy.h"

namespace tandem::verifier {

class DraftingPause {
 public:
  static constexpr int kSteps = 8;

  // Once a step that decodes: whether nobody is drafted, without asking. Always false for policies other than
  // `prefix`, whose answer costs nothing.
  bool Holds(const WindowPolicy& policy, const StepLoad& load, std::span<const DraftCandidate> candidates) {
    const bool somebody = std::ranges::any_of(
        candidates, [](const DraftCandidate& c) { return c.drafting || c.wanted_pace > 0; });
    if (policy.kind != PolicyKind::kPrefix || somebody || load.num_anchors > num_anchors_) return false;
    if (load.num_anchors < num_anchors_) steps_left_ = kSteps;
    num_anchors_ = load.num_anchors;
    return steps_left_-- > 0;
  }
  // What ChooseDrafting has answered.
  void Observe(const StepLoad& load, const std::vector<bool>& draft) {
    steps_left_ = std::ranges::count(draft, true) == 0 ? kSteps : 0;
    num_anchors_ = load.num_anchors;
  }

 private:
  int steps_left_ = 0;
  int num_anchors_ = 0;  // of the last step; no load is below it at first
};

}  // namespace tandem::verifier
