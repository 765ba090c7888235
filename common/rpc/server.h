// A gRPC server as all our processes run it: limits set, own accept loop, health service.
//
//   ASSIGN_OR_RETURN(auto listener, Listener::Bind(options.listen));          // as early as possible
//   auto server = RpcServer::Start(options, std::move(listener), {&service}, health, hooks);
//   ...
//   server->Shutdown(absl::Seconds(30));
//
// Thread-safe. Services, health and hooks are borrowed until Shutdown has returned.
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/option_values.h"
#include "common/rpc/call_limit.h"
#include "common/rpc/call_metrics.h"
#include "common/rpc/connection_watch.h"
#include "common/rpc/listener.h"
#include "common/telemetry/health.h"

namespace tandem::rpc {

struct ServerOptions {
  int max_receive_bytes = 4 << 20;    // of one message
  int max_metadata_bytes = 16 << 10;  // more ends every RPC of that connection: proxies should send <= 8 KiB
  int max_concurrent_streams = 100;   // of one connection; bounds what a flood of resets can cost
  // Pings on idle connections, and the time for an answer before the connection counts as lost.
  absl::Duration keepalive_time = absl::Seconds(30);
  absl::Duration keepalive_timeout = absl::Seconds(10);
  absl::Duration min_ping_interval = absl::Seconds(5);  // of peers; more frequent ones are cut off
  absl::Duration handshake_timeout = absl::Seconds(5);
  absl::Duration write_stall = absl::Seconds(30);  // of a connection whose peer takes nothing of what waits
  // How long a connection may idle, live, and go on after that; infinite for links between our own services.
  absl::Duration max_idle = absl::InfiniteDuration();
  absl::Duration max_age = absl::InfiniteDuration();
  absl::Duration max_age_grace = absl::InfiniteDuration();
  // Soft bound of gRPC's buffers; 0 = a quarter of what the process may use (memory, or its control group's
  // limit).
  int64_t memory_quota_bytes = 0;
};

class RpcServer {
 public:
  struct Hooks {
    std::function<void()> on_exhausted = [] {};  // Listener::Hooks
    CallMetrics* calls = nullptr;                // null: calls are not timed
    // Answers methods that no service has; null: gRPC does.
    grpc::CallbackGenericService* unknown_methods = nullptr;
  };

  // Health states are published before the first connection is taken.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const ServerOptions& options,
                                                          std::unique_ptr<Listener> listener,
                                                          const std::vector<grpc::Service*>& services,
                                                          telemetry::Health& health, Hooks hooks);
  // Cancels what runs.
  ~RpcServer();

  const Address& address() const { return listener_->address(); }
  int num_connections() const { return listener_->num_connections(); }

  // Takes no more connections and calls, lets running ones end until `patience` is over, then cancels them;
  // returns when all have ended. Only the first call does something.
  void Shutdown(absl::Duration patience);

 private:
  // Of one connection at a time; more than it may have open, as calls end somewhat later than their streams.
  static constexpr int kCallsPerStream = 5;

  RpcServer(const ServerOptions& options, std::unique_ptr<Listener> listener, telemetry::Health& health)
      : listener_(std::move(listener)),
        health_(health),
        call_limit_(kCallsPerStream * options.max_concurrent_streams,
                    [this](const std::string& peer) { listener_->Cut(peer); }),
        watch_({.message_bytes = options.max_receive_bytes, .stall = options.write_stall}) {}

  std::unique_ptr<Listener> listener_;
  telemetry::Health& health_;
  CallLimit call_limit_;
  ConnectionWatch watch_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
  bool shut_down_ = false;
};

// What this process may use: the machine's memory or its control group's limit, whichever is less.
int64_t MemoryLimitBytes();

}  // namespace tandem::rpc
