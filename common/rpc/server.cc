#include "common/rpc/server.h"

#include <grpc/compression.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>

#include "common/base/status.h"

namespace tandem::rpc {
namespace {

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(
      std::min<int64_t>(absl::ToInt64Milliseconds(duration), std::numeric_limits<int>::max()));
}

void SetLimits(const ServerOptions& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(options.max_receive_bytes);
  builder.SetMaxSendMessageSize(-1);  // what we send is bounded where it is made
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, options.max_metadata_bytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_time));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.keepalive_timeout));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             Milliseconds(options.min_ping_interval));
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, Milliseconds(options.handshake_timeout));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, Milliseconds(options.max_idle));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, Milliseconds(options.max_age));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, Milliseconds(options.max_age_grace));
  // Two servers on one port would share it silently.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // A small compressed message can become a huge one before its size is checked.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  grpc::ResourceQuota quota("server");
  quota.Resize(static_cast<size_t>(options.memory_quota_bytes > 0 ? options.memory_quota_bytes
                                                                  : MemoryLimitBytes() / 4));
  builder.SetResourceQuota(quota);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const ServerOptions& options,
                                                            std::unique_ptr<Listener> listener,
                                                            const std::vector<grpc::Service*>& services,
                                                            telemetry::Health& health, Hooks hooks) {
  telemetry::EnableGrpcHealth();
  std::unique_ptr<RpcServer> server(new RpcServer(options, std::move(listener), health));
  grpc::ServerBuilder builder;
  SetLimits(options, builder);
  server->acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      grpc::InsecureServerCredentials());
  for (grpc::Service* service : services) builder.RegisterService(service);
  if (hooks.unknown_methods != nullptr) builder.RegisterCallbackGenericService(hooks.unknown_methods);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(NewCallCounter(server->call_limit_));
  interceptors.push_back(NewCallWatcher(server->watch_));
  if (hooks.calls != nullptr) interceptors.push_back(NewCallTimer(*hooks.calls, Clock::Real()));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr)
    return Internal("gRPC refused to start a server on {}", server->address().ToString());
  health.Attach(*server->server_);
  server->listener_->Start({
      .on_connection =
          [acceptor = server->acceptor_.get()](int fd) {
            grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
            connection.fd = fd;
            acceptor->HandleNewConnection(&connection);
          },
      .on_exhausted = std::move(hooks.on_exhausted),
      .first_byte_limit = options.handshake_timeout,
      .misused = [watch = &server->watch_](
                     std::span<const ConnectionTraffic> connections) { return watch->Misused(connections); },
  });
  return server;
}

RpcServer::~RpcServer() { Shutdown(absl::ZeroDuration()); }

void RpcServer::Shutdown(absl::Duration patience) {
  if (shut_down_ || server_ == nullptr) return;
  shut_down_ = true;
  listener_->Stop();
  health_.Detach();
  server_->Shutdown(absl::ToChronoTime(absl::Now() + patience));
  server_->Wait();
}

int64_t MemoryLimitBytes() {
  int64_t limit = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  // The group's own view of its limit under control groups v2, or v1; "max" fails to parse and means none.
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream file(path);
    if (int64_t value = 0; file >> value && value > 0) limit = std::min(limit, value);
  }
  return limit;
}

}  // namespace tandem::rpc
