#include "gateway/admission/queue_door.h"

#include "gateway/errors.h"
#include "gateway/limits.h"

namespace tandem::gateway {

absl::Status QueueDoor::Enter(int choices) {
  if (draining_) return error::Draining(limits::kDrainDelay);
  const int before = waiting_.fetch_add(choices);
  const int limit = limit_;
  const absl::Duration predicted = absl::Seconds(before * seconds_per_choice_.load());
  if (before > 0 && before + choices > limit) {
    waiting_ -= choices;
    return error::QueueFull(limit, predicted);
  }
  const absl::Duration longest = absl::Seconds(max_predicted_wait_seconds_.load());
  if (longest > absl::ZeroDuration() && predicted > longest) {
    waiting_ -= choices;
    return error::WaitTooLong(predicted, longest);
  }
  return absl::OkStatus();
}

}  // namespace tandem::gateway
