#include "gateway/admission/replica.h"

#include <algorithm>
#include <utility>

#include "gateway/limits.h"

namespace tandem::gateway {

VerifierState Replica::public_state() const {
  switch (state_) {
    case State::kConnecting:
      return VerifierState::kConnecting;
    case State::kReady:
      return VerifierState::kReady;
    case State::kDraining:
      return VerifierState::kDraining;
    case State::kDown:
    case State::kClosing:
      break;
  }
  return VerifierState::kDown;
}

void Replica::Connect(const GatewayHello& hello, VerifierLink::Listener& listener, absl::Duration now) {
  last_sign_ = now;
  state_ = State::kConnecting;
  num_reports_ = last_plan_ = 0;
  mismatched = false;
  link_.Connect(hello, listener);
}

void Replica::BecomeReady(VerifierHello hello, absl::Duration now) {
  state_ = State::kReady;
  hello_ = std::move(hello);
  // Until the first report says better.
  kv_free_blocks_ = hello_.kv_total_blocks;
  kv_cached_blocks_ = 0;
  sequence_share_ = hello_.max_sequences;
  last_sign_ = now;
}

void Replica::Close(const absl::Status& why) {
  state_ = State::kClosing;
  link_.Close(why);
}

void Replica::BecomeDown(absl::Duration now, absl::Duration wait) {
  state_ = State::kDown;
  retry_at_ = now + wait;
  plan = Plan();
  sent_waiting_sequences_ = 0;
  sent_waiting_tokens_ = 0;
  unsent_cancellations_ = 0;
  cancelled_by_plan_.clear();
}

void Replica::TakeFigures(const Report& report, absl::Duration now) {
  failures = 0;
  num_reports_ = report.number;
  last_sign_ = now;
  kv_free_blocks_ = report.kv_free_blocks;
  kv_cached_blocks_ = report.kv_cached_blocks;
  sequence_share_ = report.sequence_share;
  std::erase_if(cancelled_by_plan_, [&](uint64_t plan_number) { return plan_number <= report.plan_number; });
}

int64_t Replica::BlocksFor(int64_t length) const {
  const int64_t positions = hello_.kv_block_positions;
  return (length + positions - 1) / positions;
}

int64_t Replica::FreeBlocks() const {
  int64_t free = int64_t{kv_free_blocks_} + kv_cached_blocks_;
  for (const auto& [id, sequence] : running) {
    free -= std::max<int64_t>(0, BlocksFor(sequence->length()) + 1 - BlocksFor(sequence->computed_length));
  }
  return free;
}

bool Replica::HasRoomFor(int32_t length) const {
  const size_t there =
      running.size() + cancelled_by_plan_.size() + static_cast<size_t>(unsent_cancellations_);
  if (there == 0) return true;
  return there < std::min<size_t>(sequence_share_, limits::kSequencesPerVerifier) &&
         BlocksFor(length) + 1 <= FreeBlocks();
}

void Replica::Cancel(Sequence& sequence) {
  running.erase(sequence.id);
  // Admitted by a plan that has not even left: nothing to take back.
  const auto unsent = std::find_if(plan.admissions.begin(), plan.admissions.end(),
                                   [&](const Admission& admission) { return admission.id == sequence.id; });
  if (unsent != plan.admissions.end()) {
    plan.admissions.erase(unsent);
    return;
  }
  plan.cancellations.push_back({sequence.id, sequence.epoch});
  ++unsent_cancellations_;
}

void Replica::SendPlan(int32_t waiting_sequences, int64_t waiting_tokens, int32_t prefill_token_budget) {
  const bool has_news = !plan.admissions.empty() || !plan.cancellations.empty() ||
                        !plan.acknowledgements.empty() || waiting_sequences != sent_waiting_sequences_ ||
                        waiting_tokens != sent_waiting_tokens_;
  if (!open() || !has_news) return;
  plan.waiting_sequences = sent_waiting_sequences_ = waiting_sequences;
  plan.waiting_tokens = sent_waiting_tokens_ = waiting_tokens;
  plan.prefill_token_budget = prefill_token_budget;
  // Without a stream it is dropped; reports on their way may still name the last one.
  last_plan_ = std::max(last_plan_, link_.SendPlan(std::exchange(plan, Plan())));
  cancelled_by_plan_.insert(cancelled_by_plan_.end(), static_cast<size_t>(unsent_cancellations_), last_plan_);
  unsent_cancellations_ = 0;
}

}  // namespace tandem::gateway
