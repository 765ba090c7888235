// The drafter as a whole: what tandem-drafter's main runs, and what a process that holds all services embeds.
//
//   DrafterProcess drafter(options, files.script);
//   drafter.Bind();                       // both ports; from here on probes are answered
//   drafter.Load(files);                  // takes verifiers from here on
//   drafter.SetReady();  ...  drafter.Stop();
//
// Embedded, BindMetrics takes the place of Bind; the draft loop is then the caller's to talk to. Not
// thread-safe.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/thread_pool.h"
#include "common/formats/checkpoint.h"
#include "common/rpc/call_metrics.h"
#include "common/rpc/server.h"
#include "common/telemetry/health.h"
#include "common/telemetry/logs.h"
#include "common/telemetry/metrics.h"
#include "common/telemetry/metrics_server.h"
#include "common/telemetry/watchdog.h"
#include "drafter/drafter_metrics.h"
#include "drafter/drafter_options.h"
#include "drafter/engine/draft_loop.h"
#include "drafter/models/draft_model.h"
#include "drafter/models/script.h"
#include "drafter/service/drafter_hello.h"
#include "drafter/service/speculate_service.h"

namespace tandem::drafter {

// What --check-config reads: files, checked, not loaded.
struct ModelFiles {
  std::string path;                             // of a draft checkpoint; empty: none is needed
  std::optional<Script> script;                 // of a scripted drafter
  std::unique_ptr<formats::Checkpoint> target;  // if one is given
};

absl::StatusOr<ModelFiles> OpenFiles(const DrafterOptions& options);

// Everything of the process that outlives its loading, in the order in which it depends on each other.
class DrafterProcess {
 public:
  // Borrows both; the options have been checked.
  DrafterProcess(const DrafterOptions& options, const std::optional<Script>& script);
  ~DrafterProcess();

  absl::Status Bind();
  absl::Status BindMetrics();
  absl::Status Load(ModelFiles files);
  void SetReady() { health_.SetReady(true); }
  void Stop();

  std::string ListeningLine() const;
  // After Load.
  DraftLoop& loop() { return *loop_; }
  const DrafterIdentity& identity() const { return identity_; }
  const Address& metrics_address() const { return metrics_server_->address(); }

 private:
  void ReportLoad(absl::Duration took);

  const DrafterOptions& options_;
  telemetry::Logger log_;
  telemetry::Metrics metrics_;
  DrafterMetrics drafter_metrics_;
  rpc::CallMetrics calls_;
  telemetry::Health health_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<DraftModel> model_;
  std::unique_ptr<DraftEngine> engine_;
  std::unique_ptr<DraftLoop> loop_;
  DrafterIdentity identity_;
  SpeculateService service_;
  std::unique_ptr<telemetry::Watchdog> watchdog_;
  std::unique_ptr<rpc::RpcServer> server_;
  std::unique_ptr<telemetry::MetricsServer> metrics_server_;  // a scrape asks all of the above
};

}  // namespace tandem::drafter
