// For whom to ask for drafts: ChooseDrafting of window_policy.h.
//
// With n sequences drafted the step gives, at its best windows, V(n) = tokens / (T + s D(n)) tokens per
// second. Drafts don't exist yet, so mean survivals stand in for theirs. Candidates are ranked by what is
// expected of their drafts; the best n of them is found on a grid that doubles and is then refined, and taken
// if it beats what is drafted now by enough. Candidates with a latency target that this leaves too slow are
// drafted beyond that, if it speeds them up.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "common/base/status.h"
#include "verifier/scheduling/draft_rows.h"
#include "verifier/scheduling/frontier.h"
#include "verifier/scheduling/latency_target.h"
#include "verifier/scheduling/window_policy.h"

namespace tandem::verifier {
namespace {

double ExpectedTokens(const DraftCandidate& candidate) {
  double sum = 0;
  for (const double survival : candidate.expected_survivals)
    sum += survival > 0 ? std::min(survival, 1.0) : 0;
  return sum;
}

class DraftingSearch {
 public:
  DraftingSearch(const StepLoad& load, std::span<const double> draft_seconds_of,
                 std::span<const DraftCandidate> candidates)
      : load_(load), draft_seconds_of_(draft_seconds_of), candidates_(candidates) {
    Rank();
    OrderDrafts();
    StepShape shape = {load.num_anchors, load.num_kv_positions, load.num_prefill_tokens};
    for (size_t n = 0; n <= ranks_.size(); ++n, ++shape.num_decode_rows) {
      step_seconds_.push_back(load.step_time->Predict(shape));
    }
  }

  // draft[i] for the best choice, or for the present one if the best does not gain enough.
  void Choose(std::vector<bool>& draft) const {
    const auto [best, best_step] = BestCount();
    size_t num_drafting = 0, num_changes = 0;
    for (size_t rank = 0; rank < by_rank_.size(); ++rank) {
      const bool drafting = candidates_[by_rank_[rank]].drafting;
      num_drafting += drafting;
      num_changes += drafting != (rank < best);
    }
    const FrontierPoint present =
        num_changes == 0
            ? best_step
            : At([this](size_t rank) { return candidates_[by_rank_[rank]].drafting; }, num_drafting);
    // The margin is a share of what the sequences that change bring: one newcomer among a hundred moves the
    // sum by a hundredth at most.
    const double margin = kHysteresis * static_cast<double>(num_changes) / std::max(load_.num_anchors, 1);
    const bool change = Rate(best_step) > Rate(present) * (1 + margin);
    // Drafts of which none would be checked are not worth asking for, however little they cost.
    const bool stay = !change && present.num_admitted > 0;
    for (size_t rank = 0; rank < by_rank_.size(); ++rank) {
      const size_t i = by_rank_[rank];
      draft[i] = change ? rank < best : stay && candidates_[i].drafting;
    }
  }

 private:
  // Who is drafted already goes before others who are not clearly better.
  void Rank() {
    std::vector<double> gains;
    for (const DraftCandidate& candidate : candidates_) {
      gains.push_back(ExpectedTokens(candidate) * (candidate.drafting ? 1 + kHysteresis : 1));
    }
    by_rank_.resize(candidates_.size());
    std::iota(by_rank_.begin(), by_rank_.end(), size_t{0});
    std::sort(by_rank_.begin(), by_rank_.end(), [&](size_t a, size_t b) {
      if (gains[a] != gains[b]) return gains[a] > gains[b];
      return candidates_[a].order != candidates_[b].order ? candidates_[a].order < candidates_[b].order
                                                          : a < b;
    });
  }

  // All drafts of all candidates, the likeliest first; of any subset of the candidates the best windows are
  // found by walking this list and leaving the others out.
  void OrderDrafts() {
    std::vector<DraftedSequence> sequences;
    sequences.reserve(by_rank_.size());
    num_drafts_of_.reserve(by_rank_.size());
    for (const size_t i : by_rank_) {
      sequences.push_back({.order = candidates_[i].order, .survivals = candidates_[i].expected_survivals});
      num_drafts_of_.push_back(static_cast<int64_t>(candidates_[i].expected_survivals.size()));
    }
    const auto num_drafts =
        static_cast<size_t>(std::accumulate(num_drafts_of_.begin(), num_drafts_of_.end(), int64_t{0}));
    ranks_.reserve(num_drafts);
    survivals_.reserve(num_drafts);
    step_seconds_.reserve(num_drafts + 1);
    Frontier frontier(sequences);
    for (Frontier::Draft draft; frontier.Next(draft);) {
      ranks_.push_back(static_cast<uint32_t>(draft.sequence));
      survivals_.push_back(std::min(draft.survival, 1.0));
    }
  }

  static double Rate(const FrontierPoint& point) { return point.tokens / point.seconds; }

