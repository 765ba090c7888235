// One thread and its mailbox: whoever wants something of the thread's state posts a function.
//
//   EventLoop loop(clock, [&] { batcher.Advance(); return batcher.next_wake(); });
//   loop.Post([&] { batcher.Submit(...); });
//
// Events run in the order of their posting. After each batch of them, and when the time that `after_events`
// returned has come, `after_events` runs. Between them the thread sleeps, on sockets of its own, too: what
// these bring is posted.
//
// Post and Wake: any thread. A stopped loop drops what is posted.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/message_sources.h"
#include "common/base/wait_set.h"

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
  void Stop();

  void Post(absl::AnyInvocable<void()> event);
  // On the loop's thread. From now on it sleeps on the source as well, and calls it once at first.
  void Watch(int key, std::shared_ptr<MessageSource> source);
  // On the loop's thread. The source that it has slept on; null: none, or it has ended.
  std::shared_ptr<MessageSource> Unwatch(int key) { return sources_.Remove(key); }
  // Lets the loop look at the clock again: for tests that have advanced a fake one.
  void Wake() {
    Post([] {});
  }
  // The same, and returns once the loop has done all there was to do and sleeps, or has stopped.
  void Settle();

 private:
  void Run();

  const Clock& clock_;
  std::function<absl::Duration()> after_events_;
  MessageSources<int> sources_;  // the loop's thread only
  WaitSet waiting_;
  std::thread thread_;
  // std::mutex, since the thread sanitizer does not see into the distribution's build of absl::Mutex.
  std::mutex mu_;
  std::condition_variable settled_;
  std::vector<absl::AnyInvocable<void()>> events_;  // guarded by mu_
  bool stop_ = false;                               // guarded by mu_
  bool asleep_ = false;                             // guarded by mu_
};

}  // namespace tandem::gateway
