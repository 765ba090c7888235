#include "common/base/termination.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <future>

namespace tandem {
namespace {

TEST(TerminationWaiter, DeliversTheFirstSignalOnce) {
  TerminationWaiter::BlockSignals();
  std::promise<int> got;
  {
    TerminationWaiter waiter([&](int signal) { got.set_value(signal); });
    kill(getpid(), SIGINT);
    EXPECT_EQ(got.get_future().get(), SIGINT);
  }
  TerminationWaiter::UnblockSignals();
}

TEST(TerminationWaiter, DeliversASignalThatCameBeforeIt) {
  TerminationWaiter::BlockSignals();
  kill(getpid(), SIGTERM);
  std::promise<int> got;
  TerminationWaiter waiter([&](int signal) { got.set_value(signal); });
  EXPECT_EQ(got.get_future().get(), SIGTERM);
}

TEST(TerminationWaiter, EndsWithoutASignal) {
  TerminationWaiter::BlockSignals();
  TerminationWaiter waiter([](int) { FAIL() << "no signal was sent"; });
}

TEST(TerminationWaiter, TheSecondSignalEndsTheProcessDuringTheCallback) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    TerminationWaiter::BlockSignals();
    TerminationWaiter waiter([](int) {
      kill(getpid(), SIGTERM);  // while this callback runs
      pause();
    });
    kill(getpid(), SIGTERM);
    while (true) pause();
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGTERM);
}

}  // namespace
}  // namespace tandem
