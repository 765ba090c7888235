#include "verifier/scheduling/draft_probe.h"

#include <algorithm>
#include <cmath>

#include "common/base/status.h"
#include "verifier/scheduling/draft_rows.h"

namespace tandem::verifier {
namespace {

// Of those not drafted, the lowest order above `last`; else the lowest of all.
std::optional<size_t> NextInTurn(std::span<const DraftCandidate> candidates, const std::vector<bool>& draft,
                                 uint64_t last) {
  std::optional<size_t> next;
  const auto before = [&](const DraftCandidate& a, const DraftCandidate& b) {
    const bool a_waits = a.order > last, b_waits = b.order > last;
    return a_waits != b_waits ? a_waits : a.order < b.order;
  };
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (!draft[i] && (!next.has_value() || before(candidates[i], candidates[*next]))) next = i;
  }
  return next;
}

}  // namespace

void DraftProbe::Restart(const StepLoad& load) {
  interval_ = kFirstInterval;
  num_steps_ = 0;
  num_anchors_ = std::max(load.num_anchors, 1);
  utilization_ = load.utilization;
}

bool DraftProbe::LoadChanged(const StepLoad& load) const {
  const double now = std::max(load.num_anchors, 1), then = num_anchors_;  // 0 at first: anything is a change
  return std::max(now / then, then / now) >= kAnchorsFactor ||
         std::abs(load.utilization - utilization_) >= kUtilizationChange;
}

std::optional<size_t> DraftProbe::Step(const WindowPolicy& policy, const StepLoad& load,
                                       std::span<const DraftCandidate> candidates, std::vector<bool>& draft) {
  TANDEM_CHECK(draft.size() == candidates.size());
  saved_ = std::min(saved_ + 1 / kStepsPerProbe, kMaxSavedProbes);
  if (!MayDraft(policy, load)) return std::nullopt;
  const std::optional<size_t> next = NextInTurn(candidates, draft, last_order_);
  if (!next.has_value() || LoadChanged(load)) {
    Restart(load);
    return std::nullopt;
  }
  if (++num_steps_ < interval_ || saved_ < 1) return std::nullopt;
  saved_ -= 1;
  num_steps_ = 0;
  interval_ = std::min(interval_ * 2, kLastInterval);
  last_order_ = candidates[*next].order;
  draft[*next] = true;
  return next;
}

}  // namespace tandem::verifier
