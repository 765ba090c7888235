// How long the calls of a server took, by method and code: rpc_server_duration_seconds. A stream's duration
// is that of the whole stream.
//
//   CallMetrics calls(metrics, {{"/tandem.v1.Verifier/Run", {grpc::StatusCode::UNAVAILABLE}}});
//   RpcServer::Start(options, listener, services, health, {.calls = &calls});
//
// Methods and codes that are not declared count as "other" (health checks among them), for a peer chooses
// both, and each series costs some twenty lines of a scrape. Thread-safe; outlives the server.
#pragma once

#include <grpcpp/support/server_interceptor.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/telemetry/metrics.h"

namespace tandem::rpc {

class CallMetrics {
 public:
  struct Method {
    std::string path;  // "/package.Service/Method"; the label is the part behind the last slash
    std::vector<grpc::StatusCode> codes;  // besides OK
  };
  // Borrows the metrics.
  CallMetrics(telemetry::Metrics& metrics, const std::vector<Method>& methods);

  void Observe(std::string_view path, grpc::StatusCode code, absl::Duration duration);

 private:
  struct Series {
    std::map<grpc::StatusCode, prometheus::Histogram*> by_code;
    prometheus::Histogram* other = nullptr;
  };
  static Series Declare(telemetry::Metrics& metrics, const std::string& method,
                        const std::vector<grpc::StatusCode>& codes);

  // Constant after construction.
  std::map<std::string, Series, std::less<>> by_path_;
  Series other_;
};

// Tells `calls` of every call of the server that is built with it. Borrows both.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> NewCallTimer(CallMetrics& calls,
                                                                                    const Clock& clock);

}  // namespace tandem::rpc
