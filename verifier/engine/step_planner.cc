#include "verifier/engine/step_planner.h"

#include <algorithm>

#include "common/base/status.h"
#include "verifier/engine/fair_shares.h"

namespace tandem::verifier {

std::span<const SequenceRowsPlan> StepPlanner::Plan(const StepLimits& limits,
                                                    std::span<const SequenceWish> wishes,
                                                    std::span<const int64_t> prefill_budgets) {
  TANDEM_CHECK(limits.max_rows > 0 && limits.max_logits_rows > 0 && limits.prefill_chunk > 0);
  plan_.assign(wishes.size(), {});
  Room room{limits.max_rows, limits.max_logits_rows};
  PlaceAnchors(wishes, room);

  const int64_t prefill_demand = CountPrefillDemand(limits, wishes, prefill_budgets);
  const auto num_prefilling = std::ranges::count_if(wishes, [](const auto& w) { return w.missing > 1; });
  const Room kept{std::min(prefill_demand, (room.rows + 1) / 2),
                  std::min<int64_t>(num_prefilling, (room.logits_rows + 1) / 2)};
  room.rows -= kept.rows;
  room.logits_rows -= kept.logits_rows;
  PlaceDrafts(wishes, room);
  room.rows += kept.rows;
  room.logits_rows += kept.logits_rows;

  PlacePrefill(limits, wishes, room);
  return plan_;
}

void StepPlanner::PlaceAnchors(std::span<const SequenceWish> wishes, Room& room) {
  const size_t n = wishes.size();
  size_t first = 0;
  while (first < n && wishes[first].admission_number <= last_served_) ++first;
  for (size_t k = 0; k < n && room.rows > 0 && room.logits_rows > 0; ++k) {
    const size_t i = (first + k) % n;
    if (wishes[i].missing != 1) continue;
    plan_[i].rows = 1;
    last_served_ = wishes[i].admission_number;
    --room.rows;
    --room.logits_rows;
  }
}

void StepPlanner::PlaceDrafts(std::span<const SequenceWish> wishes, Room& room) {
  bool placed = true;
  for (int32_t depth = 0; placed; ++depth) {
    placed = false;
    for (size_t i = 0; i < wishes.size(); ++i) {
      if (room.rows <= 0 || room.logits_rows <= 0) return;
      if (wishes[i].missing != 1 || plan_[i].rows == 0 || wishes[i].num_drafts <= depth) continue;
      ++plan_[i].drafts;
      --room.rows;
      --room.logits_rows;
      placed = true;
    }
  }
}

int64_t StepPlanner::CountPrefillDemand(const StepLimits& limits, std::span<const SequenceWish> wishes,
                                        std::span<const int64_t> prefill_budgets) {
  demands_.assign(prefill_budgets.size(), 0);
  for (const SequenceWish& wish : wishes) {
    if (wish.missing > 1) demands_[wish.stream] += std::min(wish.missing, limits.prefill_chunk);
  }
  int64_t total = 0;
  for (size_t s = 0; s < demands_.size(); ++s) {
    if (prefill_budgets[s] > 0) demands_[s] = std::min(demands_[s], prefill_budgets[s]);
    total += demands_[s];
  }
  return total;
}

void StepPlanner::PlacePrefill(const StepLimits& limits, std::span<const SequenceWish> wishes, Room& room) {
  grants_.resize(demands_.size());
  DivideFairly(room.rows, demands_, first_stream_++, grants_);
  for (size_t i = 0; i < wishes.size(); ++i) {
    const SequenceWish& wish = wishes[i];
    if (wish.missing <= 1) continue;
    int64_t& grant = grants_[wish.stream];
    int64_t rows = std::min({int64_t{wish.missing}, int64_t{limits.prefill_chunk}, grant});
    if (rows == wish.missing) {
      if (room.logits_rows > 0) {
        --room.logits_rows;
      } else {
        --rows;
      }
    }
    plan_[i].rows = static_cast<int32_t>(rows);
    grant -= rows;
  }
}

}  // namespace tandem::verifier
