// A Run stream's plans out and reports in through a Unix socket: a MessageSource of the batcher's loop.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "common/base/message_sources.h"
#include "common/rpc/message_socket.h"
#include "gateway/admission/verifier_link.h"
#include "gateway/run_link/plan_outbox.h"
#include "tandem/v1/run.pb.h"

namespace tandem::gateway {

// The batcher's thread only.
class RunSocket final : public MessageSource {
 public:
  // `end` is told why the stream cannot go on.
  RunSocket(std::unique_ptr<rpc::MessageSocket> socket, std::shared_ptr<PlanOutbox> outbox,
            VerifierLink::Listener& listener, std::function<void(absl::Status)> end);

  int fd() const override { return socket_->fd(); }
  bool sending() const override { return socket_->sending(); }
  bool OnReady() override;

  // Sends the plans that the outbox has, as far as there is room.
  void SendPlans();

 private:
  absl::Status SendAll();
  absl::Status ReceiveSome();

  const std::unique_ptr<rpc::MessageSocket> socket_;
  const std::shared_ptr<PlanOutbox> outbox_;
  VerifierLink::Listener& listener_;
  const std::function<void(absl::Status)> end_;
  // Reused.
  v1::Plan plan_;
  v1::Report report_;
  std::string bytes_;
};

}  // namespace tandem::gateway
