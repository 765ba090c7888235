// Asks now and then for drafts that would not pay, so that what is expected of them stays true and
// speculation can come back.
//
// While some candidate is not drafted for its cost, an interval runs in seconds of steps; behind it one of
// them is drafted nevertheless: a probe. What stood of recent probes, by position and whatever the drafter
// says of itself, is the evidence: as long as drafting would pay if drafts were accepted as often as those,
// the interval is the shortest, so that a drafter that thinks too little of itself is found out within
// seconds; otherwise it doubles with each probe. It starts anew when all are drafted again, and when the load
// has changed by a lot. Candidates are probed in turn, by order.
//
// Whatever the load does and the evidence says, probes lose less than a two-hundredth of the time, beyond the
// first few: each must be saved up for, be steps short or, with a long prompt among them, long. A probe costs
// its draft, the rows that check it, and the step that its sequence misses meanwhile; tokens that it brings
// are given back as the time they would have taken. One of 300 ms that brings nothing thus comes once in a
// minute of steps, and those that pay cost nothing.
//
//   ChooseDrafting(policy, load, costs, candidates, draft);
//   const std::optional<size_t> probe = draft_probe.Step(policy, load, costs, candidates, draft);  // may set
//   one
//   ... and when its drafts are there: DraftedSequence::probe = true.
//   draft_probe.Observe(checked, accepted);      // what came of it
//
// Deterministic, no clock. Not thread-safe; the step loop owns it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "verifier/scheduling/acceptance_history.h"
#include "verifier/scheduling/window_policy.h"

namespace tandem::verifier {

class DraftProbe {
 public:
  static constexpr double kFirstInterval = 0.05;  // seconds of steps
  static constexpr double kLastInterval = 2;      // seconds of steps
  static constexpr double kTimeShare = 0.005;     // of all steps, for what probes lose
  // How many probes as long as a step may be saved up; as many are there at first.
  static constexpr double kMaxSavedProbes = 4;
  static constexpr double kEvidenceMemory = 32;  // probes
  // A changed load: anchors by this factor, or utilization by this much.
  static constexpr double kAnchorsFactor = 1.5;
  static constexpr double kUtilizationChange = 0.2;

  DraftProbe();

  // Once a step that decodes, behind ChooseDrafting. If a probe is due, sets draft[i] of the candidate that
  // it returns. Never when drafts can be of no use (policy, saturation, no room). The arguments are those of
  // ChooseDrafting.
  std::optional<size_t> Step(const WindowPolicy& policy, const StepLoad& load,
                             std::span<const double> draft_seconds_of,
                             std::span<const DraftCandidate> candidates, std::vector<bool>& draft);

  // Of a probe's drafts `checked` were looked at and `accepted` stood; 0 <= accepted <= checked <= 64. Once
  // per probe; one that was never checked need not be told.
  void Observe(int checked, int accepted);

  double interval() const { return interval_; }  // until the next probe, in seconds of steps

 private:
  void Restart(const StepLoad& load);
  bool LoadChanged(const StepLoad& load) const;
  // Whether some of those that are not drafted would be, if their drafts were accepted as those of probes.
  bool EvidencePays(const WindowPolicy& policy, const StepLoad& load,
                    std::span<const double> draft_seconds_of, std::span<const DraftCandidate> candidates,
                    const std::vector<bool>& draft);

  double interval_ = kFirstInterval;
  double waited_seconds_ = 0;            // since the last probe
  std::optional<double> saved_seconds_;  // for probes; absent before the first step
  double most_saved_seconds_ = 0;
  double seconds_per_token_ = 0;  // without drafts, at the last probe
  AcceptanceHistory evidence_;
  uint64_t last_order_ = 0;  // of who was probed last
  int num_anchors_ = 0;      // when the interval last started anew
  double utilization_ = 0;
  // Work areas.
  std::vector<DraftCandidate> wishes_;
  std::vector<bool> chosen_;
};

}  // namespace tandem::verifier
