// How fast the queue moves: seconds for each choice in front of a new one, by recent experience.
//
// With all places taken, one choice leaves the queue for each that frees its place, so who comes behind k
// others waits about k times the mean time between two of those. Only time during which choices wait for a
// place counts: otherwise places are freed without anybody to take them, and the times between say nothing.
// The mean is that of time and events summed, not of the single intervals: choices of one step end together,
// and their zeros belong to the long interval before them.
//
//   pace.SetWaiting(true, clock.Now());
//   pace.PlaceFreed(clock.Now());
//
// Not thread-safe.
#pragma once

#include <optional>

#include "absl/time/time.h"

namespace tandem::gateway {

class QueuePace {
 public:
  // With fewer there is no estimate: the first places after an idle time say little.
  static constexpr int kMinFreed = 8;
  // A queue that forms after so long without one is another load: what was learnt is forgotten.
  static constexpr absl::Duration kForgetAfter = absl::Minutes(1);

  // Whether, from `now` on, choices wait for a place. Times never go back.
  void SetWaiting(bool waiting, absl::Duration now);
  // A running choice has ended, in whatever way.
  void PlaceFreed(absl::Duration now);

  std::optional<absl::Duration> per_choice() const;

 private:
  // Weight of the past at each event: the last 32 or so count.
  static constexpr double kKeep = 1 - 1.0 / 32;

  void CountTime(absl::Duration now);

  bool waiting_ = false;
  absl::Duration counted_until_ =
      absl::ZeroDuration();                     // waiting: now; else when the queue last was not empty
  absl::Duration time_ = absl::ZeroDuration();  // decayed sums
  double freed_ = 0;
  int num_freed_ = 0;  // not decayed
};

}  // namespace tandem::gateway
