#include "gateway/run_link/plan_outbox.h"

#include <utility>

#include "common/base/status.h"
#include "gateway/run_link/run_messages.h"

namespace tandem::gateway {

uint64_t PlanOutbox::Put(Plan plan) {
  absl::MutexLock lock(&mu_);
  if (pending_) {
    MergePlan(*pending_, std::move(plan));
  } else {
    pending_ = std::move(plan);
  }
  return number_ + 1;
}

void PlanOutbox::OfferSocket(std::unique_ptr<rpc::SocketListener> socket) {
  absl::MutexLock lock(&mu_);
  socket_ = std::move(socket);
  socket_offer_ = true;
}

absl::StatusOr<std::unique_ptr<rpc::MessageSocket>> PlanOutbox::TakeSocketAnswer(bool connected,
                                                                                 size_t max_message_bytes) {
  absl::MutexLock lock(&mu_);
  if (socket_ == nullptr || socket_offer_) return InvalidArgument("a socket answer came without an offer");
  const std::unique_ptr<rpc::SocketListener> listener = std::move(socket_);
  if (!connected) return std::unique_ptr<rpc::MessageSocket>();
  ASSIGN_OR_RETURN(auto socket, listener->Accept(max_message_bytes));
  by_socket_ = true;
  return socket;
}

bool PlanOutbox::Take(v1::RunRequest& out) {
  absl::MutexLock lock(&mu_);
  if (hello_) {
    FillHello(*std::exchange(hello_, std::nullopt), *out.mutable_hello());
    return true;
  }
  if (std::exchange(socket_offer_, false)) {
    out.mutable_socket()->set_name(socket_->address().name);
    out.mutable_socket()->set_nonce(socket_->address().nonce);
    return true;
  }
  return socket_ == nullptr && !by_socket_ && TakePlanLocked(*out.mutable_plan());
}

bool PlanOutbox::TakePlan(v1::Plan& out) {
  absl::MutexLock lock(&mu_);
  return by_socket_ && TakePlanLocked(out);
}

bool PlanOutbox::TakePlanLocked(v1::Plan& out) {
  if (!pending_) return false;
  out.Clear();
  FillPlan(*std::exchange(pending_, std::nullopt), ++number_, out);
  return true;
}

}  // namespace tandem::gateway
