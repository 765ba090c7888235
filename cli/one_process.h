// Drafter, verifier and gateway in this process: the same code as in three, with their streams replaced by
// calls. Clients still come over HTTP and gRPC, and each part has its own metrics address. What ends, ends
// all.
//
//   ASSIGN_OR_RETURN(auto engine, OneProcess::Start(options));   // blocks until a request would succeed
//   ...
//   engine->Stop();
//
// Not thread-safe.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/supervisor.h"

namespace tandem::cli {

class OneProcess {
 public:
  virtual ~OneProcess() = default;

  // The options are the supervisor's: what would be a process's flag is set here. kInvalidArgument names what
  // is wrong with one. Scripted drafters misbehave on a stream only; here they just draft.
  static absl::StatusOr<std::unique_ptr<OneProcess>> Start(const Supervisor::Options& options);

  // Drains the gateway, then the verifier, then the drafter, each for as long as its own flags say.
  virtual void Stop() = 0;

  virtual const Address& http() const = 0;
  virtual const Address& grpc() const = 0;
  virtual std::string metrics() const = 0;  // as Supervisor::metrics
};

}  // namespace tandem::cli
