#include "drafter/service/feed_socket.h"

#include <optional>
#include <string_view>
#include <utility>

#include "common/base/status.h"

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
  RETURN_IF_ERROR(socket_->Flush());
  while (!socket_->sending() && outbox_->TakeBatch(batch_)) {
    TANDEM_CHECK(batch_.SerializeToString(&bytes_));
    RETURN_IF_ERROR(socket_->Send(bytes_));
  }
  return absl::OkStatus();
}

absl::Status FeedSocket::ReceiveSome(std::vector<speculation::Feed>& feeds) {
  do {
    ASSIGN_OR_RETURN(const std::optional<std::string_view> bytes, socket_->Receive());
    if (!bytes) break;
    if (!feed_.ParseFromArray(bytes->data(), static_cast<int>(bytes->size())))
      return InvalidArgument("a message of the socket is no Feed");
    ASSIGN_OR_RETURN(speculation::Feed feed, speculation::ReadFeed(feed_, bounds_));
    last_feed_ = feed.number;
    feeds.push_back(std::move(feed));
  } while (socket_->buffered());  // not until it is empty: a peer that floods must not hold the loop up
  return absl::OkStatus();
}

}  // namespace tandem::drafter
