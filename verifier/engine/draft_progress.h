// Where a sequence stands with its drafter, and the drafts at hand. Plain data of the step loop's thread;
// Speculator changes it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "common/speculation/messages.h"

namespace tandem::verifier {

// Drafts that wait for the sequence's next step; meant for exactly this state of it.
struct PendingDrafts {
  int32_t length = 0;
  int32_t anchor = 0;
  std::vector<int32_t> tokens;                                                 // empty: none
  std::vector<float> confidence_logits;                                        // one per token, or none
  std::vector<std::vector<speculation::TokenProbability>> distributions = {};  // rejection: one per token
  int32_t window = 0;                                                          // how many of them to check
  std::vector<double> survivals;  // of all that may be checked, as the policy saw them

  void Clear() {
    tokens.clear();
    confidence_logits.clear();
    distributions.clear();
    survivals.clear();
    window = 0;
  }
};

// From where a latency target is reckoned.
struct PaceStart {
  int32_t length = 0;  // confirmed; 0: not begun
  absl::Duration time = absl::ZeroDuration();
};

struct DraftProgress {
  int drafter = -1;          // index of the one that has this sequence; -1 = none
  uint64_t session = 0;      // of that drafter's stream; another one knows nothing of the sequence
  int32_t fed = 0;           // rows that it has been sent
  uint32_t round = 0;        // of the last request in this epoch
  bool drafting = false;     // asked for at the last occasion: input of the policy's hysteresis
  bool probe = false;        // asked for only to learn
  bool waiting = false;      // asked for, not there yet
  int32_t asked_length = 0;  // confirmed length that drafts were last asked for
  absl::Duration asked_at = absl::ZeroDuration();
  absl::Duration give_up_at = absl::ZeroDuration();
  int out_of_sync = 0;   // answers without progress, in a row
  bool dropped = false;  // not to be drafted any more by this session
};

}  // namespace tandem::verifier
