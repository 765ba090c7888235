#include "cli/engine_access.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iostream>

#include "cli/http_client.h"
#include "cli/stack_options.h"
#include "common/base/model_store.h"
#include "common/base/status.h"

namespace tandem::cli {
namespace {

constexpr absl::Duration kStopTimeout = absl::Seconds(10);

bool IsReady(const Address& http) {
  HttpClient client(http, absl::Seconds(2));
  const absl::StatusOr<HttpAnswer> answer = client.Get("/ready");
  return answer.ok() && answer->status == 200;
}

}  // namespace

absl::StatusOr<std::unique_ptr<EngineAccess>> EngineAccess::Open(const std::string& http,
                                                                 const std::string& model,
                                                                 const std::string& drafter,
                                                                 const std::vector<std::string>& settings) {
  std::unique_ptr<EngineAccess> access(new EngineAccess);
  if (!http.empty()) {
    ASSIGN_OR_RETURN(access->http_, ParseAddress(http));
    if (!IsReady(access->http_)) return Unavailable("no gateway is ready at {}", http);
    return access;
  }
  const Address usual{"127.0.0.1", 8000, ""};
  if (model.empty() && IsReady(usual)) {
    access->http_ = usual;
    return access;
  }
  const std::string name = model.empty() ? kDefaultModel : model;
  ASSIGN_OR_RETURN(Supervisor::Options options, StackOptions(name, drafter, settings));
  options.http = options.grpc = Address{"127.0.0.1", 0, ""};
  access->wake_fd_ = eventfd(0, EFD_CLOEXEC);
  if (access->wake_fd_ < 0) return Unavailable("eventfd: {}", std::strerror(errno));
  std::cerr << "starting " << (options.drafter.empty() ? "" : "drafter, ") << "verifier and gateway with "
            << name << " ..." << std::endl;
  access->supervisor_ = std::make_unique<Supervisor>(std::move(options));
  RETURN_IF_ERROR(access->supervisor_->Start(access->wake_fd_));
  access->http_ = access->supervisor_->http();
  return access;
}

EngineAccess::~EngineAccess() {
  if (supervisor_ != nullptr) supervisor_->Stop(kStopTimeout);
  if (wake_fd_ >= 0) close(wake_fd_);
}

}  // namespace tandem::cli
