// Whether the rejection rule leaves the law of the text as it is: many short texts with speculation and
// without, compared by a chi-square test on their first tokens. Equality of single texts is not to be
// expected there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/chi_square.h"

namespace tandem::cli {

struct LawOptions {
  std::string model, drafter;         // as StackOptions has them
  std::vector<std::string> settings;  // --set
  std::string policy;
  std::vector<std::string> prompts;  // each is a test of its own
  double temperature = 1;
  int samples = 2000;    // of each prompt and side
  double level = 0.001;  // of all tests together: the chance that a right rule fails
  uint64_t seed = 1;     // the sides' seeds never overlap, so that the samples are independent
};

inline constexpr int kLawTokens = 3;  // an outcome is a text's first tokens, so many

struct LawVerdict {
  std::vector<Homogeneity> prompts;
  double level = 0;  // of one of these tests
  int64_t checked = 0, accepted = 0;

  bool equal() const;
};

absl::StatusOr<LawVerdict> CheckLaw(const LawOptions& options);

}  // namespace tandem::cli
