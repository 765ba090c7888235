#include "gateway/admission/event_loop.h"

#include <algorithm>
#include <utility>

namespace tandem::gateway {

void EventLoop::Start(std::function<absl::Duration()> after_events) {
  after_events_ = std::move(after_events);
  thread_ = std::thread([this] { Run(); });
}

void EventLoop::Stop() {
  {
    const std::lock_guard lock(mu_);
    stop_ = true;
    wake_.notify_one();
    settled_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void EventLoop::Post(absl::AnyInvocable<void()> event) {
  const std::lock_guard lock(mu_);
  if (stop_) return;
  events_.push_back(std::move(event));
  if (events_.size() == 1) wake_.notify_one();
}

void EventLoop::Settle() {
  Wake();
  std::unique_lock lock(mu_);
  settled_.wait(lock, [this] { return stop_ || (asleep_ && events_.empty()); });
}

void EventLoop::Run() {
  std::vector<absl::AnyInvocable<void()>> batch;
  absl::Duration next_wake = absl::ZeroDuration();  // the first round needs no event
  while (true) {
    bool last = false;
    {
      std::unique_lock lock(mu_);
      while (events_.empty() && !stop_) {
        const absl::Duration wait = next_wake - clock_.Now();
        if (wait <= absl::ZeroDuration()) break;
        asleep_ = true;
        settled_.notify_all();
        if (wait == absl::InfiniteDuration()) {
          wake_.wait(lock);
        } else {
          wake_.wait_for(lock, absl::ToChronoNanoseconds(std::min(wait, absl::Hours(1))));
        }
      }
      asleep_ = false;
      batch.swap(events_);
      last = stop_;
    }
    for (auto& event : batch) event();
    batch.clear();
    next_wake = after_events_();
    if (last) return;
  }
}

}  // namespace tandem::gateway
