#include "drafter/service/feed_socket.h"

#include <utility>

#include "common/base/status.h"
#include "common/rpc/message_exchange.h"

namespace tandem::drafter {

FeedSocket::FeedSocket(std::unique_ptr<rpc::MessageSocket> socket, std::shared_ptr<DraftOutbox> outbox,
                       const speculation::FeedBounds& bounds, std::function<void(absl::Status)> end)
    : socket_(std::move(socket)), outbox_(std::move(outbox)), bounds_(bounds), end_(std::move(end)) {}

bool FeedSocket::OnReady(std::vector<speculation::Feed>& feeds) {
  absl::Status status = ReceiveSome(feeds);
  if (status.ok()) status = SendAll();
  if (status.ok()) return true;
  end_(std::move(status));
  return false;
}

void FeedSocket::SendBatches() {
  if (absl::Status status = SendAll(); !status.ok()) end_(std::move(status));
}

absl::Status FeedSocket::SendAll() {
  return rpc::SendMessages(*socket_, batch_, bytes_,
                           [this](v1::DraftBatch& batch) { return outbox_->TakeBatch(batch); });
}

absl::Status FeedSocket::ReceiveSome(std::vector<speculation::Feed>& feeds) {
  return rpc::ReceiveMessages(*socket_, "Feed", feed_, [&](const v1::Feed& message) -> absl::Status {
    ASSIGN_OR_RETURN(speculation::Feed feed, speculation::ReadFeed(message, bounds_));
    last_feed_ = feed.number;
    feeds.push_back(std::move(feed));
    return absl::OkStatus();
  });
}

}  // namespace tandem::drafter
