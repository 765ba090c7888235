// One Run stream as the batcher sees it: the protocol's messages as plain structs, and the link that carries
// them. proto/tandem/v1/run.proto explains each field; gateway/run_link speaks it over gRPC, tests put a fake
// in its place.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/message_sources.h"
#include "common/sampling/sampler.h"

namespace tandem::gateway {

// A sequence resumes only where both are equal.
struct ModelIdentity {
  std::string fingerprint;
  std::string numerics_id;
  bool operator==(const ModelIdentity&) const = default;
};

struct GatewayHello {
  std::string incarnation;
  ModelIdentity identity;  // empty: whatever the verifier has
  std::string tokenizer_hash;
  int32_t vocab_size = 0;
};

// Numbers as the peer sent them: not yet checked.
struct VerifierHello {
  uint32_t protocol_major = 0, protocol_minor = 0;
  std::string incarnation;
  uint32_t sampling_version = 0;
  ModelIdentity identity;
  std::string tokenizer_hash;
  uint32_t vocab_size = 0;
  std::vector<int32_t> eos_token_ids;
  uint32_t max_model_len = 0;
  uint32_t kv_block_positions = 0;
  uint32_t kv_total_blocks = 0;
  uint32_t max_sequences = 0;
  uint32_t draft_block_size = 0;
};

struct Admission {
  uint64_t id = 0;
  uint32_t epoch = 0;
  std::vector<int32_t> token_ids;  // prompt, then the output so far
  int32_t prompt_length = 0;
  sampling::SamplingParams sampling;
  int32_t min_tokens = 0;
  int32_t max_tokens = 1;
  std::vector<int32_t> stop_token_ids;
  std::optional<int32_t> num_logprobs;
  int32_t priority = 0;
  double tpot_target_ms = 0;  // 0: none
  absl::Time deadline = absl::InfiniteFuture();
  std::string cache_owner;
  std::string request_id;
  std::string traceparent;
  std::string tracestate;
};

struct Cancellation {
  uint64_t id = 0;
  uint32_t epoch = 0;
};

struct Acknowledgement {
  uint64_t id = 0;
  uint32_t epoch = 0;
  int64_t length = 0;
};

struct Plan {
  std::vector<Admission> admissions;
  std::vector<Cancellation> cancellations;
  std::vector<Acknowledgement> acknowledgements;
  int32_t prefill_token_budget = 0;  // per step; 0 = the whole share
  int32_t waiting_sequences = 0;
  int64_t waiting_tokens = 0;
};

// Takes what a later plan says into one that has not been sent: lists are joined (of a sequence the last
// admission and acknowledgement count; an admission that is cancelled before it was sent goes, with its
// cancellation), figures replaced.
void MergePlan(Plan& pending, Plan&& next);

// kUnknown: a value that this version does not know.
enum class SequenceEnd { kRunning, kStop, kLength, kPreempted, kCancelled, kFailed, kUnknown };

struct SequenceReport {
  uint64_t id = 0;
  uint32_t epoch = 0;
  uint32_t length = 0;
  uint32_t first_index = 0;
  std::vector<int32_t> token_ids;
  std::vector<sampling::TokenLogprobs> logprobs;
  uint32_t computed_length = 0;
  uint32_t cached_length = 0;
  uint64_t drafted = 0, checked = 0, accepted = 0;
  std::string drafted_marks;  // one byte per token id: 1 = an accepted draft; empty: none is
  std::vector<uint64_t> rounds_by_accepted;
  SequenceEnd end = SequenceEnd::kRunning;
  absl::Status error;  // with kFailed
};

struct Report {
  uint64_t number = 0;
  uint64_t plan_number = 0;
  std::vector<SequenceReport> sequences;
  uint32_t kv_free_blocks = 0;
  uint32_t kv_cached_blocks = 0;
  uint32_t running_sequences = 0;
  float utilization = 0;
  uint32_t sequence_share = 0;
  uint32_t prefill_token_share = 0;
};

// The way to one verifier. At most one stream at a time:
//
//   Connect -> OnHello -> OnReport ... -> OnClosed      (OnClosed may come at any point, exactly once per
//   Connect)
//
// Connect, SendPlan and Close are called on one thread (the batcher's) and never wait for the network.
class VerifierLink {
 public:
  // Called on threads of the link, one call at a time, but for OnReport by a source; may not call back into
  // the link.
  class Listener {
   public:
    virtual ~Listener() = default;
    virtual void OnHello(VerifierHello hello) = 0;
    virtual void OnReport(Report report) = 0;
    virtual void OnDraining(absl::Duration until_closed) = 0;
    // Reports come by the socket of this source: whoever hears has OnReady called on the thread that calls
    // the link, at once and whenever it is ready, until OnClosed and maybe once then, for what came last.
    // OnReport is called by it. At most once per stream, after OnHello.
    virtual void OnSource(std::shared_ptr<MessageSource> source) = 0;
    // No socket can be had, plans and reports go through gRPC.
    virtual void OnFallback(absl::Status why) = 0;
    virtual void OnClosed(absl::Status why) = 0;
  };

  // Ends the stream; returns when the listener is not called any more.
  virtual ~VerifierLink() = default;

  // Starts a stream and sends Hello. `listener` is borrowed until OnClosed has returned and its source is no
  // longer called. Allowed again after that.
  virtual void Connect(const GatewayHello& hello, Listener& listener) = 0;
  // Sends a plan, merged with those that wait for a write in flight. Returns the number under which it goes
  // out, for comparison with Report::plan_number. Without a stream the plan is dropped (OnClosed is on its
  // way).
  virtual uint64_t SendPlan(Plan plan) = 0;
  // Ends the stream; OnClosed follows. `why` goes to the peer.
  virtual void Close(const absl::Status& why) = 0;
  // For logs: the peer's address.
  virtual const std::string& name() const = 0;
};

}  // namespace tandem::gateway
