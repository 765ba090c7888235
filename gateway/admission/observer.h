// What the gateway's core tells whoever counts: metrics and the log line of each request. No telemetry
// dependency here; main.cc wires it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gateway/admission/generator.h"
#include "gateway/errors.h"

namespace tandem::gateway {

enum class VerifierState { kDown, kConnecting, kReady, kDraining };

// Present sizes; the gauges of one gateway. A choice counts as one request, as in vLLM's metrics.
struct Load {
  int waiting = 0;  // choices in the queue
  int running = 0;  // choices on a verifier
  int64_t waiting_tokens = 0;
  int64_t kv_total_blocks = 0, kv_free_blocks = 0, kv_cached_blocks = 0;  // of all ready verifiers
  int kv_block_positions = 0;
  int verifiers[4] = {};  // by VerifierState
  bool operator==(const Load&) const = default;
};

// One request's life, when it ends. Durations are zero where the request did not get that far.
struct RequestSummary {
  std::string request_id;
  std::string trace_id;  // of the client's traceparent, 32 hex digits; empty without
  std::string api;
  absl::Status status;        // OK, or what OnError said
  const char* finish_reason;  // "stop", "length" (of the last choice to finish), "" with an error
  uint64_t seed = 0;
  int choices = 0;
  int64_t prompt_tokens = 0, cached_prompt_tokens = 0, output_tokens = 0;  // prompt tokens: each prompt once
  int64_t drafted = 0, checked = 0, accepted = 0;
  absl::Duration queue_time;    // received to first admission
  absl::Duration prefill_time;  // admission to first token
  absl::Duration decode_time;   // first token to last
  absl::Duration time_to_first_token, duration;
  // (last - first) / (tokens - 1) of its first choice; zero below two tokens.
  absl::Duration time_per_output_token;
};

// Called on the batcher's thread except where noted; must not block.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void OnAccepted(std::string_view /*api*/) {}  // any thread
  virtual void OnRejected(std::string_view /*api*/, const absl::Status& /*why*/) {
  }  // any thread; nothing was started
  virtual void OnRequestEnd(const RequestSummary& /*summary*/) {}
  // `tokens` delivered to one choice; `gap` since its previous delivery, zero for the first.
  virtual void OnTokens(int /*tokens*/, absl::Duration /*gap*/) {}
  virtual void OnPreemption() {}
  // A sequence left a lost or draining verifier and "resumed" elsewhere, or was "lost".
  virtual void OnFailover(const char* /*outcome*/) {}
  virtual void OnLoad(const Load& /*load*/) {}  // whenever it changed
  virtual void OnVerifierState(int /*verifier*/, const std::string& /*name*/, VerifierState /*state*/,
                               const absl::Status& /*why*/) {}
  // Plans and reports go through gRPC although a socket was possible.
  virtual void OnFallback(const std::string& /*name*/, const absl::Status& /*why*/) {}
  virtual void OnHandshakeFailure(int /*verifier*/, const char* /*field*/) {}
  virtual void OnProtocolError(int /*verifier*/, const char* /*check*/) {}
  virtual void OnStaleMessage() {}
};

}  // namespace tandem::gateway
