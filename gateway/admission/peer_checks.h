// What the gateway checks of a verifier's messages before it uses any number in them. Pure functions.
//
// Each returns the name of the check that failed (a metric label), or nullptr.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gateway/admission/verifier_link.h"

namespace tandem::gateway {

// What a verifier must be to serve this gateway's sequences.
struct ExpectedVerifier {
  std::optional<ModelIdentity> identity;  // absent: any
  std::string tokenizer_hash;
  int32_t vocab_size = 0;
  std::vector<int32_t> eos_token_ids;  // in any order
};

struct HelloMismatch {
  const char* field;    // "protocol", "sampling_version", ...
  std::string message;  // names field and both values
};
std::optional<HelloMismatch> CheckHello(const VerifierHello& hello, const ExpectedVerifier& expected);

// What the gateway knows of the sequence that an entry names.
struct KnownSequence {
  std::span<const int32_t> ids;  // prompt and output so far
  int32_t prompt_length = 0;
  int32_t max_tokens = 0;
  std::span<const int32_t> stop_token_ids;
  std::optional<int32_t> num_logprobs;
};
const char* CheckSequenceReport(const SequenceReport& report, const KnownSequence& known, int32_t vocab_size);

// Figures of the whole report, its number included.
const char* CheckReport(const Report& report, uint64_t expected_number, uint64_t last_plan_number,
                        const VerifierHello& hello);

}  // namespace tandem::gateway
