#include "verifier/service/run_socket.h"

#include <optional>
#include <string_view>
#include <utility>

#include "common/base/status.h"
#include "common/rpc/message_exchange.h"

namespace tandem::verifier {

RunSocket::RunSocket(std::unique_ptr<rpc::MessageSocket> socket, std::shared_ptr<RunOutbox> outbox,
                     std::function<absl::Status(absl::StatusOr<v1::Plan*>)> take_plan,
                     std::function<void(absl::Status)> end)
    : socket_(std::move(socket)),
      outbox_(std::move(outbox)),
      take_plan_(std::move(take_plan)),
      end_(std::move(end)) {}

bool RunSocket::sending() const {
  absl::MutexLock lock(&mu_);
  return socket_->sending();
}

bool RunSocket::OnReady() {
  absl::Status status = ReceiveSome();
  if (status.ok()) status = SendAll();
  if (status.ok()) return true;
  end_(std::move(status));
  return false;
}

void RunSocket::SendReports() {
  if (absl::Status status = SendAll(); !status.ok()) end_(std::move(status));
}

absl::Status RunSocket::SendAll() {
  absl::MutexLock lock(&mu_);
  return rpc::SendMessages(*socket_, report_, bytes_,
                           [this](v1::Report& report) { return outbox_->TakeReport(report); });
}

absl::Status RunSocket::ReceiveSome() {
  do {
    const absl::StatusOr<std::optional<std::string_view>> bytes = socket_->Receive();
    if (absl::IsInvalidArgument(bytes.status())) return take_plan_(bytes.status());
    RETURN_IF_ERROR(bytes.status());
    if (!*bytes) break;
    if (!plan_.ParseFromArray((*bytes)->data(), static_cast<int>((*bytes)->size())))
      return take_plan_(InvalidArgument("a message of the socket is no Plan"));
    RETURN_IF_ERROR(take_plan_(&plan_));
  } while (socket_->buffered());  // not until it is empty: a peer that floods must not hold the loop up
  return absl::OkStatus();
}

}  // namespace tandem::verifier
