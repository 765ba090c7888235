#include "gateway/run_link/run_socket.h"

#include <utility>

#include "common/rpc/message_exchange.h"
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
  return rpc::SendMessages(*socket_, plan_, bytes_,
                           [this](v1::Plan& plan) { return outbox_->TakePlan(plan); });
}

absl::Status RunSocket::ReceiveSome() {
  return rpc::ReceiveMessages(*socket_, "Report", report_, [this](const v1::Report& report) {
    listener_.OnReport(ReadReport(report));
    return absl::OkStatus();
  });
}

}  // namespace tandem::gateway
