#include "common/base/wait_set.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"

namespace tandem {
namespace {

TEST(WaitSetTest, ARingBeforeTheWaitEndsItAndCountsOnce) {
  WaitSet waiting;
  std::vector<pollfd> watched;
  waiting.Ring();
  waiting.Ring();
  waiting.Wait(absl::InfiniteDuration(), watched);
  EXPECT_TRUE(watched.empty());
  const absl::Time start = absl::Now();
  waiting.Wait(absl::Milliseconds(20), watched);  // nobody has rung since
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(20));
  waiting.Ring();
  waiting.Wait(absl::InfiniteDuration(), watched);
}

TEST(WaitSetTest, TellsWhichDescriptorIsReady) {
  WaitSet waiting;
  int a[2], b[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, a), 0);
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, b), 0);
  std::vector<pollfd> watched{{a[0], POLLIN, 0}, {b[0], POLLIN, 0}};
  waiting.Wait(absl::ZeroDuration(), watched);
  EXPECT_EQ(watched[0].revents | watched[1].revents, 0);
  ASSERT_EQ(write(b[1], "x", 1), 1);
  waiting.Wait(absl::InfiniteDuration(), watched);
  ASSERT_EQ(watched.size(), 2u);
  EXPECT_EQ(watched[0].revents, 0);
  EXPECT_EQ(watched[1].revents, POLLIN);
  close(a[1]);  // a peer that goes wakes, too
  waiting.Wait(absl::InfiniteDuration(), watched);
  EXPECT_NE(watched[0].revents & POLLHUP, 0);
  for (const int fd : {a[0], b[0], b[1]}) close(fd);
}

// No message may lie in a mailbox while its reader sleeps: every wait here is without end.
TEST(WaitSetTest, NoRingOfManyThreadsIsLost) {
  constexpr int kThreads = 4, kMessages = 5000;
  WaitSet waiting;
  std::mutex mu;
  int mailbox = 0;
  std::vector<std::thread> senders;
  for (int i = 0; i < kThreads; ++i) {
    senders.emplace_back([&] {
      for (int n = 0; n < kMessages; ++n) {
        {
          const std::lock_guard lock(mu);
          ++mailbox;
        }
        waiting.Ring();
        if (n % 64 == 0) std::this_thread::yield();
      }
    });
  }
  std::vector<pollfd> watched;
  for (int taken = 0; taken < kThreads * kMessages;) {
    waiting.Wait(absl::InfiniteDuration(), watched);
    const std::lock_guard lock(mu);
    taken += std::exchange(mailbox, 0);
  }
  for (std::thread& sender : senders) sender.join();
}

}  // namespace
}  // namespace tandem
