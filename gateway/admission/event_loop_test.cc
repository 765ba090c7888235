// The loop's thread with sources and callers on other threads; run under the thread sanitizer too.
#include "gateway/admission/event_loop.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

namespace tandem::gateway {
namespace {

// Counts, and lets a test wait for a count.
class Counter {
 public:
  void Add() {
    const std::lock_guard lock(mu_);
    ++count_;
    changed_.notify_all();
  }
  int Await(int count) {
    std::unique_lock lock(mu_);
    changed_.wait_for(lock, std::chrono::seconds(60), [&] { return count_ >= count; });
    return count_;
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  int count_ = 0;
};

// Posts an event for each byte that comes, and ends with the peer.
class FakeSource final : public MessageSource {
 public:
  FakeSource(EventLoop& loop, Counter& events) : loop_(loop), events_(events) {
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds_), 0);
  }
  ~FakeSource() override {
    close(fds_[0]);
    if (fds_[1] >= 0) close(fds_[1]);
  }
  void Write() { EXPECT_EQ(write(fds_[1], "x", 1), 1); }
  void Hangup() { close(std::exchange(fds_[1], -1)); }

  int fd() const override { return fds_[0]; }
  bool sending() const override { return false; }
  bool OnReady() override {
    char byte;
    const ssize_t got = read(fds_[0], &byte, 1);
    if (got == 1) loop_.Post([this] { events_.Add(); });
    return got != 0;
  }

 private:
  EventLoop& loop_;
  Counter& events_;
  int fds_[2];
};

class EventLoopTest : public ::testing::Test {
 protected:
  EventLoopTest() {
    loop_.Start([this] {
      rounds_.Add();
      return absl::InfiniteDuration();
    });
    EXPECT_EQ(rounds_.Await(1), 1);  // the first needs no event
  }
  void Watch(const std::shared_ptr<MessageSource>& source) {
    loop_.Post([this, source] { loop_.Watch(1, source); });
  }

  Counter rounds_, events_;
  EventLoop loop_{Clock::Real()};
};

TEST_F(EventLoopTest, ASourceWakesItAndARoundFollows) {
  const auto source = std::make_shared<FakeSource>(loop_, events_);
  source->Write();
  Watch(source);
  EXPECT_EQ(events_.Await(1), 1);  // called at once
  EXPECT_EQ(rounds_.Await(3), 3);
  for (int i = 2; i <= 10; ++i) {
    source->Write();
    EXPECT_EQ(events_.Await(i), i);
    EXPECT_EQ(rounds_.Await(2 + i), 2 + i);
  }
}

TEST_F(EventLoopTest, SourcesAreCalledWhileEventsKeepComing) {
  const auto source = std::make_shared<FakeSource>(loop_, events_);
  Watch(source);
  // One event begets the next, so that there always is one.
  Counter begotten;
  std::function<void()> beget = [&] {
    begotten.Add();
    loop_.Post([&] { beget(); });
  };
  loop_.Post([&] { beget(); });
  EXPECT_GE(begotten.Await(100), 100);
  source->Write();
  EXPECT_EQ(events_.Await(1), 1);
  loop_.Stop();  // before what it uses goes
}

TEST_F(EventLoopTest, ASourceThatHasEndedOrIsUnwatchedIsNotCalled) {
  auto source = std::make_shared<FakeSource>(loop_, events_);
  Watch(source);
  loop_.Settle();
  source->Hangup();  // the descriptor stays ready
  while (source.use_count() > 1) loop_.Settle();
  source = std::make_shared<FakeSource>(loop_, events_);
  Watch(source);
  loop_.Settle();
  loop_.Post([&] { EXPECT_EQ(loop_.Unwatch(1), source); });
  loop_.Settle();
  source->Write();
  loop_.Settle();
  EXPECT_EQ(events_.Await(0), 0);
  EXPECT_EQ(source.use_count(), 1);
}

TEST_F(EventLoopTest, StoppedItLetsGoOfItsSources) {
  const auto source = std::make_shared<FakeSource>(loop_, events_);
  Watch(source);
  loop_.Settle();
  EXPECT_EQ(source.use_count(), 2);
  loop_.Stop();
  EXPECT_EQ(source.use_count(), 1);
}

}  // namespace
}  // namespace tandem::gateway
