// The verifier as a whole: what tandem-verifier's main runs, and what a process that holds all services
// embeds.
//
//   VerifierProcess verifier(options);
//   verifier.Bind();                      // both ports; from here on probes are answered
//   verifier.Load(files);                 // loads, warms up, connects drafters, takes gateways
//   verifier.SetReady();  ...  verifier.Stop();
//
// Embedded, BindMetrics takes the place of Bind, and drafters come as links; the step loop is then the
// caller's to talk to. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/thread_pool.h"
#include "common/formats/checkpoint.h"
#include "common/models/model.h"
#include "common/rpc/call_metrics.h"
#include "common/rpc/server.h"
#include "common/telemetry/health.h"
#include "common/telemetry/logs.h"
#include "common/telemetry/metrics.h"
#include "common/telemetry/metrics_server.h"
#include "common/telemetry/watchdog.h"
#include "verifier/engine/capture_engine.h"
#include "verifier/engine/step_loop.h"
#include "verifier/engine/trace_recorder.h"
#include "verifier/engine_metrics.h"
#include "verifier/service/capture_service.h"
#include "verifier/service/drafter_connections.h"
#include "verifier/service/run_service.h"
#include "verifier/stage_metrics.h"
#include "verifier/verifier_options.h"

namespace tandem::verifier {

// What --check-config reads: the model's files, checked, not loaded.
struct ModelFiles {
  std::unique_ptr<formats::Checkpoint> checkpoint;
  std::string tokenizer_hash;   // empty: the model has no tokenizer
  std::vector<int32_t> script;  // of a scripted model: its table; empty: a real model
};

// Of --model and --model-sha256.
absl::StatusOr<ModelFiles> OpenModel(const VerifierOptions& options);

// Everything of the process that outlives its loading, in the order in which it depends on each other.
class VerifierProcess {
 public:
  // Borrows the options, which have been checked.
  explicit VerifierProcess(const VerifierOptions& options);
  ~VerifierProcess();

  absl::Status Bind();
  absl::Status BindMetrics();
  // `drafters`: one for each of the options' addresses, in place of streams to them; empty: the streams.
  absl::Status Load(ModelFiles files, std::vector<DrafterEndpoint> drafters = {});
  void SetReady() { health_.SetReady(true); }
  // The order: refuse, drain to a deadline, cancel, join.
  void Stop();

  std::string ListeningLine() const;
  // After Load, without --capture.
  StepLoop& loop() { return *loop_; }
  const RunIdentity& identity() const { return identity_; }
  const Address& metrics_address() const { return metrics_server_->address(); }

 private:
  absl::Status StartTrace();
  // With --capture there is neither engine nor step loop, and nothing for gateways.
  absl::Status LoadCapture();
  void ConnectDrafters(std::vector<DrafterEndpoint> endpoints);
  void ReportLoad(absl::Duration took);

  const VerifierOptions& options_;
  telemetry::Logger log_;
  telemetry::Metrics metrics_;
  EngineMetrics engine_metrics_;
  std::optional<StageMetrics> stage_metrics_;  // with --profile
  telemetry::Labelled<prometheus::Counter> trace_steps_;
  rpc::CallMetrics calls_;
  telemetry::Health health_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<models::Model> model_;
  std::unique_ptr<TraceRecorder> trace_;  // null without --trace
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<StepLoop> loop_;
  std::unique_ptr<DrafterConnections> drafters_;
  RunIdentity identity_;
  RunService service_;
  std::unique_ptr<CaptureEngine> capture_engine_;  // null without --capture
  CaptureService capture_;
  std::unique_ptr<telemetry::Watchdog> watchdog_;
  std::unique_ptr<rpc::RpcServer> server_;
  std::unique_ptr<telemetry::MetricsServer> metrics_server_;  // a scrape asks all of the above
};

}  // namespace tandem::verifier
