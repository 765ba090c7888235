#include "gateway/admission/queue_pace.h"

namespace tandem::gateway {

void QueuePace::SetWaiting(bool waiting, absl::Duration now) {
  if (waiting_) {
    CountTime(now);
  } else if (waiting) {
    if (now - counted_until_ > kForgetAfter) *this = QueuePace();
    counted_until_ = now;
  }
  waiting_ = waiting;
}

void QueuePace::PlaceFreed(absl::Duration now) {
  if (!waiting_) return;
  CountTime(now);
  time_ *= kKeep;
  freed_ = freed_ * kKeep + 1;
  if (num_freed_ < kMinFreed) ++num_freed_;
}

std::optional<absl::Duration> QueuePace::per_choice() const {
  if (num_freed_ < kMinFreed) return std::nullopt;
  return time_ / freed_;
}

void QueuePace::CountTime(absl::Duration now) {
  time_ += now - counted_until_;
  counted_until_ = now;
}

}  // namespace tandem::gateway
