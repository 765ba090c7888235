// The gRPC service Verifier: Run streams of gateways in, plans to the step loop, reports back.
//
//   RunService service(options, metrics, log);      // registered with the server while the model still loads
//   service.Open(identity, loop);                   // from now on streams are taken
//   ...
//   service.Drain(absl::Seconds(30));               // refuses, tells the gateways, waits, ends what is left
//
// Until Open, and from Drain on, a stream ends UNAVAILABLE with a pushback. A stream's end, for whatever
// reason, closes it in the engine, which frees its sequences within a step.
//
// Thread-safe. Borrows metrics and log; `loop` from Open until Drain has returned.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/telemetry/logs.h"
#include "common/telemetry/metrics.h"
#include "tandem/v1/run.grpc.pb.h"
#include "verifier/engine/step_loop.h"
#include "verifier/service/run_hello.h"

namespace tandem::verifier {

struct RunServiceOptions {
  absl::Duration hello_timeout = absl::Seconds(5);  // for a gateway's first message
  absl::Duration retry_after = absl::Seconds(1);    // told to gateways that are refused
  int max_streams = 64;                             // gateways at once
  absl::Duration heartbeat = absl::Seconds(1);      // a stream without reports gets one this often
};

// Largest message of a Run stream: 1,024 admissions of some thousand tokens each.
inline constexpr int kMaxRunMessageBytes = 16 << 20;

class RunService final : public v1::Verifier::CallbackService {
 public:
  RunService(const RunServiceOptions& options, telemetry::Metrics& metrics, telemetry::Logger& log);
  // Requires that no stream is open: after Drain and the server's shutdown.
  ~RunService() override;

  void Open(const RunIdentity& identity, StepLoop& loop) ABSL_LOCKS_EXCLUDED(mu_);

  // Returns when all streams have ended: at once if nothing runs, else when the sequences have ended or been
  // taken elsewhere, at the latest after `patience`, when what is left ends UNAVAILABLE.
  void Drain(absl::Duration patience) ABSL_LOCKS_EXCLUDED(mu_);

  int num_streams() const ABSL_LOCKS_EXCLUDED(mu_);
  // Whether, within the time, there was a moment without streams.
  bool AwaitNoStreams(absl::Duration timeout) const ABSL_LOCKS_EXCLUDED(mu_);

  grpc::ServerBidiReactor<v1::RunRequest, v1::RunResponse>* Run(
      grpc::CallbackServerContext* context) override;

 private:
  friend class RunStream;

  enum class State { kStarting, kOpen, kDraining };

  // Prepares the stream, and takes it unless the status says why not.
  absl::Status Enter(class RunStream& stream) ABSL_LOCKS_EXCLUDED(mu_);
  void Leave(class RunStream& stream) ABSL_LOCKS_EXCLUDED(mu_);
  // The verifier's numbers, for streams to which the engine has nothing to report.
  Report PresentNumbers() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Heartbeats() ABSL_LOCKS_EXCLUDED(mu_);

  const RunServiceOptions options_;
  telemetry::Logger& log_;
  telemetry::Labelled<prometheus::Counter> protocol_errors_;
  telemetry::Labelled<prometheus::Counter> handshake_failures_;
  prometheus::Counter& stale_messages_;
  telemetry::Labelled<prometheus::Gauge> message_streams_;  // by transport of plans and reports

  mutable absl::Mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kStarting;
  std::atomic<bool> draining_{false};  // that of the state: a socket's plans must not wait for the lock
  // Constant while streams are in the engine.
  RunIdentity identity_;
  StepLoop* loop_ = nullptr;
  absl::flat_hash_set<class RunStream*> streams_ ABSL_GUARDED_BY(mu_);
  bool heartbeats_over_ ABSL_GUARDED_BY(mu_) = false;
  std::thread heartbeats_;  // from Open until the end of Drain
};

}  // namespace tandem::verifier
