// How many rows of a step drafts may take, by utilization: all there is room for while the verifier is idle,
// none before it is saturated.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "verifier/scheduling/window_policy.h"

namespace tandem::verifier {

// Of `num_drafts` at hand; never more than load.max_draft_rows. With `prefix` it falls as load.utilization
// rises, and one that is no number counts as saturated; the other policies do as they are told at any load.
inline int MaxDraftRows(const WindowPolicy& policy, const StepLoad& load, int64_t num_drafts) {
  const int64_t room = std::min<int64_t>(std::max(load.max_draft_rows, 0), num_drafts);
  if (policy.kind != PolicyKind::kPrefix) return static_cast<int>(room);
  const double free_share =
      (kSaturatedUtilization - load.utilization) / (kSaturatedUtilization - kBusyUtilization);
  if (!(free_share > 0)) return 0;
  return static_cast<int>(std::floor(static_cast<double>(room) * std::min(free_share, 1.0)));
}

// Whether drafts can be checked at all: not without room, nor with a policy that never looks at them.
inline bool HasUseForDrafts(const WindowPolicy& policy, const StepLoad& load) {
  if (policy.kind == PolicyKind::kOff) return false;
  if (policy.kind == PolicyKind::kFixed && policy.fixed_window == 0) return false;
  return load.max_draft_rows > 0;
}

// Whether they can pay.
inline bool MayDraft(const WindowPolicy& policy, const StepLoad& load) {
  if (!HasUseForDrafts(policy, load)) return false;
  return policy.kind != PolicyKind::kPrefix || load.utilization < kSaturatedUtilization;
}

}  // namespace tandem::verifier
