// One verifier as the batcher sees it: the state of its stream, what runs there, how much room it has left.
//
//   kDown --(retry_at)--> kConnecting --OnHello--> kReady --OnDraining--> kDraining
//   any --Close--> kClosing --OnClosed--> kDown;  any --OnClosed--> kDown
//
// Not thread-safe: the batcher's thread.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "absl/time/time.h"
#include "gateway/admission/observer.h"
#include "gateway/admission/sequence.h"
#include "gateway/admission/verifier_link.h"

namespace tandem::gateway {

class Replica {
 public:
  enum class State { kDown, kConnecting, kReady, kDraining, kClosing };

  explicit Replica(VerifierLink& link) : link_(link) {}

  VerifierLink& link() { return link_; }
  State state() const { return state_; }
  bool ready() const { return state_ == State::kReady; }
  // Whether its reports count.
  bool open() const { return state_ == State::kReady || state_ == State::kDraining; }
  VerifierState public_state() const;
  const VerifierHello& hello() const { return hello_; }

  // --- Stream
  // -------------------------------------------------------------------------------------------------
  void Connect(const GatewayHello& hello, VerifierLink::Listener& listener, absl::Duration now);
  void BecomeReady(VerifierHello hello, absl::Duration now);
  void BeginDraining() { state_ = State::kDraining; }
  void Close(const absl::Status& why);
  // The stream has ended; the next attempt comes `wait` from now.
  void BecomeDown(absl::Duration now, absl::Duration wait);
  absl::Duration retry_at() const { return retry_at_; }
  void RetryNow(absl::Duration now) { retry_at_ = now; }
  // A Hello did not fit: only an operator can change that, or the release of the pinned identity.
  bool mismatched = false;
  int failures = 0;  // streams in a row that ended before a good report

  // --- Reports
  // ------------------------------------------------------------------------------------------------
  uint64_t next_report() const { return num_reports_ + 1; }
  uint64_t last_plan() const { return last_plan_; }
  // When the verifier last said something, or was last given something to talk about.
  absl::Duration last_sign() const { return last_sign_; }
  void ExpectSign(absl::Duration now) { last_sign_ = now; }
  // Takes the figures of a checked report.
  void TakeFigures(const Report& report, absl::Duration now);

  // --- Room
  // ---------------------------------------------------------------------------------------------------
  // Whether a sequence of this length may be admitted now: its tokens and one more block fit beside what runs
  // here and has not taken its blocks yet. On an idle verifier everything may that max_model_len allows.
  bool HasRoomFor(int32_t length) const;
  // Blocks left after all running sequences have what they need next.
  int64_t FreeBlocks() const;
  uint32_t free_blocks() const { return kv_free_blocks_; }
  uint32_t cached_blocks() const { return kv_cached_blocks_; }

  // --- Plan
  // ---------------------------------------------------------------------------------------------------
  // Running sequences by id.
  std::map<uint64_t, Sequence*> running;
  // Collects until SendPlan.
  Plan plan;
  // Sends what gathered, if anything did or the waiting figures have changed. Marks which plan admitted or
  // cancelled what.
  void SendPlan(int32_t waiting_sequences, int64_t waiting_tokens, int32_t prefill_token_budget);
  // Asks the verifier to drop a running sequence; it counts as there until a report confirms the plan.
  void Cancel(Sequence& sequence);

 private:
  int64_t BlocksFor(int64_t length) const;

  VerifierLink& link_;
  State state_ = State::kDown;
  VerifierHello hello_;
  absl::Duration retry_at_ = absl::ZeroDuration();
  uint64_t num_reports_ = 0, last_plan_ = 0;
  absl::Duration last_sign_ = absl::ZeroDuration();
  uint32_t kv_free_blocks_ = 0, kv_cached_blocks_ = 0, sequence_share_ = 0;
  int32_t sent_waiting_sequences_ = 0;
  int64_t sent_waiting_tokens_ = 0;
  int unsent_cancellations_ = 0;
  std::vector<uint64_t> cancelled_by_plan_;  // plan numbers of cancellations not confirmed, one each
};

}  // namespace tandem::gateway
