// Keeps the process's readiness in step with the verifiers: ready at once with the first, not ready once
// there has been none for `grace` (a restart of the only verifier in between is not worth taking the gateway
// out of service).
//
//   Readiness readiness([&](bool ready) { health.SetReady(ready); }, limits::kNoVerifierWait, Clock::Real());
//   core_options.on_verifiers_ready = [&](bool any) { readiness.SetVerifiersReady(any); };
//   ...
//   readiness.Stop();  health.SetReady(false);   // the end: nothing is published behind it
//
// Thread-safe, but for destruction. Sleeps until told something or the grace is over.
#pragma once

#include <functional>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "gateway/admission/event_loop.h"

namespace tandem::gateway {

class Readiness {
 public:
  // `publish` is called on a thread of its own, whenever readiness changes; it starts as not ready. Borrows
  // the clock.
  Readiness(std::function<void(bool)> publish, absl::Duration grace, const Clock& clock);
  ~Readiness() { Stop(); }
  Readiness(const Readiness&) = delete;

  void SetVerifiersReady(bool any);
  // After it has returned nothing is published any more. Idempotent.
  void Stop() { loop_.Stop(); }

  // Lets it look at the clock, and returns when it has followed: for tests that have advanced a fake one.
  void Settle() { loop_.Settle(); }

 private:
  absl::Duration Follow();

  const std::function<void(bool)> publish_;
  const absl::Duration grace_;
  const Clock& clock_;
  // The loop's thread only.
  bool any_ready_ = false;
  bool published_ = false;
  absl::Duration grace_ends_ = -absl::InfiniteDuration();  // while none is ready
  EventLoop loop_;                                         // last: its thread uses the others
};

}  // namespace tandem::gateway
