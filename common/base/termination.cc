#include "common/base/termination.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>

#include "common/base/status.h"

namespace tandem {
namespace {

sigset_t TerminationSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

[[noreturn]] void EndBySignal(int signal) {
  std::signal(signal, SIG_DFL);
  TerminationWaiter::UnblockSignals();
  raise(signal);
  _exit(128 + signal);
}

}  // namespace

void TerminationWaiter::BlockSignals() {
  const sigset_t set = TerminationSignals();
  TANDEM_CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  std::signal(SIGPIPE, SIG_IGN);
}

void TerminationWaiter::UnblockSignals() {
  const sigset_t set = TerminationSignals();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

TerminationWaiter::TerminationWaiter(std::function<void(int)> on_first) : on_first_(std::move(on_first)) {
  const sigset_t set = TerminationSignals();
  signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC);
  stop_fd_ = eventfd(0, EFD_CLOEXEC);
  TANDEM_CHECK(signal_fd_ >= 0 && stop_fd_ >= 0);
  thread_ = std::thread([this] { Loop(); });
}

TerminationWaiter::~TerminationWaiter() {
  const uint64_t one = 1;
  TANDEM_CHECK(write(stop_fd_, &one, sizeof one) == sizeof one);
  thread_.join();
  close(signal_fd_);
  close(stop_fd_);
}

void TerminationWaiter::Loop() {
  // The callback may take long (a drain), so it gets a thread of its own and this one goes on to the second
  // signal.
  std::thread callback;
  pollfd fds[2] = {{signal_fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  while (true) {
    if (poll(fds, 2, -1) < 0) {
      TANDEM_CHECK(errno == EINTR);
      continue;
    }
    if (fds[1].revents != 0) break;
    signalfd_siginfo info;
    if (fds[0].revents == 0 || read(signal_fd_, &info, sizeof info) != sizeof info) continue;
    if (callback.joinable()) EndBySignal(static_cast<int>(info.ssi_signo));
    callback = std::thread([this, signal = static_cast<int>(info.ssi_signo)] { on_first_(signal); });
  }
  if (callback.joinable()) callback.join();
}

}  // namespace tandem
