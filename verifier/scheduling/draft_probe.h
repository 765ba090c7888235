// Asks now and then for drafts that would not pay, so that what is expected of them stays true and
// speculation can come back.
//
// While some candidate is not drafted for its cost, steps are counted; after an interval one of them is
// drafted nevertheless: a probe. The interval starts at 16 steps and doubles with each probe up to 1024; it
// starts anew when all are drafted again, and when the load has changed by a lot. Whatever the load does,
// probes take less than a hundredth of the time, beyond the first few: one of 300 ms comes once in half a
// minute of steps, be they short or, with a long prompt among them, long. Candidates are probed in turn, by
// order.
//
//   ChooseDrafting(policy, load, costs, candidates, draft);
//   const std::optional<size_t> probe = draft_probe.Step(policy, load, costs, candidates, draft);  // may set
//   one
//   ... and when its drafts are there: DraftedSequence::probe = true.
//
// Deterministic, no clock. Not thread-safe; the step loop owns it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "verifier/scheduling/window_policy.h"

namespace tandem::verifier {

class DraftProbe {
 public:
  static constexpr int64_t kFirstInterval = 16;   // steps
  static constexpr int64_t kLastInterval = 1024;  // steps
  static constexpr double kTimeShare = 0.01;      // of all steps, for probes
  // How many probes as long as a step may be saved up; as many are there at first.
  static constexpr double kMaxSavedProbes = 4;
  // A changed load: anchors by this factor, or utilization by this much.
  static constexpr double kAnchorsFactor = 1.5;
  static constexpr double kUtilizationChange = 0.2;

  // Once a step that decodes, behind ChooseDrafting. If a probe is due, sets draft[i] of the candidate that
  // it returns. Never when drafts can be of no use (policy, saturation, no room). The arguments are those of
  // ChooseDrafting.
  std::optional<size_t> Step(const WindowPolicy& policy, const StepLoad& load,
                             std::span<const double> draft_seconds_of,
                             std::span<const DraftCandidate> candidates, std::vector<bool>& draft);

  int64_t interval() const { return interval_; }  // until the next probe, in steps

 private:
  void Restart(const StepLoad& load);
  bool LoadChanged(const StepLoad& load) const;

  int64_t interval_ = kFirstInterval;
  int64_t num_steps_ = 0;                // since the last probe
  std::optional<double> saved_seconds_;  // for probes; absent before the first step
  uint64_t last_order_ = 0;              // of who was probed last
  int num_anchors_ = 0;                  // when the interval last started anew
  double utilization_ = 0;
};

}  // namespace tandem::verifier
