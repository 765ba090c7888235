// What `chat` and `bench` talk to: a gateway that runs already, or one started for the occasion.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/supervisor.h"

namespace tandem::cli {

class EngineAccess {
 public:
  // With `http` set it must answer there. Otherwise a ready gateway at the default address is taken if
  // `model` is empty, and else verifier and gateway are started on free ports with `model` (default model if
  // empty), pulled if missing, and with `drafter` (stack_options.h). `settings` are --set's.
  static absl::StatusOr<std::unique_ptr<EngineAccess>> Open(const std::string& http, const std::string& model,
                                                            const std::string& drafter,
                                                            const std::vector<std::string>& settings);
  ~EngineAccess();

  const Address& http() const { return http_; }
  bool started_here() const { return supervisor_ != nullptr; }

 private:
  EngineAccess() = default;

  Address http_;
  std::unique_ptr<Supervisor> supervisor_;
  int wake_fd_ = -1;
};

}  // namespace tandem::cli
