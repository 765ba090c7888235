// Runs the same requests with and without speculation and compares the texts byte for byte: alone, all at
// once, and while drafter and verifier are killed and come back.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::cli {

struct LosslessOptions {
  std::string model, drafter;         // as StackOptions has them
  std::vector<std::string> settings;  // --set
  std::vector<std::string> policies;
  std::vector<std::string> prompts;
  std::vector<double> temperatures = {0, 0.8};
  int64_t max_tokens = 96;  // of each text; EOS does not end it
  uint64_t seed = 1;        // of request i: seed + i
};

// How the requests were sent.
struct LosslessPass {
  std::string name;  // "alone", "batched", "faults"
  int equal = 0;     // texts like the reference
  int texts = 0;
  int64_t checked = 0, accepted = 0;  // drafts
};

struct PolicyVerdict {
  std::string policy;
  std::vector<LosslessPass> passes;
  int drafter_kills = 0, verifier_kills = 0;
  // Streams that had begun and ran on when their process was killed.
  int streams_without_drafter = 0, streams_without_verifier = 0;
  std::string first_difference;  // empty: none

  bool equal() const;
  int64_t checked() const;
  int64_t accepted() const;
};

// The reference is a stack without drafter, each request alone. An error: a stack did not start or a request
// failed, which is a failure of the promise as well.
absl::StatusOr<std::vector<PolicyVerdict>> CheckLossless(const LosslessOptions& options);

// "byte 17: ...abc|def... instead of ...abc|xyz..."
std::string DescribeDifference(const std::string& found, const std::string& expected);

}  // namespace tandem::cli
