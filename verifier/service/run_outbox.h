// What a verifier has to say on one Run stream, merged until it can be said.
//
// The stream's writer takes from it whenever no write is in flight: the Hello, then notice of a drain, then
// reports (unless they go through a socket). A slow reader hence makes reports larger, never more of them:
// the tokens of a sequence are joined, everything else is its latest. Thread-safe; shared by the stream and
// the engine's sink, and may outlive the stream.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tandem/v1/run.pb.h"
#include "verifier/engine/messages.h"

namespace tandem::verifier {

class RunOutbox {
 public:
  // `first`: what reports say about the verifier until the engine has reported.
  RunOutbox(v1::VerifierHello hello, Report first);

  // From the engine.
  void Put(Report report) ABSL_LOCKS_EXCLUDED(mu_);
  // Sequences that ended before the engine saw them.
  void PutEnded(std::vector<SequenceReport> sequences) ABSL_LOCKS_EXCLUDED(mu_);
  void PutDraining(absl::Duration drain) ABSL_LOCKS_EXCLUDED(mu_);
  // Whether the gateway's socket has been connected. If so, reports go through it alone from here on.
  void PutSocketAnswer(bool connected) ABSL_LOCKS_EXCLUDED(mu_);
  // Once a second: makes a report without sequences if none has been sent since the last call. `now` holds
  // the verifier's present numbers; plan number and shares stay as the engine reported them. Whether there is
  // one to send.
  bool PutHeartbeat(const Report& now) ABSL_LOCKS_EXCLUDED(mu_);

  // The writer's source: false if there is nothing to say.
  bool Take(v1::RunResponse& out) ABSL_LOCKS_EXCLUDED(mu_);
  // For a socket: the next report, or false.
  bool TakeReport(v1::Report& out) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  bool TakeReportLocked(v1::Report& out) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  absl::Mutex mu_;
  std::optional<v1::VerifierHello> hello_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Duration> draining_ ABSL_GUARDED_BY(mu_);
  std::optional<bool> socket_answer_ ABSL_GUARDED_BY(mu_);
  bool by_socket_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<Report> pending_ ABSL_GUARDED_BY(mu_);
  std::vector<SequenceReport> ended_ ABSL_GUARDED_BY(mu_);
  Report latest_ ABSL_GUARDED_BY(mu_);  // without sequences
  uint64_t number_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t number_at_heartbeat_ ABSL_GUARDED_BY(mu_) = 0;
  bool heartbeat_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace tandem::verifier
