// Whether a verifier and a drafter can speculate together. Both sides ask the same question of the same two
// hellos, so they cannot disagree.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/speculation/messages.h"

namespace tandem::speculation {

// The fields that can differ, as labels of handshake_failures_total.
const std::vector<std::string>& HelloFields();

struct HelloMismatch {
  std::string field;    // of HelloFields(); empty: they fit
  absl::Status status;  // kFailedPrecondition with field and both values
};

// Requires hellos whose numbers are in range (speculate_messages.h reads no others). A target_fingerprint
// that the checkpoint names and that is unequal is no mismatch: it costs acceptance, the caller says so in
// its log.
HelloMismatch CheckHellos(const VerifierHello& verifier, const DrafterHello& drafter);

inline bool FingerprintsDiffer(const VerifierHello& verifier, const DrafterHello& drafter) {
  return !drafter.target_fingerprint.empty() && drafter.target_fingerprint != verifier.target_fingerprint;
}

}  // namespace tandem::speculation
