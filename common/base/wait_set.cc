#include "common/base/wait_set.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "common/base/status.h"

namespace tandem {

WaitSet::WaitSet() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) { TANDEM_CHECK(fd_ >= 0); }

WaitSet::~WaitSet() { close(fd_); }

void WaitSet::Ring() {
  if (rung_.exchange(true)) return;
  const uint64_t one = 1;
  TANDEM_CHECK(write(fd_, &one, sizeof one) == sizeof one);
}

void WaitSet::Wait(absl::Duration timeout, std::vector<pollfd>& watched) {
  const bool forever = timeout == absl::InfiniteDuration();
  const timespec limit = absl::ToTimespec(std::max(timeout, absl::ZeroDuration()));
  watched.push_back({fd_, POLLIN, 0});
  const int ready = ppoll(watched.data(), watched.size(), forever ? nullptr : &limit, nullptr);
  // A signal ends a wait, too; then nothing is ready.
  TANDEM_CHECK(ready >= 0 || errno == EINTR);
  if (ready <= 0) {
    for (pollfd& watch : watched) watch.revents = 0;
  }
  if (watched.back().revents != 0) {
    uint64_t rings;
    TANDEM_CHECK(read(fd_, &rings, sizeof rings) == sizeof rings);
    rung_.store(false);  // before the mailbox is looked at: a ring from here on writes again
  }
  watched.pop_back();
}

}  // namespace tandem
