#include "gateway/telemetry/readiness.h"

#include "absl/time/clock.h"

namespace tandem::gateway {
namespace {

constexpr absl::Duration kPeriod = absl::Milliseconds(50);

}  // namespace

Readiness::Readiness(const Generator& generator, telemetry::Health& health, absl::Duration grace)
    : generator_(generator), health_(health), grace_(grace), thread_([this] { Loop(); }) {}

Readiness::~Readiness() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  thread_.join();
}

void Readiness::Loop() {
  absl::Time last_ready = absl::InfinitePast();
  bool told = false;
  absl::MutexLock lock(&mu_);
  while (!mu_.AwaitWithTimeout(absl::Condition(&stop_), kPeriod)) {
    const absl::Time now = absl::Now();
    if (generator_.ready()) last_ready = now;
    const bool ready = now - last_ready < grace_;
    if (ready != told) health_.SetReady(told = ready);
  }
}

}  // namespace tandem::gateway
