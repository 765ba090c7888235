// The first message of a Run stream, each way: who we are, and whether the gateway fits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tandem/v1/run.pb.h"

namespace tandem::verifier {

// What a verifier is, as run.proto's VerifierHello has it; protocol and sampling version are this build's.
struct RunIdentity {
  std::string incarnation;  // 16 hex digits, random per start
  std::string model_fingerprint;
  std::string numerics_id;
  std::string tokenizer_hash;  // empty: the checkpoint has no tokenizer
  int32_t vocab_size = 0;
  std::vector<int32_t> eos_token_ids;
  int32_t max_model_len = 0;
  int32_t kv_block_positions = 0;
  int32_t kv_total_blocks = 0;
  int32_t max_sequences = 0;
  int32_t draft_block_size = 0;  // 0: no speculation
  bool local_socket = false;     // take a gateway's offer
  int32_t max_step_tokens = 0;   // not in the Hello: the first share of prefill tokens
};

std::string NewIncarnation();

v1::VerifierHello MakeHello(const RunIdentity& identity);

// The fields that can differ, as labels of handshake_failures_total.
const std::vector<std::string>& HelloFields();

struct HelloMismatch {
  std::string field;    // of HelloFields(); empty: the gateway fits
  absl::Status status;  // kFailedPrecondition with field and both values
};
HelloMismatch CheckHello(const RunIdentity& identity, const v1::GatewayHello& hello);

}  // namespace tandem::verifier
