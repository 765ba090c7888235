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
    waiting_.Ring();
    settled_.notify_all();
  }
  if (!thread_.joinable()) return;
  thread_.join();
  sources_.Clear();
}

void EventLoop::Post(absl::AnyInvocable<void()> event) {
  const std::lock_guard lock(mu_);
  if (stop_) return;
  events_.push_back(std::move(event));
  if (events_.size() == 1 && asleep_) waiting_.Ring();
}

void EventLoop::Settle() {
  Wake();
  std::unique_lock lock(mu_);
  settled_.wait(lock, [this] { return stop_ || (asleep_ && events_.empty()); });
}

void EventLoop::Watch(int key, std::shared_ptr<MessageSource> source) {
  if (source->OnReady()) sources_.Insert(key, std::move(source));
}

void EventLoop::Run() {
  std::vector<absl::AnyInvocable<void()>> batch;
  absl::Duration next_wake = absl::ZeroDuration();  // the first round needs no event
  while (true) {
    bool last = false;
    {
      std::unique_lock lock(mu_);
      bool looked = sources_.empty();  // sources are looked at once a round, also while there are events
      while (true) {
        const bool idle = events_.empty() && !stop_;
        const absl::Duration wait =
            idle ? std::max(next_wake - clock_.Now(), absl::ZeroDuration()) : absl::ZeroDuration();
        if (looked && wait == absl::ZeroDuration()) break;
        asleep_ = idle;
        if (idle) settled_.notify_all();
        lock.unlock();
        // What sources bring is among the events afterwards.
        sources_.Wait(waiting_, wait == absl::InfiniteDuration() ? wait : std::min(wait, absl::Hours(1)));
        lock.lock();
        asleep_ = false;
        looked = true;
      }
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
