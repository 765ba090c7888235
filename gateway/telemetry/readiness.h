// Keeps the health service's readiness in step with the verifiers: ready at once with the first, not ready
// once there has been none for `grace` (a restart of the only verifier in between is not worth taking the
// gateway out of service).
#pragma once

#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/telemetry/health.h"
#include "gateway/admission/generator.h"

namespace tandem::gateway {

class Readiness {
 public:
  // Looks every 50 ms from a thread of its own. Borrows both.
  Readiness(const Generator& generator, telemetry::Health& health, absl::Duration grace);
  ~Readiness();
  Readiness(const Readiness&) = delete;

 private:
  void Loop();

  const Generator& generator_;
  telemetry::Health& health_;
  const absl::Duration grace_;
  absl::Mutex mu_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace tandem::gateway
