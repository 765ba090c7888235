// What changes between steps: streams come and go, plans admit and cancel, sequences end.
#include <algorithm>

#include "common/base/status.h"
#include "verifier/engine/fair_shares.h"
#include "verifier/engine/step_engine.h"

namespace tandem::verifier {
namespace {

int32_t BlocksFor(int32_t positions) {
  return (positions + kernels::kKvBlockPositions - 1) / kernels::kKvBlockPositions;
}

}  // namespace

void StepEngine::OpenStream(StreamId stream) {
  const bool is_new = streams_.try_emplace(stream).second;
  TANDEM_CHECK(is_new);
  shares_changed_ = true;
}

void StepEngine::CloseStream(StreamId stream) {
  if (streams_.erase(stream) == 0) return;
  for (const auto& sequence : running_) {
    if (sequence->stream() != stream) continue;
    FreeBlocks(*sequence);
    sequence->End();
  }
  RemoveEnded();
  if (speculator_ != nullptr) speculator_->Flush();  // there may be no step that says it
  shares_changed_ = true;
}

void StepEngine::ApplyPlan(StreamId stream_id, Plan&& plan) {
  const auto found = streams_.find(stream_id);
  if (found == streams_.end()) return;  // closed meanwhile
  StreamState& stream = found->second;
  stream.plan_number = plan.number;
  stream.prefill_token_budget = plan.prefill_token_budget;
  stream.waiting_sequences = plan.waiting_sequences;
  stream.waiting_tokens = plan.waiting_tokens;
  bool must_wait = false;
  for (Admission& admission : plan.admissions) Admit(stream, stream_id, std::move(admission), &must_wait);
  for (const Cancellation& cancellation : plan.cancellations) Cancel(stream, cancellation);
  for (const Acknowledgement& acknowledgement : plan.acknowledgements) Acknowledge(stream, acknowledgement);
  RemoveEnded();
  if (speculator_ != nullptr) speculator_->Flush();
  // A plan that only acknowledges is not answered, else plans and reports would never come to rest.
  if (!plan.admissions.empty() || !plan.cancellations.empty()) stream.report_due = true;
  shares_changed_ = true;
}

void StepEngine::Admit(StreamState& stream, StreamId stream_id, Admission&& admission, bool* must_wait) {
  if (const auto known = stream.records.find(admission.id); known != stream.records.end()) {
    if (admission.epoch < known->second.epoch) ++totals_.stale_messages;
    if (admission.epoch <= known->second.epoch) return;
    // The gateway has given up the old epoch and wants no more of it.
    if (Sequence* old = known->second.live; old != nullptr) {
      FreeBlocks(*old);
      old->End();
      --stream.running;
    }
    stream.records.erase(known);
  }
  if (absl::Status valid = ValidateAdmission(admission, vocab_size_, max_model_len_); !valid.ok()) {
    return Refuse(stream, admission, SequenceEnd::kFailed, std::move(valid));
  }
  auto sequence = std::make_unique<Sequence>(stream_id, last_admission_number_ + 1, std::move(admission));
  const Admission& request = sequence->request();
  // After a failover the recorded output may already be the whole answer.
  if (const SequenceEnd end = sequence->EndOfTokens(); end != SequenceEnd::kRunning) {
    return Refuse(stream, request, end, absl::OkStatus());
  }
  const bool share_used_up = stream.running >= SequenceShare(stream_id);
  if (*must_wait || totals_.running_sequences >= options_.max_sequences || share_used_up ||
      !TryPlace(*sequence)) {
    *must_wait = true;
    ++totals_.refused_admissions;
    return Refuse(stream, request, SequenceEnd::kPreempted, absl::OkStatus());
  }
  ++last_admission_number_;
  ++stream.running;
  ++totals_.running_sequences;
  totals_.prompt_tokens += sequence->confirmed_len();
  stream.records[request.id] = {request.epoch, sequence.get(), 0};
  running_.push_back(std::move(sequence));
}

// Takes the blocks of all known tokens, shared ones first, if one more than those is to be had: a sequence
// that was just placed should not be the next to be preempted. No more than it can ever fill, though.
bool StepEngine::TryPlace(Sequence& sequence) {
  const int32_t length = sequence.confirmed_len();
  // At least the anchor is computed, since its logits are needed.
  const int32_t max_match = length - 1;
  const std::string& owner = sequence.request().cache_owner;
  const PrefixCache::Found found = cache_.Peek(owner, sequence.tokens(), max_match);
  const int32_t wanted = std::min(BlocksFor(length) + 1, BlocksFor(sequence.max_len() - 1));
  if (wanted - found.blocks > cache_.available() - found.unreferenced) return false;

  sequence.blocks = cache_.Match(owner, sequence.tokens(), max_match, &sequence.prefix);
  sequence.num_shared_blocks = static_cast<int32_t>(sequence.blocks.size());
  sequence.blocks.reserve(BlocksFor(sequence.max_len()));
  while (static_cast<int32_t>(sequence.blocks.size()) < BlocksFor(length)) {
    const int32_t block = cache_.Take();
    TANDEM_CHECK(block >= 0);
    sequence.blocks.push_back(block);
  }
  const int32_t cached = sequence.num_shared_blocks * kernels::kKvBlockPositions;
  sequence.AdvanceKv(cached);
  sequence.report.cached_length = cached;
  totals_.cached_prompt_tokens += cached;
  return true;
}

void StepEngine::Cancel(StreamState& stream, const Cancellation& cancellation) {
  const auto known = stream.records.find(cancellation.id);
  if (known == stream.records.end()) return;  // ended and forgotten: the cancellation crossed the end
  if (cancellation.epoch != known->second.epoch) {
    ++totals_.stale_messages;
    return;
  }
  if (known->second.live != nullptr) EndSequence(*known->second.live, SequenceEnd::kCancelled);
}

void StepEngine::Acknowledge(StreamState& stream, const Acknowledgement& acknowledgement) {
  const auto known = stream.records.find(acknowledgement.id);
  if (known == stream.records.end()) return;
  if (acknowledgement.epoch != known->second.epoch) {
    ++totals_.stale_messages;
    return;
  }
  if (known->second.live == nullptr && acknowledgement.length >= known->second.final_length) {
    stream.records.erase(known);
  }
}

void StepEngine::Refuse(StreamState& stream, const Admission& admission, SequenceEnd end,
                        absl::Status error) {
  SequenceReport report;
  report.id = admission.id;
  report.epoch = admission.epoch;
  report.length = report.first_index = static_cast<int32_t>(admission.tokens.size());
  report.end = end;
  report.error = std::move(error);
  stream.RecordEnd(report.id, report.epoch, report.length);
  stream.finals.push_back(std::move(report));
}

void StepEngine::EndSequence(Sequence& sequence, SequenceEnd end, absl::Status error) {
  StreamState& stream = streams_.at(sequence.stream());
  sequence.report.computed_length = sequence.kv_len();
  sequence.report.end = end;
  sequence.report.error = std::move(error);
  stream.RecordEnd(sequence.id(), sequence.epoch(), sequence.confirmed_len());
  stream.finals.push_back(std::move(sequence.report));
  --stream.running;
  FreeBlocks(sequence);
  sequence.End();
  shares_changed_ = true;
}

void StepEngine::FreeBlocks(Sequence& sequence) {
  if (speculator_ != nullptr) speculator_->Forget(sequence);
  cache_.Release(sequence.blocks);
  sequence.blocks.clear();
  --totals_.running_sequences;
}

void StepEngine::RemoveEnded() {
  std::erase_if(running_, [](const auto& sequence) { return sequence->state() == SequenceState::kEnded; });
  TANDEM_CHECK(static_cast<int32_t>(running_.size()) == totals_.running_sequences);
  if (running_.empty()) {
    blocks_.CheckInvariant();
    TANDEM_CHECK(blocks_.free() + blocks_.cached() == blocks_.total());
    utilization_.Idle();
    if (record_) record_->Close(clock_.Now());
  }
}

void StepEngine::ProposeDrafts(StreamId stream, uint64_t id, uint32_t epoch, int32_t length, int32_t anchor,
                               std::span<const int32_t> drafts) {
  const auto found = streams_.find(stream);
  if (found == streams_.end()) return;
  const auto known = found->second.records.find(id);
  const bool fits =
      known != found->second.records.end() && known->second.epoch == epoch && known->second.live != nullptr;
  const bool valid =
      std::ranges::all_of(drafts, [&](int32_t token) { return token >= 0 && token < vocab_size_; });
  if (!fits || !valid) {
    ++totals_.stale_messages;
    return;
  }
  PendingDrafts& pending = known->second.live->drafts;
  pending.length = length;
  pending.anchor = anchor;
  pending.tokens.assign(drafts.begin(),
                        drafts.begin() + std::min<size_t>(drafts.size(), options_.max_draft_tokens));
  pending.window = static_cast<int32_t>(pending.tokens.size());
}

void StepEngine::ObserveDecisions(DecisionObserver* observer) {
  record_.reset();
  if (observer != nullptr) record_.emplace(*observer);
}

absl::Status StepEngine::OpenDrafter(int drafter, DrafterStream stream) {
  TANDEM_CHECK(speculator_ != nullptr);
  return speculator_->Open(drafter, std::move(stream));
}

void StepEngine::CloseDrafter(int drafter) { speculator_->Close(drafter, running_); }

void StepEngine::TakeDrafts(int drafter, speculation::DraftBatch&& batch, absl::Duration arrived) {
  speculator_->Take(drafter, std::move(batch), arrived, running_);
}

void StepEngine::OnDrafterProtocolError(int drafter) { speculator_->OnProtocolError(drafter); }

int64_t StepEngine::SequenceShare(StreamId stream) const {
  std::vector<int64_t> demands;
  size_t self = 0;
  for (const auto& [id, state] : streams_) {
    if (id == stream) self = demands.size();
    demands.push_back(int64_t{state.running} + state.waiting_sequences);
  }
  return ShareOf(self, options_.max_sequences, demands);
}

}  // namespace tandem::verifier
