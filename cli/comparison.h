// What `tandem bench --compare` has measured, summed up: pure arithmetic.
#pragma once

#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace tandem::cli {

// Of one process: counters that only rise. The difference of two is what happened between.
struct EngineCounters {
  double decode_steps = 0, target_seconds = 0;  // steps, and their time in forward pass and sampling
  double project_seconds = 0;                   // of the verifier, rows for the drafter
  double drafter_seconds = 0;                   // in steps of the drafter
  double draft_wait_seconds = 0, draft_waits = 0;
  double rounds = 0, checked = 0, accepted = 0;  // with drafts; see spec_* in docs/metrics.md
  double windows = 0, window_tokens = 0;

  EngineCounters operator-(const EngineCounters& other) const;
  EngineCounters& operator+=(const EngineCounters& other);
};

// One prompt under one policy, prefill left out.
struct PolicyRun {
  int policy = 0;  // its place in the list
  int pair = 0;    // equal for the runs that belong together: same prompt, same round
  int output_tokens = 0;
  double decode_seconds = 0;  // of all tokens but the first, as the client saw it
  std::string text;
  EngineCounters engine;

  double tokens_per_second() const { return decode_seconds > 0 ? (output_tokens - 1) / decode_seconds : 0; }
};

struct PolicySummary {
  std::string policy;
  int runs = 0;
  double tokens_per_second = 0, low = 0, high = 0;  // median, 10 % and 90 % of the runs
  // Of the pairs: this policy over the first one. The median, and its quartiles.
  double speed_up = 0, speed_up_low = 0, speed_up_high = 0;
  double mean_accepted_length =
      0;                   // tau: tokens of a step with drafts, the target's own included; 0: no such step
  double mean_window = 0;  // drafts checked, per step of the sequence
  double acceptance = 0;   // accepted / checked
  double step_ms = 0, draft_step_ms = 0, draft_wait_ms = 0;
  // Per step of the target, drafted or not: tokens, what drafting took, and what passed beside both.
  double tokens_per_step = 0, drafting_ms = 0, hand_over_ms = 0;
  // T(1 + w) / T(1): a step's time over that of the policy "off"; 0 if that is not measured.
  double verify_ratio = 0;
  // Share of the decoding time outside forward pass, sampling and the drafter's steps.
  double hand_over_share = 0;
};

struct Comparison {
  std::vector<PolicySummary> policies;
  int pairs = 0;            // in which every policy ran
  int different_texts = 0;  // of these, where the policies' texts differ
};

// Pairs in which a policy is missing are left out.
Comparison Compare(const std::vector<std::string>& policies, const std::vector<PolicyRun>& runs);

nlohmann::json ToJson(const Comparison& comparison);
std::string FormatTable(const Comparison& comparison);

}  // namespace tandem::cli
