// How many drafts of each sequence to check in a step, and for whom to ask for drafts at all.
//
// Pure functions of a snapshot: no clock, no lock, no network, no token values. With coupled acceptance any
// choice gives the same text. With the rejection rule a choice must not look ahead: whether draft k is
// checked may depend on survivals 1..k of its own sequence and on drafts already admitted, nothing more
// (DSpark, appendix A); `prefix` then stops at the first step that does not pay.
//
//   policies   off | fixed:k | threshold:c | prefix
//   objective  expected tokens of the step / its expected time,
//              (R + sum of admitted survivals) / (T(B, C, P) + s D(R'))
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "verifier/scheduling/step_time_model.h"

namespace tandem::verifier {

enum class PolicyKind { kOff, kFixed, kThreshold, kPrefix };

struct WindowPolicy {
  PolicyKind kind = PolicyKind::kPrefix;
  int fixed_window = 0;  // kFixed
  double threshold = 0;  // kThreshold: of the raw (uncalibrated) confidence of each draft
};

// "off", "fixed:3", "threshold:0.5", "prefix"; kInvalidArgument says what is allowed.
absl::StatusOr<WindowPolicy> ParseWindowPolicy(std::string_view text);
std::string WindowPolicyName(const WindowPolicy& policy);  // what Parse accepts

// A decoding sequence whose drafts are there. Spans borrow.
struct DraftedSequence {
  uint64_t order = 0;  // ties go to the lower one
  // a_1 >= a_2 >= ..., calibrated: the chance that drafts 1..j are all accepted. As many as may be checked.
  std::span<const double> survivals = {};
  std::span<const double> confidences =
      {};  // c_j uncalibrated, for kThreshold: one a survival, or none (as 1)
  // Asked for by DraftProbe: checked in full as far as there is room, whether that pays or not, so that its
  // outcome teaches (kPrefix only; the others don't weigh).
  bool probe = false;
  // Seconds per token that it should make, by its latency target (kPrefix only; latency_target.h): its window
  // is lengthened as far as that takes, at any load. 0: none.
  double wanted_pace = 0;
};

// The step without drafts, and what surrounds it.
struct StepLoad {
  const StepTimeModel* step_time = nullptr;
  int num_anchors = 0;           // decoding sequences in this step, drafted or not
  int64_t num_kv_positions = 0;  // C of the step without drafts
  int num_prefill_tokens = 0;
  int max_draft_rows = 0;      // room in the step
  double draft_seconds = 0;    // s * D(R'): of the drafts at hand, or of those to be asked for
  double utilization = 0;      // verifier_utilization_ratio; at kSaturated and above nothing is drafted
  bool no_look_ahead = false;  // rejection rule
};

// From kBusy on the rows of drafts shrink linearly, from kSaturated on there are none. Raising the
// utilization never lengthens a window.
inline constexpr double kBusyUtilization = 0.7;
inline constexpr double kSaturatedUtilization = 0.98;

// windows[i] in 0..survivals.size() for sequences[i]. Between equal survivals the earlier position wins, then
// the lower order. Without room for all, `fixed` and `threshold` give up the latest positions first.
void ChooseWindows(const WindowPolicy& policy, const StepLoad& load,
                   std::span<const DraftedSequence> sequences, std::vector<int>& windows);

// A decoding sequence for whose next round drafts could be asked.
struct DraftCandidate {
  uint64_t order = 0;
  // What is expected of its drafts, before they exist: mean survivals by position
  // (Calibration::ExpectedSurvivals).
  std::span<const double> expected_survivals = {};
  bool drafting = false;   // whether it was drafted last time: hysteresis
  double wanted_pace = 0;  // as DraftedSequence's: it is drafted if that brings it closer. 0: none
};

// draft[i]: ask for drafts of candidates[i]. `load.draft_seconds` is ignored; draft_seconds_of[n] = s * D(n)
// for n = 0..candidates.size(). Who is drafted changes only if that gains more than kHysteresis of what the
// sequences that change contribute: of the whole when all R change, of 1/R of it when one does. The policies
// other than `prefix` ask for all, those that never check a draft (off, fixed:0) for none.
inline constexpr double kHysteresis = 0.02;
void ChooseDrafting(const WindowPolicy& policy, const StepLoad& load,
                    std::span<const double> draft_seconds_of, std::span<const DraftCandidate> candidates,
                    std::vector<bool>& draft);

}  // namespace tandem::verifier
