// `tandem bench --profile`: where the time of a round goes, by stage, on a stack of its own with one request
// at a time, beside what the machine can read and compute at most, measured in the same run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tandem::cli {

struct ProfileOptions {
  std::string model, drafter;         // as StackOptions has them
  std::vector<std::string> settings;  // --set
  std::vector<std::string> prompts;
  int64_t max_tokens = 128;
  double temperature = 0;
  uint64_t seed = 1;  // of prompt i: seed + i
  int threads = 0;    // for the limits; those of the verifier
};

struct ProfileStage {
  std::string name;
  double seconds = 0;
  double bytes = 0, operations = 0;  // 0: not counted
};

// Sums over all prompts; prefill left out. The stages together are the decoding time.
struct Profile {
  double rounds = 0, tokens = 0;
  double seconds = 0;  // of all tokens but each answer's first, as the client saw it
  std::vector<ProfileStage> stages;
  double read_bytes_per_second = 0, operations_per_second = 0;  // limits
  double weight_bytes = 0;
};

absl::StatusOr<Profile> MeasureProfile(const ProfileOptions& options);

std::string FormatTable(const Profile& profile);
nlohmann::json ToJson(const Profile& profile);

}  // namespace tandem::cli
