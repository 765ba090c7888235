// The bound of the queue, enforced where requests come in, so that a full queue is refused on the caller's
// thread without asking the batcher. Thread-safe.
#pragma once

#include <atomic>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace tandem::gateway {

class QueueDoor {
 public:
  // Takes places for all choices of a request, or none: queue_full (by number, or by the wait that the
  // choices in front predict), draining. One that finds an empty queue always gets in.
  absl::Status Enter(int choices);
  // They left the queue: admitted for the first time, cancelled or failed.
  void Leave(int choices) { waiting_ -= choices; }

  // By the batcher: places, the present pace, and whether the end is near.
  void set_limit(int limit) { limit_ = limit; }
  // What each choice in front of a new one costs it; nullopt: no estimate, so nothing is predicted.
  void set_wait_per_choice(std::optional<absl::Duration> wait) {
    seconds_per_choice_ = absl::ToDoubleSeconds(wait.value_or(absl::ZeroDuration()));
  }
  void BeginDrain() { draining_ = true; }
  // Refuse when the wait would probably be longer; zero: never.
  void set_max_predicted_wait(absl::Duration wait) {
    max_predicted_wait_seconds_ = absl::ToDoubleSeconds(wait);
  }

  int waiting() const { return waiting_; }
  bool draining() const { return draining_; }

 private:
  std::atomic<int> waiting_{0};
  std::atomic<int> limit_{64};
  std::atomic<double> seconds_per_choice_{0};  // 0: no estimate
  std::atomic<double> max_predicted_wait_seconds_{0};
  std::atomic<bool> draining_{false};
};

}  // namespace tandem::gateway
