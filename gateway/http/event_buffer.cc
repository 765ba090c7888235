#include "gateway/http/event_buffer.h"

#include <iterator>
#include <utility>

namespace tandem::gateway::http {

bool EventBuffer::WantsWake() { return !std::exchange(waking_, true); }

ChoiceOutput& EventBuffer::OutputOf(int32_t choice) {
  for (ChoiceOutput& output : events_.outputs) {  // at most limits::kChoicesPerRequest
    if (output.choice == choice) return output;
  }
  events_.outputs.emplace_back().choice = choice;
  return events_.outputs.back();
}

EventBuffer::Events EventBuffer::Take() {
  absl::MutexLock lock(&mu_);
  waking_ = false;
  bytes_ = 0;
  return std::exchange(events_, Events());
}

void EventBuffer::OnStarted(const Started& started) {
  bool wake;
  {
    absl::MutexLock lock(&mu_);
    if (ended_) return;
    events_.started = started;
    wake = options_.wake_at_deltas && WantsWake();
  }
  if (wake) options_.wake();
}

void EventBuffer::OnDelta(Delta delta) {
  bool wake = false;
  {
    absl::MutexLock lock(&mu_);
    if (ended_) return;
    if (!options_.keep_tokens) delta.tokens.clear();
    bytes_ += SizeOf(delta);
    if (bytes_ > options_.max_bytes) {
      ended_ = true;
      events_.error = options_.overflow;
      wake = WantsWake();
    } else {
      ChoiceOutput& output = OutputOf(delta.choice);
      if (options_.keep_spans) AppendSpans(delta.drafted_spans, output.text.size(), output.drafted_spans);
      output.text += delta.text;
      output.tokens.insert(output.tokens.end(), std::make_move_iterator(delta.tokens.begin()),
                           std::make_move_iterator(delta.tokens.end()));
      wake = options_.wake_at_deltas && WantsWake();
    }
  }
  if (wake) options_.wake();
}

void EventBuffer::OnFinished(const Finished& finished) {
  bool wake;
  {
    absl::MutexLock lock(&mu_);
    if (ended_) return;
    OutputOf(finished.choice).finished = finished;
    wake = options_.wake_at_deltas && WantsWake();
  }
  if (wake) options_.wake();
}

void EventBuffer::OnAllFinished() {
  bool wake;
  {
    absl::MutexLock lock(&mu_);
    if (std::exchange(ended_, true)) return;
    events_.all_finished = true;
    wake = WantsWake();
  }
  if (wake) options_.wake();
}

void EventBuffer::OnError(const absl::Status& status) {
  bool wake;
  {
    absl::MutexLock lock(&mu_);
    if (std::exchange(ended_, true)) return;
    events_.error = status;
    wake = WantsWake();
  }
  if (wake) options_.wake();
}

}  // namespace tandem::gateway::http