  // The best step with the `num_drafted` candidates of these ranks drafted.
  template <typename IsDrafted>
  FrontierPoint At(IsDrafted&& is_drafted, size_t num_drafted) const {
    int64_t num_drafts = 0;
    for (size_t rank = 0; rank < by_rank_.size(); ++rank) {
      if (is_drafted(rank)) num_drafts += num_drafts_of_[rank];
    }
    const double draft_seconds = draft_seconds_of_[num_drafted];
    size_t next = 0;
    return SearchFrontier(
        load_.num_anchors, MaxDraftRows(WindowPolicy{}, load_, num_drafts),
        load_.no_look_ahead ? PathEnd::kFirstLoss : PathEnd::kAll,
        [&](double& survival) {
          while (next < ranks_.size() && !is_drafted(ranks_[next])) ++next;
          if (next == ranks_.size()) return false;
          survival = survivals_[next++];
          return true;
        },
        [&](int n) { return step_seconds_[static_cast<size_t>(n)] + draft_seconds; });
  }
  FrontierPoint BestOf(size_t n) const {
    return At([n](size_t rank) { return rank < n; }, n);
  }

  // The n of the highest V(n), and its step: 0, 1, 2, 4, ... and all first, then ever closer around the best
  // of them.
  std::pair<size_t, FrontierPoint> BestCount() const {
    size_t best = 0;
    FrontierPoint best_step = BestOf(0);
    double best_rate = Rate(best_step);
    const auto consider = [&](size_t n) {
      const FrontierPoint step = BestOf(n);
      const double rate = Rate(step);
      if (rate > best_rate || (rate == best_rate && n < best)) {
        best = n;
        best_step = step;
        best_rate = rate;
      }
    };
    const size_t all = by_rank_.size();
    for (size_t n = 1; n < all; n *= 2) consider(n);
    if (all > 0) consider(all);
    // Among hundreds a finer choice moves V by less than the hysteresis.
    for (size_t step = all / 4; best > 0 && step > all / 128; step /= 2) {
      const size_t around = best;
      if (around > step) consider(around - step);
      if (around + step <= all) consider(around + step);
    }
    return {best, best_step};
  }

  const StepLoad& load_;
  const std::span<const double> draft_seconds_of_;
  const std::span<const DraftCandidate> candidates_;
  std::vector<size_t> by_rank_;         // candidates, the most promising first
  std::vector<int64_t> num_drafts_of_;  // by rank
  std::vector<uint32_t> ranks_;         // of all drafts in order: whose it is
  std::vector<double> survivals_;       // and how likely it is accepted
  std::vector<double> step_seconds_;    // [n] = time of the step with n drafts
};

// Candidates that are to be faster, in their order. The step is taken to have no drafts but their own.
void DraftForTargets(const StepLoad& load, std::span<const double> draft_seconds_of,
                     std::span<const DraftCandidate> candidates, std::vector<bool>& draft) {
  std::vector<size_t> promised;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (candidates[i].wanted_pace > 0 && !draft[i]) promised.push_back(i);
  }
  if (promised.empty()) return;
  std::ranges::stable_sort(promised, {}, [&](size_t i) { return candidates[i].order; });
  auto num_drafted = static_cast<size_t>(std::ranges::count(draft, true));
  for (const size_t i : promised) {
    const DraftCandidate& candidate = candidates[i];
    const auto seconds_with = [&](int num_drafts) {
      const double step = load.step_time->Predict(
          {load.num_anchors + num_drafts, load.num_kv_positions, load.num_prefill_tokens});
      if (num_drafts == 0) return step + draft_seconds_of[num_drafted];
      return (step + draft_seconds_of[num_drafted + 1]) * (candidate.drafting ? 1 : 1 + kHysteresis);
    };
    draft[i] = WindowForPace(candidate.wanted_pace, candidate.expected_survivals, 0, load.max_draft_rows,
                             /*no_look_ahead=*/false, seconds_with) > 0;
    num_drafted += draft[i];
  }
}

}  // namespace

void ChooseDrafting(const WindowPolicy& policy, const StepLoad& load,
                    std::span<const double> draft_seconds_of, std::span<const DraftCandidate> candidates,
                    std::vector<bool>& draft) {
  draft.assign(candidates.size(), false);
  if (!HasUseForDrafts(policy, load)) return;
  if (policy.kind != PolicyKind::kPrefix) {
    draft.assign(candidates.size(), true);
    return;
  }
  TANDEM_CHECK(load.step_time != nullptr && draft_seconds_of.size() > candidates.size());
  if (MayDraft(policy, load)) DraftingSearch(load, draft_seconds_of, candidates).Choose(draft);
  DraftForTargets(load, draft_seconds_of, candidates, draft);
}

}  // namespace tandem::verifier
