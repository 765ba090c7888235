#include "verifier/service/speculate_outbox.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "common/base/status.h"
#include "common/speculation/merge_messages.h"
#include "common/speculation/wire/speculate_messages.h"

namespace tandem::verifier {
namespace {

// A token id on the wire takes up to this, an entry's other fields together about that.
constexpr int64_t kTokenBytes = 5;
constexpr int64_t kEntryBytes = 64;

// The first `rows` rows of an entry, without its request for a draft; the entry keeps the rest.
speculation::SequenceFeed SplitOff(speculation::SequenceFeed& entry, int32_t rows) {
  speculation::SequenceFeed first = entry;
  first.num_rows = rows;
  first.tokens.resize(rows + 1);
  first.draft = false;
  first.round = 0;
  entry.from += rows;
  entry.num_rows -= rows;
  entry.first_row_number += rows;
  entry.tokens.erase(entry.tokens.begin(), entry.tokens.begin() + rows);
  entry.sampling.reset();
  return first;
}

}  // namespace

void SpeculateOutbox::SetRowBytes(int64_t row_bytes) {
  absl::MutexLock lock(&mu_);
  row_bytes_ = row_bytes;
}

void SpeculateOutbox::OfferRing(std::unique_ptr<speculation::RowRingWriter> ring) {
  absl::MutexLock lock(&mu_);
  ring_ = std::move(ring);
  offer_ = true;
}

absl::StatusOr<bool> SpeculateOutbox::TakeRingAnswer(std::span<const std::byte> nonce) {
  absl::MutexLock lock(&mu_);
  if (ring_ == nullptr || offer_ || answered_) return InvalidArgument("a ring answer came without an offer");
  answered_ = true;
  ring_->Unlink();
  if (std::ranges::equal(nonce, ring_->nonce())) return true;
  ring_.reset();
  return false;
}

void SpeculateOutbox::OfferSocket(std::unique_ptr<rpc::SocketListener> socket) {
  absl::MutexLock lock(&mu_);
  socket_ = std::move(socket);
  socket_offer_ = true;
}

absl::StatusOr<std::unique_ptr<rpc::MessageSocket>> SpeculateOutbox::TakeSocketAnswer(bool connected) {
  absl::MutexLock lock(&mu_);
  if (socket_ == nullptr || socket_offer_) return InvalidArgument("a socket answer came without an offer");
  const std::unique_ptr<rpc::SocketListener> listener = std::move(socket_);
  if (!connected) return nullptr;
  ASSIGN_OR_RETURN(auto socket, listener->Accept());
  feeds_by_socket_ = true;
  return socket;
}

absl::Status SpeculateOutbox::PutRow(int64_t row_number, std::span<const std::byte> row) {
  absl::MutexLock lock(&mu_);
  TANDEM_CHECK(row_number == next_row_ && static_cast<int64_t>(row.size()) == row_bytes_);
  ++next_row_;
  if (ring_ != nullptr) return ring_->Put(row_number, row);
  if (static_cast<int64_t>(inline_rows_.size()) + row_bytes_ > kMaxWaitingBytes) {
    return ResourceExhausted(
        "more than {} bytes of rows wait for a drafter that grants credit and reads nothing",
        kMaxWaitingBytes);
  }
  inline_rows_.insert(inline_rows_.end(), row.begin(), row.end());
  return absl::OkStatus();
}

void SpeculateOutbox::PutFeed(speculation::Feed feed) {
  absl::MutexLock lock(&mu_);
  speculation::MergeFeed(pending_, std::move(feed));
}

bool SpeculateOutbox::Take(v1::SpeculateRequest& out) {
  absl::MutexLock lock(&mu_);
  if (hello_) {
    speculation::FillHello(*std::exchange(hello_, std::nullopt), *out.mutable_hello());
    return true;
  }
  if (std::exchange(offer_, false)) {
    speculation::FillRing(ring_->address(), *out.mutable_ring());
    return true;
  }
  if (std::exchange(socket_offer_, false)) {
    speculation::FillSocket(socket_->address(), *out.mutable_socket());
    return true;
  }
  if (feeds_by_socket_ || !has_feed()) return false;
  speculation::FillFeed(TakePart(), *out.mutable_feed());
  return true;
}

bool SpeculateOutbox::TakeFeed(v1::Feed& out) {
  absl::MutexLock lock(&mu_);
  if (!has_feed()) return false;
  out.Clear();
  speculation::FillFeed(TakePart(), out);
  return true;
}

// The front of what is pending. What is forgotten goes with the last part, behind all entries.
speculation::Feed SpeculateOutbox::TakePart() {
  speculation::Feed part;
  part.number = ++number_;
  const bool inline_rows = ring_ == nullptr;
  const int64_t bytes_per_row = kTokenBytes + (inline_rows ? row_bytes_ : 0);
  int64_t budget = kFeedBytes, num_rows = 0;
  auto entry = pending_.sequences.begin();
  for (; entry != pending_.sequences.end() && budget > 0; ++entry) {
    if (static_cast<int>(part.sequences.size()) == speculation::kMaxFeedEntries) break;
    const int64_t fitting = std::max<int64_t>(budget / bytes_per_row, 1);
    if (entry->num_rows > fitting) {
      part.sequences.push_back(SplitOff(*entry, static_cast<int32_t>(fitting)));
      num_rows += fitting;
      break;
    }
    budget -= entry->num_rows * bytes_per_row + kEntryBytes;
    num_rows += entry->num_rows;
    part.sequences.push_back(std::move(*entry));
  }
  pending_.sequences.erase(pending_.sequences.begin(), entry);
  if (pending_.sequences.empty()) {
    const size_t count = std::min<size_t>(pending_.forgotten.size(), speculation::kMaxFeedEntries);
    const auto end = pending_.forgotten.begin() + static_cast<ptrdiff_t>(count);
    part.forgotten.assign(pending_.forgotten.begin(), end);
    pending_.forgotten.erase(pending_.forgotten.begin(), end);
  }
  if (inline_rows) {
    const auto end = inline_rows_.begin() + num_rows * row_bytes_;
    part.rows.assign(inline_rows_.begin(), end);
    inline_rows_.erase(inline_rows_.begin(), end);
  }
  return part;
}

uint64_t SpeculateOutbox::last_feed_sent() const {
  absl::MutexLock lock(&mu_);
  return number_;
}

}  // namespace tandem::verifier
