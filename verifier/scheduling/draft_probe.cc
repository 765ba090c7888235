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

// Of one drafted sequence more.
double MoreDraftSeconds(std::span<const double> draft_seconds_of, size_t num_drafted) {
  if (num_drafted + 1 >= draft_seconds_of.size()) return 0;
  return draft_seconds_of[num_drafted + 1] - draft_seconds_of[num_drafted];
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
                                       std::span<const double> draft_seconds_of,
                                       std::span<const DraftCandidate> candidates, std::vector<bool>& draft) {
  TANDEM_CHECK(draft.size() == candidates.size() && draft_seconds_of.size() > candidates.size());
  const double step =
      load.step_time->Predict({load.num_anchors, load.num_kv_positions, load.num_prefill_tokens});
  const double cost = std::max(MoreDraftSeconds(draft_seconds_of, std::ranges::count(draft, true)), step);
  // Of a step without prompts: one long prompt at the start would else pay for a slow drafter at once.
  const double most = kMaxSavedProbes * load.step_time->Predict({load.num_anchors, load.num_kv_positions, 0});
  saved_seconds_ = std::min(saved_seconds_.value_or(most) + kTimeShare * step, std::max(cost, most));
  if (!MayDraft(policy, load)) return std::nullopt;
  const std::optional<size_t> next = NextInTurn(candidates, draft, last_order_);
  if (!next.has_value() || LoadChanged(load)) {
    Restart(load);
    return std::nullopt;
  }
  if (++num_steps_ < interval_ || *saved_seconds_ < cost) return std::nullopt;
  *saved_seconds_ -= cost;
  num_steps_ = 0;
  interval_ = std::min(interval_ * 2, kLastInterval);
  last_order_ = candidates[*next].order;
  draft[*next] = true;
  return next;
}

}  // namespace tandem::verifier
