// The gRPC service Capture: texts of a trainer in, their hidden states and continuations out (capture.proto).
//
//   CaptureService service(log);           // registered with the server while the model still loads
//   service.Open(identity, engine);        // from now on one stream at a time is taken
//   ...
//   service.Stop();                        // ends the stream, refuses others
//
// Each stream has a thread that steps the engine. It stops while kMaxAheadBytes of answers wait for a trainer
// that does not read.
//
// Thread-safe. Borrows log; `engine` from Open until Stop has returned.
#pragma once

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/telemetry/logs.h"
#include "tandem/v1/capture.grpc.pb.h"
#include "verifier/engine/capture_engine.h"
#include "verifier/service/run_hello.h"

namespace tandem::verifier {

inline constexpr int64_t kMaxAheadBytes = 16 << 20;

// Of the model, as CaptureWelcome has it.
struct CaptureIdentity {
  RunIdentity run;
  int32_t hidden_size = 0;
  int32_t num_layers = 0;
};

class CaptureService final : public v1::Capture::CallbackService {
 public:
  explicit CaptureService(telemetry::Logger& log) : log_(log) {}
  // Requires that no stream is open: after Stop and the server's shutdown.
  ~CaptureService() override;

  void Open(const CaptureIdentity& identity, CaptureEngine& engine) ABSL_LOCKS_EXCLUDED(mu_);
  // Returns when there is no stream any more.
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);

  grpc::ServerBidiReactor<v1::CaptureRequest, v1::CaptureResponse>* Capture(
      grpc::CallbackServerContext* context) override;

 private:
  friend class CaptureStream;

  // Makes the stream the only one, unless the status says why not.
  absl::Status Enter(class CaptureStream& stream) ABSL_LOCKS_EXCLUDED(mu_);
  void Leave(class CaptureStream& stream) ABSL_LOCKS_EXCLUDED(mu_);

  telemetry::Logger& log_;
  absl::Mutex mu_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  class CaptureStream* stream_ ABSL_GUARDED_BY(mu_) = nullptr;
  CaptureEngine* engine_ ABSL_GUARDED_BY(mu_) = nullptr;  // null: not open
  CaptureIdentity identity_;                              // constant while streams are taken
};

}  // namespace tandem::verifier
