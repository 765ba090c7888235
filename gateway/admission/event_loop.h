// One thread and its mailbox: whoever wants something of the thread's state posts a function.
//
//   EventLoop loop(clock, [&] { batcher.Advance(); return batcher.next_wake(); });
//   loop.Post([&] { batcher.Submit(...); });
//
// Events run in the order of their posting. After each batch of them, and when the time that `after_events`
// returned has come, `after_events` runs. Between them the thread sleeps; there is no polling.
//
// Post and Wake: any thread. A stopped loop drops what is posted.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"

namespace tandem::gateway {

class EventLoop {
 public:
  // Borrows the clock. The thread does not run before Start.
  explicit EventLoop(const Clock& clock) : clock_(clock) {}
  ~EventLoop() { Stop(); }
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // `after_events` returns when it wants to run again, on the clock's scale (InfiniteDuration: with the next
  // event).
  void Start(std::function<absl::Duration()> after_events);
  // Runs what has been posted so far, then ends the thread. Not on the loop's thread.
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);

  void Post(absl::AnyInvocable<void()> event) ABSL_LOCKS_EXCLUDED(mu_);
  // Lets the loop look at the clock again: for tests that have advanced a fake one.
  void Wake() {
    Post([] {});
  }

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mu_);

  const Clock& clock_;
  std::function<absl::Duration()> after_events_;
  std::thread thread_;
  absl::Mutex mu_;
  absl::CondVar wake_;
  std::vector<absl::AnyInvocable<void()>> events_ ABSL_GUARDED_BY(mu_);
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace tandem::gateway
