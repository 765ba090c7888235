// A Speculate stream's feeds out and drafts in through a Unix socket: a MessageSource of the step loop.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "common/base/message_sources.h"
#include "common/rpc/message_socket.h"
#include "common/speculation/wire/speculate_messages.h"
#include "verifier/engine/drafter_link.h"
#include "verifier/service/speculate_outbox.h"

namespace tandem::verifier {

// Checks the batches of one stream and hands them to its listener, whichever way they come. Not thread-safe.
class BatchReceiver {
 public:
  BatchReceiver(const speculation::DrafterHello& hello, std::shared_ptr<const SpeculateOutbox> outbox,
                DrafterLink::Listener& listener);
  // An error ends the stream.
  absl::Status Receive(const v1::DraftBatch& message);

 private:
  const std::shared_ptr<const SpeculateOutbox> outbox_;
  DrafterLink::Listener& listener_;
  const speculation::BatchBounds bounds_;
  speculation::BatchOrder order_;
};

// The step loop's thread only. May outlive the stream, and then does nothing.
class DraftSocket final : public MessageSource {
 public:
  // `end` is told why the stream cannot go on.
  DraftSocket(std::unique_ptr<rpc::MessageSocket> socket, std::shared_ptr<SpeculateOutbox> outbox,
              BatchReceiver receiver, std::function<void(absl::Status)> end);

  int fd() const override { return socket_->fd(); }
  bool sending() const override { return socket_->sending(); }
  bool OnReady() override;

  // Sends the feeds that the outbox has, as far as there is room.
  void SendFeeds();

 private:
  absl::Status SendAll();
  absl::Status ReceiveSome();

  const std::unique_ptr<rpc::MessageSocket> socket_;
  const std::shared_ptr<SpeculateOutbox> outbox_;
  BatchReceiver receiver_;
  const std::function<void(absl::Status)> end_;
  // Reused.
  v1::Feed feed_;
  v1::DraftBatch batch_;
  std::string bytes_;
};

}  // namespace tandem::verifier
