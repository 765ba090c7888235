// Tells the process that it has been asked to end (SIGTERM, SIGINT).
//
//   int main() {
//     TerminationWaiter::BlockSignals();                 // first of all, so that every later thread inherits
//     it
//     ...
//     TerminationWaiter waiter([&](int signal) { shutdown.Notify(); });
//
// The callback runs once, on a thread of its own, for the first signal; the second ends the process at once,
// as the signal does by default. A child process inherits the mask: UnblockSignals between fork and exec.
#pragma once

#include <functional>
#include <thread>

namespace tandem {

class TerminationWaiter {
 public:
  // Blocks SIGTERM and SIGINT in the calling thread, so that they wait for a TerminationWaiter, and ignores
  // SIGPIPE, which a reader of stdout or stderr that went away would raise.
  static void BlockSignals();
  // Async-signal-safe.
  static void UnblockSignals();

  // Requires BlockSignals. A signal that came before is delivered now.
  explicit TerminationWaiter(std::function<void(int signal)> on_first);
  // Waits for a running callback.
  ~TerminationWaiter();
  TerminationWaiter(const TerminationWaiter&) = delete;

 private:
  void Loop();

  std::function<void(int)> on_first_;
  int signal_fd_ = -1;
  int stop_fd_ = -1;
  std::thread thread_;
};

}  // namespace tandem
