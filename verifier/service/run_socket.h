// A Run stream's plans in and reports out through a Unix socket: a MessageSource of the step loop.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/message_sources.h"
#include "common/rpc/message_socket.h"
#include "tandem/v1/run.pb.h"
#include "verifier/service/run_outbox.h"

namespace tandem::verifier {

// OnReady: the step loop's thread, which also sends the reports of its steps. What others have to say (once a
// second, or at the end) they send themselves: a step may take long.
class RunSocket final : public MessageSource {
 public:
  // `take_plan` is called by OnReady with each plan, or with what has come in place of one; an error of it
  // ends the stream. `end` is told why the stream cannot go on, by OnReady and SendReports.
  RunSocket(std::unique_ptr<rpc::MessageSocket> socket, std::shared_ptr<RunOutbox> outbox,
            std::function<absl::Status(absl::StatusOr<v1::Plan*>)> take_plan,
            std::function<void(absl::Status)> end);

  int fd() const override { return socket_->fd(); }
  bool sending() const override ABSL_LOCKS_EXCLUDED(mu_);
  bool OnReady() override ABSL_LOCKS_EXCLUDED(mu_);

  // Sends the reports that the outbox has, as far as there is room; what is left goes with the next call, or
  // when there is room. Any thread.
  void SendReports() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  absl::Status SendAll() ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status ReceiveSome();

  const std::unique_ptr<rpc::MessageSocket> socket_;  // sending is guarded by mu_
  const std::shared_ptr<RunOutbox> outbox_;
  const std::function<absl::Status(absl::StatusOr<v1::Plan*>)> take_plan_;
  const std::function<void(absl::Status)> end_;
  // Reused.
  v1::Plan plan_;
  mutable absl::Mutex mu_;
  v1::Report report_ ABSL_GUARDED_BY(mu_);
  std::string bytes_ ABSL_GUARDED_BY(mu_);
};

}  // namespace tandem::verifier
