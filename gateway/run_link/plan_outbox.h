// What waits to be sent on one Run stream: the Hello, the offer of a socket, then plans (unless they go
// through the socket), of which those that wait have become one. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/rpc/message_socket.h"
#include "gateway/admission/verifier_link.h"
#include "tandem/v1/run.pb.h"

namespace tandem::gateway {

class PlanOutbox {
 public:
  explicit PlanOutbox(GatewayHello hello) : hello_(std::move(hello)) {}

  // Returns the number of the plan that will carry it.
  uint64_t Put(Plan plan) ABSL_LOCKS_EXCLUDED(mu_);

  // Before any plan. These wait until the answer has come; if the verifier has connected they go through what
  // is returned, else (null) through the stream. An error ends the stream.
  void OfferSocket(std::unique_ptr<rpc::SocketListener> socket) ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<std::unique_ptr<rpc::MessageSocket>> TakeSocketAnswer(bool connected,
                                                                       size_t max_message_bytes)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The writer's source: false if there is nothing to say.
  bool Take(v1::RunRequest& out) ABSL_LOCKS_EXCLUDED(mu_);
  // For a socket: the next plan, or false.
  bool TakePlan(v1::Plan& out) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  bool TakePlanLocked(v1::Plan& out) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  absl::Mutex mu_;
  std::optional<GatewayHello> hello_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<rpc::SocketListener> socket_ ABSL_GUARDED_BY(mu_);  // until its answer has come
  bool socket_offer_ ABSL_GUARDED_BY(mu_) = false;                    // the socket is to be offered
  bool by_socket_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<Plan> pending_ ABSL_GUARDED_BY(mu_);
  uint64_t number_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace tandem::gateway
