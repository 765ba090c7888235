// Bounds the calls that one connection has alive, whatever became of its streams.
//
// gRPC's own bound is on open streams. A client that opens a stream and resets it at once never comes near
// it, and its calls pile up faster than they end: 100,000 of them took 1.8 GB. So calls are counted by peer,
// and a connection with far too many is cut.
//
//   CallLimit limit(500, [&](const std::string& peer) { listener.Cut(peer); });
//   ... builder.experimental().SetInterceptorCreators({NewCallCounter(limit), ...});
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace tandem::rpc {

// Thread-safe; outlives the server.
class CallLimit {
 public:
  // `on_excess` is called once for each peer that has more than `max_calls` alive, on gRPC's threads.
  CallLimit(int max_calls, std::function<void(const std::string& peer)> on_excess)
      : max_calls_(max_calls), on_excess_(std::move(on_excess)) {}

  void Begin(const std::string& peer);
  void End(const std::string& peer);

 private:
  struct Calls {
    int alive = 0;
    bool in_excess = false;
  };
  const int max_calls_;
  const std::function<void(const std::string&)> on_excess_;
  absl::Mutex mu_;
  absl::flat_hash_map<std::string, Calls> by_peer_ ABSL_GUARDED_BY(mu_);
};

// Counts every call of the server that is built with it. Borrows `limit`.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> NewCallCounter(CallLimit& limit);

}  // namespace tandem::rpc
