// Declares a process not live while its work stands still.
#pragma once

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/telemetry/health.h"

namespace tandem::telemetry {

struct WatchdogOptions {
  absl::Duration limit = absl::Seconds(30);  // standing still for longer is being stuck
  absl::Duration period = absl::Seconds(1);  // between looks
};

// Looks from a thread of its own; goes back to live when work moves again. Borrows health.
class Watchdog {
 public:
  // `stalled_for`: how long there has been work without progress, zero when idle. Any thread.
  Watchdog(const WatchdogOptions& options, std::function<absl::Duration()> stalled_for, Health& health);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;

 private:
  void Loop();

  const WatchdogOptions options_;
  const std::function<absl::Duration()> stalled_for_;
  Health& health_;
  absl::Mutex mu_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace tandem::telemetry
