// Serves GET /metrics over HTTP/1.1 on a port of its own.
//
// One thread, no blocking: at most 64 connections, one request each, headers of at most 8 KiB, 1.5 s for the
// request and 1.5 s for the answer; so a stuck or hostile scraper costs a descriptor for 3 s. When
// descriptors run out it waits and accepts again. Other paths are 404, other methods 405. Its own connections
// are open_connections{listener="metrics"}, the scrape's included.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/base/option_values.h"
#include "common/telemetry/metrics.h"

namespace tandem::telemetry {

class MetricsServer {
 public:
  // Listens on a TCP address, port 0 = any. Borrows `metrics`. kUnavailable with the cause if it cannot.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const Address& address, Metrics& metrics);
  // Closes all connections.
  virtual ~MetricsServer() = default;

  // With the port in use.
  virtual const Address& address() const = 0;
};

}  // namespace tandem::telemetry
