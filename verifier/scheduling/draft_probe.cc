#include "verifier/scheduling/draft_probe.h"

#include <algorithm>
#include <cmath>

#include "common/base/status.h"
#include "common/speculation/messages.h"
#include "verifier/scheduling/draft_rows.h"

namespace tandem::verifier {
namespace {

// Of a step, charged for a probe however little it seems to cost.
constexpr double kLeastCost = 0.1;

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

// While a sequence waits for its draft the others go on: it misses a step, which is hardly shorter without
// it.
double MissedStepSeconds(const StepLoad& load) {
  if (load.num_anchors < 2) return 0;
  const double step = load.step_time->Predict({load.num_anchors, load.num_kv_positions, 0});
  const double without = load.step_time->Predict({load.num_anchors - 1, load.num_kv_positions, 0});
  return std::max(0.0, step / load.num_anchors - (step - without));
}

}  // namespace

DraftProbe::DraftProbe() : evidence_(speculation::kMaxBlockSize, kEvidenceMemory) {}

void DraftProbe::Restart(const StepLoad& load) {
  interval_ = kFirstInterval;
  waited_seconds_ = 0;
  num_anchors_ = std::max(load.num_anchors, 1);
  utilization_ = load.utilization;
}

bool DraftProbe::LoadChanged(const StepLoad& load) const {
  const double now = std::max(load.num_anchors, 1), then = num_anchors_;  // 0 at first: anything is a change
  return std::max(now / then, then / now) >= kAnchorsFactor ||
         std::abs(load.utilization - utilization_) >= kUtilizationChange;
}

bool DraftProbe::EvidencePays(const WindowPolicy& policy, const StepLoad& load,
                              std::span<const double> draft_seconds_of,
                              std::span<const DraftCandidate> candidates, const std::vector<bool>& draft) {
  const std::span<const double> evidence = evidence_.survivals();
  wishes_.assign(candidates.begin(), candidates.end());
  for (size_t i = 0; i < wishes_.size(); ++i) {
    std::span<const double>& expected = wishes_[i].expected_survivals;
    if (!draft[i]) expected = evidence.first(std::min(expected.size(), evidence.size()));
  }
  ChooseDrafting(policy, load, draft_seconds_of, wishes_, chosen_);
  for (size_t i = 0; i < wishes_.size(); ++i) {
    if (chosen_[i] && !draft[i]) return true;
  }
  return false;
}

std::optional<size_t> DraftProbe::Step(const WindowPolicy& policy, const StepLoad& load,
                                       std::span<const double> draft_seconds_of,
                                       std::span<const DraftCandidate> candidates, std::vector<bool>& draft) {
  TANDEM_CHECK(draft.size() == candidates.size() && draft_seconds_of.size() > candidates.size());
  StepShape shape = {load.num_anchors, load.num_kv_positions, load.num_prefill_tokens};
  const double step = load.step_time->Predict(shape);
  // Of a step without prompts: one long prompt at the start would else pay for a slow drafter at once.
  const double decode = load.step_time->Predict({load.num_anchors, load.num_kv_positions, 0});
  const std::optional<size_t> next = NextInTurn(candidates, draft, last_order_);
  double cost = 0;
  if (next.has_value()) {
    shape.num_decode_rows += static_cast<int>(candidates[*next].expected_survivals.size());
    cost = MoreDraftSeconds(draft_seconds_of, std::ranges::count(draft, true));
    cost =
        std::max(cost + load.step_time->Predict(shape) - step + MissedStepSeconds(load), kLeastCost * step);
    // What a draft takes is not known before the first one.
    if (draft_seconds_of.back() == 0) cost = std::max(cost, step);
  }
  most_saved_seconds_ = std::max(cost, kMaxSavedProbes * decode);
  saved_seconds_ =
      std::min(saved_seconds_.value_or(kMaxSavedProbes * decode) + kTimeShare * step, most_saved_seconds_);
  waited_seconds_ += step;
  if (!MayDraft(policy, load)) return std::nullopt;
  if (!next.has_value() || LoadChanged(load)) {
    Restart(load);
    return std::nullopt;
  }
  if (waited_seconds_ < interval_ || *saved_seconds_ < cost) return std::nullopt;
  *saved_seconds_ -= cost;
  waited_seconds_ = 0;
  interval_ = EvidencePays(policy, load, draft_seconds_of, candidates, draft)
                  ? kFirstInterval
                  : std::min(interval_ * 2, kLastInterval);
  seconds_per_token_ = decode / std::max(load.num_anchors, 1);
  last_order_ = candidates[*next].order;
  draft[*next] = true;
  return next;
}

void DraftProbe::Observe(int checked, int accepted) {
  TANDEM_CHECK(0 <= accepted && accepted <= checked && checked <= speculation::kMaxBlockSize);
  evidence_.Observe(checked, accepted);
  // A probe that brought more than it cost does not pay for others beyond what can be saved.
  saved_seconds_ = std::min(saved_seconds_.value_or(0) + accepted * seconds_per_token_, most_saved_seconds_);
}

}  // namespace tandem::verifier
