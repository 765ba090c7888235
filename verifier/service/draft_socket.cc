#include "verifier/service/draft_socket.h"

#include <utility>

#include "common/base/status.h"
#include "common/rpc/message_exchange.h"

namespace tandem::verifier {

BatchReceiver::BatchReceiver(const speculation::DrafterHello& hello,
                             std::shared_ptr<const SpeculateOutbox> outbox, DrafterLink::Listener& listener)
    : outbox_(std::move(outbox)),
      listener_(listener),
      bounds_{.vocab_size = hello.vocab_size,
              .block_size = hello.block_size,
              .has_confidence = hello.has_confidence,
              .acceptance = hello.acceptance,
              .top_m = hello.top_m},
      order_(hello.rows_granted) {}

absl::Status BatchReceiver::Receive(const v1::DraftBatch& message) {
  ASSIGN_OR_RETURN(speculation::CheckedBatch checked, speculation::ReadBatch(message, bounds_));
  RETURN_IF_ERROR(order_.Check(checked.batch, outbox_->last_feed_sent()));
  for (std::string& check : checked.dropped) listener_.OnProtocolError(std::move(check));
  listener_.OnDrafts(std::move(checked.batch));
  return absl::OkStatus();
}

DraftSocket::DraftSocket(std::unique_ptr<rpc::MessageSocket> socket, std::shared_ptr<SpeculateOutbox> outbox,
                         BatchReceiver receiver, std::function<void(absl::Status)> end)
    : socket_(std::move(socket)),
      outbox_(std::move(outbox)),
      receiver_(std::move(receiver)),
      end_(std::move(end)) {}

bool DraftSocket::OnReady() {
  absl::Status status = ReceiveSome();
  if (status.ok()) status = SendAll();
  if (status.ok()) return true;
  end_(std::move(status));
  return false;
}

void DraftSocket::SendFeeds() {
  if (absl::Status status = SendAll(); !status.ok()) end_(std::move(status));
}

absl::Status DraftSocket::SendAll() {
  return rpc::SendMessages(*socket_, feed_, bytes_,
                           [this](v1::Feed& feed) { return outbox_->TakeFeed(feed); });
}

absl::Status DraftSocket::ReceiveSome() {
  return rpc::ReceiveMessages(*socket_, "DraftBatch", batch_,
                              [this](const v1::DraftBatch& batch) { return receiver_.Receive(batch); });
}

}  // namespace tandem::verifier
