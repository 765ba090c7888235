// What a verifier has to say on one Speculate stream, merged until it can be said.
//
// The stream's writer takes from it whenever no write is in flight: the hello, the offers, then feeds (unless
// they go through a socket), of which those that wait have become one. A message carries at most about
// kFeedBytes of tokens and inline rows; what is more is split at rows. Thread-safe; shared by the stream and
// the step loop, and may outlive the stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "common/rpc/message_socket.h"
#include "common/speculation/messages.h"
#include "common/speculation/row_ring.h"
#include "tandem/v1/speculate.pb.h"

namespace tandem::verifier {

class SpeculateOutbox {
 public:
  static constexpr int64_t kFeedBytes = int64_t{1} << 20;
  // Inline rows that wait for a drafter which grants credit and does not read: more ends the stream.
  static constexpr int64_t kMaxWaitingBytes = int64_t{256} << 20;

  explicit SpeculateOutbox(const speculation::VerifierHello& hello) : hello_(hello) {}

  // Rows have this size from now on and go inline, or into the ring once it is in use.
  void SetRowBytes(int64_t row_bytes) ABSL_LOCKS_EXCLUDED(mu_);
  void OfferRing(std::unique_ptr<speculation::RowRingWriter> ring) ABSL_LOCKS_EXCLUDED(mu_);
  // The drafter's answer: whether its nonce is the ring's, which is then in use; else rows go inline. The
  // ring's name is removed either way. kInvalidArgument if none was offered.
  absl::StatusOr<bool> TakeRingAnswer(std::span<const std::byte> nonce) ABSL_LOCKS_EXCLUDED(mu_);

  // The same for a socket: the drafter's answer, whether it has connected. If it has feeds go through what is
  // returned (by TakeFeed), else (null) through the stream.
  void OfferSocket(std::unique_ptr<rpc::SocketListener> socket) ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<std::unique_ptr<rpc::MessageSocket>> TakeSocketAnswer(bool connected)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Errors end the stream.
  absl::Status PutRow(int64_t row_number, std::span<const std::byte> row) ABSL_LOCKS_EXCLUDED(mu_);
  void PutFeed(speculation::Feed feed) ABSL_LOCKS_EXCLUDED(mu_);

  // The writer's source: false if there is nothing to say.
  bool Take(v1::SpeculateRequest& out) ABSL_LOCKS_EXCLUDED(mu_);
  // For a socket: the next feed, or false.
  bool TakeFeed(v1::Feed& out) ABSL_LOCKS_EXCLUDED(mu_);

  uint64_t last_feed_sent() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  bool has_feed() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return !pending_.sequences.empty() || !pending_.forgotten.empty();
  }
  speculation::Feed TakePart() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable absl::Mutex mu_;
  std::optional<speculation::VerifierHello> hello_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<speculation::RowRingWriter> ring_ ABSL_GUARDED_BY(mu_);
  bool offer_ ABSL_GUARDED_BY(mu_) = false;                           // the ring is to be offered
  bool answered_ ABSL_GUARDED_BY(mu_) = false;                        // and its answer has come
  std::unique_ptr<rpc::SocketListener> socket_ ABSL_GUARDED_BY(mu_);  // until its answer has come
  bool socket_offer_ ABSL_GUARDED_BY(mu_) = false;                    // the socket is to be offered
  bool feeds_by_socket_ ABSL_GUARDED_BY(mu_) = false;
  int64_t row_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t next_row_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<std::byte> inline_rows_ ABSL_GUARDED_BY(mu_);  // of the pending feed, in order
  speculation::Feed pending_ ABSL_GUARDED_BY(mu_);
  uint64_t number_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace tandem::verifier
