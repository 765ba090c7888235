// What the two doors tell whoever counts. No telemetry dependency here; the program wires it.
#pragma once

#include "absl/status/status.h"

namespace tandem::gateway {

// Called on the doors' threads, from several at once; must not block.
class DoorObserver {
 public:
  virtual ~DoorObserver() = default;
  // HTTP connections; gRPC's are looked up for a scrape.
  virtual void OnConnections(int /*open*/) {}
  // accept found no descriptor, or a connection was closed at once because too many are open.
  virtual void OnExhausted() {}
  virtual void OnUnknownFields(int /*count*/) {}
  // Refused, by the door itself or by Generator. `route`: "chat", "models", ..., "none"; of gRPC "grpc".
  virtual void OnRefused(const char* /*route*/, const absl::Status& /*why*/) {}
  // Every HTTP answer, when its head is written.
  virtual void OnAnswer(const char* /*route*/, int /*http_status*/) {}
  virtual void OnWriteStall() {}
  virtual void OnStreams(const char* /*route*/, int /*open of all HTTP routes*/) {}
};

}  // namespace tandem::gateway
