// The gateway as a whole: what tandem-gateway's main runs, and what a process that holds all services embeds.
//
//   GatewayProcess gateway(options, ModelName(options, path));
//   gateway.Start(model_text, RunLinks(options));     // or other links to verifiers, e.g. in memory
//   ...
//   gateway.Stop();
//
// Not thread-safe.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/rpc/call_metrics.h"
#include "common/rpc/server.h"
#include "common/telemetry/health.h"
#include "common/telemetry/logs.h"
#include "common/telemetry/metrics.h"
#include "common/telemetry/metrics_server.h"
#include "gateway/admission/core.h"
#include "gateway/gateway_options.h"
#include "gateway/grpc/generation_service.h"
#include "gateway/grpc/unknown_methods.h"
#include "gateway/http/http_server.h"
#include "gateway/telemetry/gateway_telemetry.h"
#include "gateway/telemetry/readiness.h"

namespace tandem::gateway {

// The served name: as configured, else a named model's name, else the file's.
std::string ModelName(const GatewayOptions& options, const std::string& path);

// Streams to the options' verifiers.
std::vector<std::unique_ptr<VerifierLink>> RunLinks(const GatewayOptions& options);

// Everything of the process, in the order in which it depends on each other.
class GatewayProcess {
 public:
  // Borrows the options, which have been checked.
  GatewayProcess(const GatewayOptions& options, const std::string& model_name);
  ~GatewayProcess();

  // Ports first, so that a taken one is told before anything else happens; then the core, then the doors.
  absl::Status Start(ModelText model, std::vector<std::unique_ptr<VerifierLink>> verifiers);
  // The order: not ready, refuse, drain to a deadline, cancel, join.
  void Stop();

  std::string ListeningLine() const;
  // After Start.
  const Address& http_address() const { return http_server_->address(); }
  const Address& grpc_address() const { return grpc_server_->address(); }
  const Address& metrics_address() const { return metrics_server_->address(); }

 private:
  void ReportLoad(const ModelText& model);
  void AddGauges();

  const GatewayOptions& options_;
  const std::string model_name_;
  telemetry::Logger log_;
  telemetry::Metrics metrics_;
  GatewayTelemetry telemetry_;
  rpc::CallMetrics calls_;
  UnknownMethods unknown_methods_;
  telemetry::Health health_;
  Readiness readiness_;
  std::atomic<bool> stopping_{false};
  std::unique_ptr<Core> core_;
  std::unique_ptr<GenerationService> service_;
  std::unique_ptr<http::HttpServer> http_server_;
  std::unique_ptr<rpc::RpcServer> grpc_server_;
  std::unique_ptr<telemetry::MetricsServer> metrics_server_;
};

}  // namespace tandem::gateway
