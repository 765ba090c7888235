// The gRPC service Drafter: Speculate streams of verifiers in, feeds to the draft loop, drafts back.
//
//   SpeculateService service({}, metrics, log);     // registered with the server while the model still loads
//   service.Open(identity, loop);                   // from now on streams are taken
//   ...
//   service.Leave();                                // says so on every stream and ends it
//
// Until Open, and from Leave on, a stream ends UNAVAILABLE with a pushback. A stream's end, for whatever
// reason, closes it in the engine, which frees its sequences within a step.
//
// Thread-safe. Borrows metrics, log and script; `loop` from Open until Leave has returned and the server is
// shut down.
#pragma once

#include <prometheus/counter.h>

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/telemetry/logs.h"
#include "common/telemetry/metrics.h"
#include "drafter/engine/draft_loop.h"
#include "drafter/models/script.h"
#include "drafter/service/drafter_hello.h"
#include "tandem/v1/speculate.grpc.pb.h"

namespace tandem::drafter {

struct SpeculateServiceOptions {
  absl::Duration hello_timeout = absl::Seconds(5);  // for a verifier's first message
  absl::Duration retry_after = absl::Seconds(1);    // told to verifiers that are refused
  int max_streams = 64;                             // verifiers at once
  // Of feeds that have come and wait for a step. Credit and the verifier's own patience keep it far lower.
  int64_t max_waiting_bytes = int64_t{128} << 20;
};

class SpeculateService final : public v1::Drafter::CallbackService {
 public:
  // `script`: what a scripted drafter does against the protocol; null for every other.
  SpeculateService(const SpeculateServiceOptions& options, telemetry::Metrics& metrics,
                   telemetry::Logger& log, const Script* script = nullptr);
  // Requires that no stream is open: after Leave and the server's shutdown.
  ~SpeculateService() override;

  void Open(const DrafterIdentity& identity, DraftLoop& loop) ABSL_LOCKS_EXCLUDED(mu_);
  // Returns when verifiers have been told, or do not read for a second.
  void Leave() ABSL_LOCKS_EXCLUDED(mu_);

  int num_streams() const ABSL_LOCKS_EXCLUDED(mu_);

  grpc::ServerBidiReactor<v1::SpeculateRequest, v1::SpeculateResponse>* Speculate(
      grpc::CallbackServerContext* context) override;

 private:
  friend class SpeculateStream;

  enum class State { kStarting, kOpen, kLeaving };

  // Takes the stream unless the status says why not.
  absl::Status Enter(class SpeculateStream& stream) ABSL_LOCKS_EXCLUDED(mu_);
  void Remove(class SpeculateStream& stream) ABSL_LOCKS_EXCLUDED(mu_);

  const SpeculateServiceOptions options_;
  telemetry::Logger& log_;
  const Script* const script_;
  telemetry::Labelled<prometheus::Counter> protocol_errors_;
  telemetry::Labelled<prometheus::Counter> handshake_failures_;
  telemetry::Labelled<prometheus::Gauge> open_streams_;     // by transport of rows; past the hello
  telemetry::Labelled<prometheus::Gauge> message_streams_;  // the same, by transport of messages

  mutable absl::Mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kStarting;
  // Constant while streams are taken.
  DrafterIdentity identity_;
  DraftLoop* loop_ = nullptr;
  absl::flat_hash_set<class SpeculateStream*> streams_ ABSL_GUARDED_BY(mu_);
};

}  // namespace tandem::drafter
