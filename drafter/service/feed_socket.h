// A Speculate stream's feeds in and draft batches out through a Unix socket: engine/draft_loop.h's
// FeedSource.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/rpc/message_socket.h"
#include "common/speculation/wire/speculate_messages.h"
#include "drafter/engine/draft_loop.h"
#include "drafter/service/draft_outbox.h"

namespace tandem::drafter {

// The draft loop's thread only, but for last_feed. May outlive the stream, and then does nothing.
class FeedSocket final : public FeedSource {
 public:
  // `end` is told why the stream cannot go on.
  FeedSocket(std::unique_ptr<rpc::MessageSocket> socket, std::shared_ptr<DraftOutbox> outbox,
             const speculation::FeedBounds& bounds, std::function<void(absl::Status)> end);

  int fd() const override { return socket_->fd(); }
  bool sending() const override { return socket_->sending(); }
  bool OnReady(std::vector<speculation::Feed>& feeds) override;

  // Sends the batches that the outbox has, as far as there is room.
  void SendBatches();

  uint64_t last_feed() const { return last_feed_; }

 private:
  absl::Status SendAll();
  absl::Status ReceiveSome(std::vector<speculation::Feed>& feeds);

  const std::unique_ptr<rpc::MessageSocket> socket_;
  const std::shared_ptr<DraftOutbox> outbox_;
  const speculation::FeedBounds bounds_;
  const std::function<void(absl::Status)> end_;
  std::atomic<uint64_t> last_feed_{0};
  // Reused.
  v1::Feed feed_;
  v1::DraftBatch batch_;
  std::string bytes_;
};

}  // namespace tandem::drafter
