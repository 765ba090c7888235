// Finds connections whose peers misuse what lies beneath gRPC's calls.
//
// gRPC 1.51 cuts a flood of PING, but of SETTINGS or empty DATA it only bounds the memory: the connection may
// go on for ever. What a peer sends belongs to calls and their messages, so their number bounds its bytes;
// and what it is sent, it has to take. Judged by the kernel's counters at each look of the listener:
//
//   ConnectionWatch watch({.message_bytes = 4 << 20, .stall = absl::Seconds(30)});
//   ... builder.experimental().SetInterceptorCreators({NewCallWatcher(watch), ...});
//   listener->Start({..., .misused = [&](auto connections) { return watch.Misused(connections); }});
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/rpc/listener.h"

namespace tandem::rpc {

// Thread-safe; outlives the server.
class ConnectionWatch {
 public:
  struct Options {
    int64_t message_bytes = 4 << 20;           // of the largest message
    absl::Duration stall = absl::Seconds(30);  // without taking a byte of what waits, counted in looks
  };
  // What a peer may send without a call, and beside each message that it is sent (windows, answers to pings).
  static constexpr uint64_t kIdleBytes = 1 << 20, kBytesBesideSent = 1024;

  explicit ConnectionWatch(const Options& options);

  // Each call, and each message that has come, may be followed by one more message.
  void OnCallOrReceived(const std::string& peer);
  void OnSent(const std::string& peer);
  // The peers, of all that are connected now, that have sent more than their calls explain, or have left
  // waiting what they were sent. Forgets those that have been away for two looks.
  std::vector<std::string> Misused(std::span<const ConnectionTraffic> connections);

 private:
  struct Peer {
    uint64_t allowed_bytes = kIdleBytes;
    uint64_t bytes_taken = 0;
    int stalled_looks = 0;
    int looks_away = 0;  // since one that saw it connected
  };

  const uint64_t bytes_by_call_;
  const int max_stalled_looks_;
  absl::Mutex mu_;
  absl::flat_hash_map<std::string, Peer> peers_ ABSL_GUARDED_BY(mu_);
};

// Tells `watch` of every call of the server that is built with it. Borrows `watch`.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> NewCallWatcher(ConnectionWatch& watch);

}  // namespace tandem::rpc
