// Whether a process lives and whether it takes work, for grpc.health.v1 and HTTP probes.
//
//   state                              "liveness"     "readiness", "", service names
//   loading, warming up, draining      SERVING        NOT_SERVING
//   ready                              SERVING        SERVING
//   stuck: work but no progress        NOT_SERVING    NOT_SERVING
//
// Other names are NOT_FOUND. Check and Watch are gRPC's own service; a server gets it when EnableGrpcHealth
// was called before it was built. Thread-safe.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace grpc {
class Server;
}

namespace tandem::telemetry {

class Health {
 public:
  // Starts live and not ready. `service_names`: full names of the gRPC services that are ready with the
  // process.
  explicit Health(std::vector<std::string> service_names);

  void SetReady(bool ready);
  void SetLive(bool live);

  bool live() const;
  // Never while not live.
  bool ready() const;

  // Publishes all states on `server` from now on, until Detach. Before a server takes connections: gRPC
  // starts with
  // "" SERVING.
  void Attach(grpc::Server& server);
  void Detach();

 private:
  void Publish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::vector<std::string> service_names_;
  mutable absl::Mutex mu_;
  bool live_ ABSL_GUARDED_BY(mu_) = true;
  bool ready_ ABSL_GUARDED_BY(mu_) = false;
  grpc::Server* server_ ABSL_GUARDED_BY(mu_) = nullptr;
};

// Every gRPC server built from now on carries the health service. Not thread-safe: once, early in main.
void EnableGrpcHealth();

}  // namespace tandem::telemetry
