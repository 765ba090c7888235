#include "gateway/run_link/run_socket.h"

#include <optional>
#include <string_view>
#include <utility>

#include "common/base/status.h"
#include "gateway/run_link/run_messages.h"

namespace tandem::gateway {

RunSocket::RunSocket(std::unique_ptr<rpc::MessageSocket> socket, std::shared_ptr<PlanOutbox> outbox,
                     VerifierLink::Listener& listener, std::function<void(absl::Status)> end)
    : socket_(std::move(socket)), outbox_(std::move(outbox)), listener_(listener), end_(std::move(end)) {}

bool RunSocket::OnReady() {
  absl::Status status = ReceiveSome();
  if (status.ok()) status = SendAll();
  if (status.ok()) return true;
  end_(std::move(status));
  return false;
}

void RunSocket::SendPlans() {
  if (absl::Status status = SendAll(); !status.ok()) end_(std::move(status));
}

absl::Status RunSocket::SendAll() {
  RETURN_IF_ERROR(socket_->Flush());
  while (!socket_->sending() && outbox_->TakePlan(plan_)) {
    TANDEM_CHECK(plan_.SerializeToString(&bytes_));
    RETURN_IF_ERROR(socket_->Send(bytes_));
  }
  return absl::OkStatus();
}

absl::Status RunSocket::ReceiveSome() {
  do {
    ASSIGN_OR_RETURN(const std::optional<std::string_view> bytes, socket_->Receive());
    if (!bytes) break;
    if (!report_.ParseFromArray(bytes->data(), static_cast<int>(bytes->size())))
      return InvalidArgument("a message of the socket is no Report");
    listener_.OnReport(ReadReport(report_));
  } while (socket_->buffered());  // not until it is empty: a peer that floods must not hold the loop up
  return absl::OkStatus();
}

}  // namespace tandem::gateway
