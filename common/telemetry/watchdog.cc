#include "common/telemetry/watchdog.h"

#include <utility>

namespace tandem::telemetry {

Watchdog::Watchdog(const WatchdogOptions& options, std::function<absl::Duration()> stalled_for,
                   Health& health)
    : options_(options), stalled_for_(std::move(stalled_for)), health_(health), thread_([this] { Loop(); }) {}

Watchdog::~Watchdog() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  thread_.join();
}

void Watchdog::Loop() {
  bool was_live = true;
  absl::MutexLock lock(&mu_);
  while (!mu_.AwaitWithTimeout(absl::Condition(&stop_), options_.period)) {
    const bool live = stalled_for_() <= options_.limit;
    if (live != was_live) health_.SetLive(live);
    was_live = live;
  }
}

}  // namespace tandem::telemetry
