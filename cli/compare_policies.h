// `tandem bench --compare off,fixed:7,prefix`: the same prompts under several window policies, on stacks of
// its own that run side by side but work one at a time, strictly in turns: A B C, B C A, ... So whatever
// disturbs the machine disturbs all alike.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/comparison.h"

namespace tandem::cli {

struct CompareOptions {
  std::vector<std::string> policies;  // window policies; "off" runs without a drafter process
  std::string model, drafter;         // as StackOptions has them
  std::vector<std::string> settings;  // --set
  std::vector<std::string> prompts;   // the sample, already drawn
  int rounds = 3;                     // over all prompts
  int64_t max_tokens = 128;
  double temperature = 0;
  uint64_t seed = 1;                              // of prompt i: seed + i
  absl::Duration time_limit = absl::Minutes(12);  // no run begins after it
};

// "off,prefix" -> its parts, each a valid policy and none twice; kInvalidArgument otherwise.
absl::StatusOr<std::vector<std::string>> ParsePolicies(const std::string& text);

// Progress goes to stderr, a dot a pair of runs. The first failed request ends it.
absl::StatusOr<Comparison> ComparePolicies(const CompareOptions& options);

}  // namespace tandem::cli
