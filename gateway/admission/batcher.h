// Who runs, where: queue, continuous batching over the verifiers, recovery, delivery. The owner of all
// sequences.
//
// A round, after each batch of events:
//   1. deadlines, reconnects, silent verifiers
//   2. move sequences off draining verifiers that have a substitute
//   3. admit from the head of the queue while there is room; the first refusal ends the round, so nobody
//   starves
//   4. send each verifier one plan with everything new; it holds until replaced
// Reports arrive while the verifier computes its next step, so a plan acts one step later: the gateway is
// never waited for.
//
// A state machine without threads: events in, calls of links, sinks and observer out. Not thread-safe; an
// EventLoop calls it in service, tests call it directly. Borrows everything it is given.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/text/tokenizer.h"
#include "gateway/admission/observer.h"
#include "gateway/admission/peer_checks.h"
#include "gateway/admission/queue_door.h"
#include "gateway/admission/queue_pace.h"
#include "gateway/admission/replica.h"
#include "gateway/admission/sequence.h"
#include "gateway/admission/wait_queue.h"
#include "gateway/limits.h"

namespace tandem::gateway {

struct BatcherOptions {
  std::string model_id;     // as `started` reports it
  std::string incarnation;  // 16 hex digits, random per process start
  std::string tokenizer_hash;
  int32_t vocab_size = 0;              // of the model
  std::vector<int32_t> eos_token_ids;  // from the model's files; the verifier's are added
  int32_t prefill_token_budget = 0;    // prompt tokens per step and verifier; 0: the verifier's whole share
  absl::Duration lost_verifier_wait = limits::kLostVerifierWait;
  absl::Duration no_verifier_wait = limits::kNoVerifierWait;
  absl::Duration min_reconnect = limits::kMinReconnect;
  absl::Duration max_reconnect = limits::kMaxReconnect;
  absl::Duration mismatch_reconnect = limits::kMismatchReconnect;
  // A verifier without Hello, or with work and without report, for so long is taken for lost. The
  // connection's own keepalive (15 s) finds dead peers sooner; this finds hung ones, and must exceed the
  // longest step.
  absl::Duration hello_timeout = absl::Seconds(15);
  absl::Duration report_timeout = absl::Seconds(60);
  uint64_t jitter_seed = 0;  // of the reconnect times
};

// A request ready to queue; its places at the QueueDoor have been taken.
struct Submission {
  std::shared_ptr<SinkGate> sink;
  std::string request_id, api;
  CheckedRequest params;  // sampling.seed is the base seed
  struct Prompt {
    std::vector<int32_t> ids;
    int32_t max_tokens = 1;
    std::string echo;  // text in front of the output
  };
  std::vector<Prompt> prompts;
  absl::Duration received, deadline;  // monotonic
  absl::Time wall_deadline = absl::InfiniteFuture();
};

// "fp_" and 16 hex digits of weights and numerics; empty while unknown. Equal where texts are equal.
std::string SystemFingerprint(const std::optional<ModelIdentity>& identity);

class Batcher {
 public:
  // `listeners` hear their links; one each.
  Batcher(BatcherOptions options, const text::Tokenizer& tokenizer, std::vector<VerifierLink*> links,
          std::vector<VerifierLink::Listener*> listeners, QueueDoor& door, const Clock& clock,
          Observer& observer);
  ~Batcher();

  // --- Events
  // -------------------------------------------------------------------------------------------------
  void Submit(uint64_t key, Submission submission);
  // The client has gone; its sink is closed. No-op for a request that has ended.
  void Cancel(uint64_t key);
  // Ends every request with `status`.
  void FailAll(const absl::Status& status);

  void OnHello(int replica, VerifierHello hello);
  void OnReport(int replica, Report report);
  void OnDraining(int replica);
  void OnClosed(int replica, absl::Status why);

  // The round. Call once at the start, after each batch of events, and when next_wake has come.
  void Advance();
  absl::Duration next_wake() const { return next_wake_; }

  // --- For whoever asks on the same thread
  // ----------------------------------------------------------------------
  size_t num_requests() const { return requests_.size(); }
  bool any_ready() const;
  bool had_verifier() const { return had_verifier_; }
  // The identity that new and running sequences have; absent while unknown.
  const std::optional<ModelIdentity>& identity() const { return identity_; }
  // The longest that a ready verifier takes; 0: none ready.
  int32_t max_model_len() const;

 private:
  // Rounds.
  void ExpireRequests(absl::Duration now);
  void TendStreams(absl::Duration now);
  void MoveOffDraining();
  void AdmitFromQueue(absl::Duration now);
  void SendPlans();
  void TellLoad(absl::Duration now);
  void WakeAt(absl::Duration when) { next_wake_ = std::min(next_wake_, when); }

  // Admission.
  bool FitsModel(const Replica& replica, const Sequence& sequence) const;
  Replica* ChooseReplica(const Sequence& sequence);
  void Admit(Sequence& sequence, int replica, absl::Duration now);
  // nullopt: it may wait on. Also notes until when.
  std::optional<absl::Status> StrandedTooLong(Sequence& sequence, absl::Duration now);
  void Requeue(Sequence& sequence);
  void RequeuePreempted(Sequence& sequence, absl::Duration now);

  // Delivery.
  void Record(Sequence& sequence, SequenceReport&& report, Replica& replica);
  void EmitStarted(Request& request);
  void Deliver(Sequence& sequence, Delta delta, absl::Duration now);
  void FinishSequence(Sequence& sequence, Finished::Reason reason);
  void EndRequest(Request& request, const absl::Status& status);
  absl::Status FailureOf(const Sequence& sequence, const absl::Status& reported) const;

  // Recovery.
  void Violation(int replica, Sequence* culprit, const char* check);
  void RequeueAll(Replica& replica);
  absl::Duration Backoff(int failures);
  void TellState(const Replica& replica, const absl::Status& why);
  int IndexOf(const Replica& replica) const { return static_cast<int>(&replica - replicas_.data()); }

  const BatcherOptions options_;
  const text::Tokenizer& tokenizer_;
  const std::vector<VerifierLink::Listener*> listeners_;
  QueueDoor& door_;
  const Clock& clock_;
  Observer& observer_;

  std::vector<Replica> replicas_;
  std::optional<ModelIdentity> identity_;
  bool had_verifier_ = false;
  int num_with_output_ = 0;  // unfinished sequences that have output: they bind the identity

  absl::flat_hash_map<uint64_t, std::unique_ptr<Request>> requests_;
  std::map<std::pair<absl::Duration, uint64_t>, Request*> deadlines_;
  WaitQueue queue_;
  uint64_t next_id_ = 1;

  absl::Duration next_wake_ = absl::InfiniteDuration();
  Load load_;
  QueuePace pace_;
  std::minstd_rand jitter_;
};

}  // namespace tandem::gateway
