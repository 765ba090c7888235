#include "drafter/service/draft_outbox.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <utility>

#include "common/speculation/merge_messages.h"
#include "common/speculation/projection_bytes.h"
#include "common/speculation/wire/speculate_messages.h"

namespace tandem::drafter {

void DraftOutbox::PutHello(speculation::DrafterHello hello, const speculation::Projection& projection,
                           BatchHook hook) {
  absl::MutexLock lock(&mu_);
  if (hello.row_width > 0) projection_ = &projection;
  hello_ = std::move(hello);
  hook_ = std::move(hook);
}

void DraftOutbox::PutRingAnswer(std::string nonce) {
  absl::MutexLock lock(&mu_);
  ring_answer_ = std::move(nonce);
}

void DraftOutbox::PutSocketAnswer(bool connected) {
  absl::MutexLock lock(&mu_);
  socket_answer_ = connected;
}

void DraftOutbox::UseSocket() {
  absl::MutexLock lock(&mu_);
  batches_by_socket_ = true;
}

void DraftOutbox::PutBatch(speculation::DraftBatch batch) {
  absl::MutexLock lock(&mu_);
  if (pending_) {
    speculation::MergeBatch(*pending_, std::move(batch));
  } else {
    pending_ = std::move(batch);
  }
}

void DraftOutbox::PutDraining() {
  absl::MutexLock lock(&mu_);
  draining_ = true;
}

bool DraftOutbox::Take(v1::SpeculateResponse& out) {
  absl::MutexLock lock(&mu_);
  if (silent_) return false;
  if (std::exchange(draining_, false)) {
    out.mutable_draining();
    silent_ = true;
    return true;
  }
  if (hello_) {
    speculation::FillHello(*std::exchange(hello_, std::nullopt), *out.mutable_hello());
    return true;
  }
  if (ring_answer_) {
    out.mutable_ring()->set_nonce(*std::exchange(ring_answer_, std::nullopt));
    return true;
  }
  if (socket_answer_) {
    out.mutable_socket()->set_connected(*std::exchange(socket_answer_, std::nullopt));
    return true;
  }
  if (TakeChunk(out)) return true;
  if (batches_by_socket_) return false;
  const std::optional<speculation::DraftBatch> batch = NextBatch();
  if (batch) speculation::FillBatch(*batch, *out.mutable_drafts());
  return batch.has_value();
}

bool DraftOutbox::TakeBatch(v1::DraftBatch& out) {
  absl::MutexLock lock(&mu_);
  if (silent_) return false;
  const std::optional<speculation::DraftBatch> batch = NextBatch();
  if (!batch) return false;
  out.Clear();
  speculation::FillBatch(*batch, out);
  return true;
}

bool DraftOutbox::TakeChunk(v1::SpeculateResponse& out) {
  if (projection_ == nullptr) return false;
  const int64_t left = speculation::ProjectionNumBytes(*projection_) - chunk_offset_;
  const int64_t size = std::min(left, speculation::kProjectionChunkBytes);
  std::string data(size, '\0');
  speculation::CopyProjectionBytes(*projection_, chunk_offset_, std::as_writable_bytes(std::span(data)));
  out.mutable_projection()->set_offset(static_cast<uint64_t>(chunk_offset_));
  out.mutable_projection()->set_data(std::move(data));
  chunk_offset_ += size;
  if (size == left) projection_ = nullptr;
  return true;
}

std::optional<speculation::DraftBatch> DraftOutbox::NextBatch() {
  if (hooked_.empty()) {
    if (!pending_) return std::nullopt;
    speculation::DraftBatch batch = *std::exchange(pending_, std::nullopt);
    batch.number = ++number_;
    if (hook_ == nullptr) return batch;
    std::ranges::move(hook_(std::move(batch)), std::back_inserter(hooked_));
    if (hooked_.empty()) return std::nullopt;
  }
  speculation::DraftBatch batch = std::move(hooked_.front());
  hooked_.pop_front();
  return batch;
}

}  // namespace tandem::drafter
