#include "gateway/telemetry/readiness.h"

#include <utility>

namespace tandem::gateway {

Readiness::Readiness(std::function<void(bool)> publish, absl::Duration grace, const Clock& clock)
    : publish_(std::move(publish)), grace_(grace), clock_(clock), loop_(clock) {
  loop_.Start([this] { return Follow(); });
}

void Readiness::SetVerifiersReady(bool any) {
  loop_.Post([this, any, now = clock_.Now()] {
    if (any_ready_ && !any) grace_ends_ = now + grace_;
    any_ready_ = any;
  });
}

// Returns when it wants to look again.
absl::Duration Readiness::Follow() {
  const bool ready = any_ready_ || clock_.Now() < grace_ends_;
  if (ready != published_) publish_(published_ = ready);
  return ready && !any_ready_ ? grace_ends_ : absl::InfiniteDuration();
}

}  // namespace tandem::gateway
