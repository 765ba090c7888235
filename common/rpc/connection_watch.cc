#include "common/rpc/connection_watch.h"

#include <grpcpp/server_context.h>

#include <algorithm>
#include <utility>

namespace tandem::rpc {
namespace {

using grpc::experimental::InterceptionHookPoints;

constexpr uint64_t kHeaderBytes = 64 << 10;  // of a call, generously

class CallWatcher : public grpc::experimental::Interceptor {
 public:
  CallWatcher(ConnectionWatch& watch, std::string peer) : watch_(watch), peer_(std::move(peer)) {
    watch_.OnCallOrReceived(peer_);
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE)) {
      watch_.OnCallOrReceived(peer_);
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE)) watch_.OnSent(peer_);
    methods->Proceed();
  }

 private:
  ConnectionWatch& watch_;
  const std::string peer_;
};

class CallWatcherFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CallWatcherFactory(ConnectionWatch& watch) : watch_(watch) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    return new CallWatcher(watch_, info->server_context()->peer());  // gRPC's from here on
  }

 private:
  ConnectionWatch& watch_;
};

}  // namespace

ConnectionWatch::ConnectionWatch(const Options& options)
    // A quarter more, for the frames' heads of nine bytes, unless frames are of less than 36. gRPC keeps more
    // than ten bytes for each of an empty one, so this bounds its memory.
    : bytes_by_call_(static_cast<uint64_t>(options.message_bytes) / 4 * 5 + kHeaderBytes),
      max_stalled_looks_(static_cast<int>(std::clamp<int64_t>(
          absl::Ceil(options.stall, Listener::kLookInterval) / Listener::kLookInterval, 1, 1 << 20))) {}

void ConnectionWatch::OnCallOrReceived(const std::string& peer) {
  absl::MutexLock lock(&mu_);
  peers_[peer].allowed_bytes += bytes_by_call_;
}

void ConnectionWatch::OnSent(const std::string& peer) {
  absl::MutexLock lock(&mu_);
  peers_[peer].allowed_bytes += kBytesBesideSent;
}

std::vector<std::string> ConnectionWatch::Misused(std::span<const ConnectionTraffic> connections) {
  std::vector<std::string> misused;
  absl::MutexLock lock(&mu_);
  for (auto& [name, peer] : peers_) ++peer.looks_away;
  for (const ConnectionTraffic& traffic : connections) {
    Peer& peer = peers_[traffic.peer];
    peer.looks_away = 0;
    const bool takes = !traffic.has_waiting || traffic.bytes_taken != peer.bytes_taken;
    peer.stalled_looks = takes ? 0 : peer.stalled_looks + 1;
    peer.bytes_taken = traffic.bytes_taken;
    if (traffic.bytes_received > peer.allowed_bytes || peer.stalled_looks >= max_stalled_looks_) {
      misused.push_back(traffic.peer);
    }
  }
  // One that called between two looks may connect, for a look, only now.
  absl::erase_if(peers_, [](const auto& entry) { return entry.second.looks_away > 1; });
  return misused;
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> NewCallWatcher(
    ConnectionWatch& watch) {
  return std::make_unique<CallWatcherFactory>(watch);
}

}  // namespace tandem::rpc
