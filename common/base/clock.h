// Monotonic time, injected so that tests can advance it.
#pragma once

#include <atomic>

#include "absl/time/time.h"

namespace tandem {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Time since an arbitrary origin; never goes back and does not follow changes of the wall clock.
  virtual absl::Duration Now() const = 0;
  // Wall time, for deadlines given by clients and for logs only.
  virtual absl::Time WallNow() const = 0;

  static const Clock& Real();
};

// Stands still until told otherwise.
class FakeClock : public Clock {
 public:
  absl::Duration Now() const override { return absl::Nanoseconds(now_ns_.load()); }
  absl::Time WallNow() const override { return absl::UnixEpoch() + Now(); }
  void Advance(absl::Duration d) { now_ns_ += absl::ToInt64Nanoseconds(d); }

 private:
  std::atomic<int64_t> now_ns_{0};
};

}  // namespace tandem
