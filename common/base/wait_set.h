// Where a loop's thread sleeps: until another thread rings, a descriptor is ready or the time is up.
//
//   loop's thread:  waiting.Wait(timeout, watched);   // then looks at its mailbox and at watched[i].revents
//   other threads:  { lock; mailbox.push_back(...); }  waiting.Ring();
//
// A ring is never lost: one that comes while nobody waits ends the next wait at once. After a wait the
// mailbox must be looked at, whatever the wait ended for.
#pragma once

#include <poll.h>

#include <atomic>
#include <vector>

#include "absl/time/time.h"

namespace tandem {

class WaitSet {
 public:
  WaitSet();
  ~WaitSet();
  WaitSet(const WaitSet&) = delete;

  // Any thread. A system call only for the first ring since the last wait.
  void Ring();

  // One thread at a time. Waits for at most `timeout` (none: looks only; infinite: for ever), and sets
  // revents of `watched`, which is as it was otherwise.
  void Wait(absl::Duration timeout, std::vector<pollfd>& watched);

 private:
  const int fd_;  // an eventfd
  std::atomic<bool> rung_{false};
};

}  // namespace tandem
