#include "drafter/engine/draft_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "drafter/engine/fake_draft_model.h"
#include "drafter/engine/fake_verifier.h"

namespace tandem::drafter {
namespace {

using testing::FakeDraftModel;
using testing::FakeVerifier;
using ::testing::HasSubstr;

// Collects what a sink is told, and waits for it.
class Inbox {
 public:
  DraftSink sink() {
    return {.on_batch =
                [this](speculation::DraftBatch batch) {
                  const std::lock_guard lock(mu_);
                  for (auto& draft : batch.drafts) drafts_.push_back(std::move(draft));
                  feed_number_ = batch.feed_number;
                  compute_seconds_ += batch.compute_seconds;
                  changed_.notify_all();
                },
            .on_error =
                [this](absl::Status error) {
                  const std::lock_guard lock(mu_);
                  error_ = std::move(error);
                  changed_.notify_all();
                }};
  }
  bool AwaitDrafts(size_t count) {
    return Await([&] { return drafts_.size() >= count; });
  }
  bool AwaitFeed(uint64_t number) {
    return Await([&] { return feed_number_ >= number; });
  }
  bool AwaitError() {
    return Await([&] { return !error_.ok(); });
  }
  std::vector<speculation::SequenceDraft> drafts() {
    const std::lock_guard lock(mu_);
    return drafts_;
  }
  absl::Status error() {
    const std::lock_guard lock(mu_);
    return error_;
  }

 private:
  template <typename F>
  bool Await(const F& condition) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, std::chrono::seconds(20), condition);
  }
  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<speculation::SequenceDraft> drafts_;
  uint64_t feed_number_ = 0;
  double compute_seconds_ = 0;
  absl::Status error_;
};

// Feeds by a socket: a byte for each that waits.
class FakeSource final : public FeedSource {
 public:
  FakeSource() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds_), 0); }
  ~FakeSource() override {
    close(fds_[0]);
    close(fds_[1]);
  }
  void Put(speculation::Feed feed) {
    const std::lock_guard lock(mu_);
    waiting_.push_back(std::move(feed));
    EXPECT_EQ(write(fds_[1], "x", 1), 1);
  }
  // Its descriptor stays ready from now on.
  void End() {
    const std::lock_guard lock(mu_);
    ended_ = true;
    EXPECT_EQ(write(fds_[1], "x", 1), 1);
  }
  int num_calls_after_end() {
    const std::lock_guard lock(mu_);
    return calls_after_end_;
  }

  int fd() const override { return fds_[0]; }
  bool sending() const override { return false; }
  bool OnReady(std::vector<speculation::Feed>& feeds) override {
    const std::lock_guard lock(mu_);
    if (ended_) {
      ++calls_after_end_;
      return false;
    }
    char byte;
    while (read(fds_[0], &byte, 1) == 1) {
    }
    feeds = std::exchange(waiting_, {});
    return true;
  }

 private:
  int fds_[2];
  std::mutex mu_;
  std::vector<speculation::Feed> waiting_;
  bool ended_ = false;
  int calls_after_end_ = 0;
};

class DraftLoopTest : public ::testing::Test {
 protected:
  DraftLoopTest()
      : engine_(*DraftEngine::Create({.row_window = 100}, model_)),
        loop_(DraftLoop::Start(*engine_, Clock::Real())) {}

  static StreamSetup NewSetup() {
    return {.row_type = speculation::RowType::kF32, .mode = {}, .rows = nullptr};
  }

  FakeDraftModel model_;
  std::unique_ptr<DraftEngine> engine_;
  std::unique_ptr<DraftLoop> loop_;
};

TEST_F(DraftLoopTest, AnswersFeedsAndRests) {
  Inbox inbox;
  const StreamId stream = loop_->OpenStream(NewSetup(), inbox.sink());
  FakeVerifier verifier;
  loop_->PostFeed(stream, verifier.Feed(1, 0, 10, 1).Take());
  ASSERT_TRUE(inbox.AwaitDrafts(1));
  loop_->PostFeed(stream, verifier.Feed(1, 9, 12, 2).Take());
  ASSERT_TRUE(inbox.AwaitDrafts(2));
  EXPECT_EQ(inbox.drafts()[1].length, 12);
  EXPECT_EQ(loop_->stats().sequences, 1);
  loop_->PostFeed(stream, verifier.Forget(1).Take());
  ASSERT_TRUE(inbox.AwaitFeed(3));
  EXPECT_EQ(loop_->stats().sequences, 0);
}

TEST_F(DraftLoopTest, AnErrorEndsItsStreamAlone) {
  Inbox bad, good;
  const StreamId bad_stream = loop_->OpenStream(NewSetup(), bad.sink());
  const StreamId good_stream = loop_->OpenStream(NewSetup(), good.sink());
  FakeVerifier greedy, honest;
  loop_->PostFeed(good_stream, honest.Feed(1, 0, 10, 1).Take());
  loop_->PostFeed(bad_stream, greedy.Feed(1, 0, 102, 1).Take());
  loop_->PostFeed(bad_stream, greedy.Feed(1, 101, 102, 1).Take());  // dropped
  ASSERT_TRUE(bad.AwaitError());
  EXPECT_THAT(std::string(bad.error().message()), HasSubstr("granted are 100"));
  loop_->PostFeed(good_stream, honest.Feed(1, 9, 11, 2).Take());
  ASSERT_TRUE(good.AwaitDrafts(2));
  EXPECT_TRUE(bad.drafts().empty());
  EXPECT_EQ(loop_->stats().streams, 1);
  loop_->CloseStream(bad_stream);
  loop_->CloseStream(bad_stream);
}

TEST_F(DraftLoopTest, AfterCloseTheSinkIsSilent) {
  auto inbox = std::make_unique<Inbox>();
  const StreamId stream = loop_->OpenStream(NewSetup(), inbox->sink());
  FakeVerifier verifier;
  for (int i = 0; i < 20; ++i) loop_->PostFeed(stream, verifier.Feed(i, 0, 4, 1).Take());
  loop_->CloseStream(stream);
  inbox.reset();  // a call now would be seen by the sanitizers
  Inbox other;
  const StreamId next = loop_->OpenStream(NewSetup(), other.sink());
  FakeVerifier again;
  loop_->PostFeed(next, again.Feed(1, 0, 4, 1).Take());
  ASSERT_TRUE(other.AwaitDrafts(1));
  EXPECT_EQ(loop_->stats().streams, 1);
}

TEST_F(DraftLoopTest, ManyStreamsFromManyThreads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10; ++i) {
        Inbox inbox;
        const StreamId stream = loop_->OpenStream(NewSetup(), inbox.sink());
        FakeVerifier verifier;
        loop_->PostFeed(stream, verifier.Feed(1, 0, 20, 1).Feed(2, 0, 5, 1).Take());
        EXPECT_TRUE(inbox.AwaitDrafts(2));
        loop_->CloseStream(stream);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Inbox inbox;
  const StreamId stream = loop_->OpenStream(NewSetup(), inbox.sink());
  FakeVerifier verifier;
  loop_->PostFeed(stream, verifier.Take());
  ASSERT_TRUE(inbox.AwaitFeed(1));  // behind everything that was closed
  EXPECT_EQ(loop_->stats().sequences, 0);
  EXPECT_EQ(loop_->stats().streams, 1);
}

TEST_F(DraftLoopTest, FeedsOfASourceWakeItAndGoWithItsStream) {
  Inbox by_source, by_post;
  const auto source = std::make_shared<FakeSource>();
  const std::weak_ptr<FakeSource> alive = source;
  const StreamId stream = loop_->OpenStream(NewSetup(), by_source.sink(), source);
  const StreamId other = loop_->OpenStream(NewSetup(), by_post.sink());
  FakeVerifier verifier, another;
  for (int i = 1; i <= 20; ++i) {  // it sleeps before each
    source->Put(verifier.Feed(i % 4, 0, 10, i).Take());
    ASSERT_TRUE(by_source.AwaitDrafts(i));
    loop_->PostFeed(other, another.Feed(1, 0, 4, i).Take());
    ASSERT_TRUE(by_post.AwaitDrafts(i));
  }
  loop_->CloseStream(stream);
  loop_->PostFeed(other, another.Take());
  ASSERT_TRUE(by_post.AwaitFeed(21));
  EXPECT_EQ(loop_->stats().streams, 1);
  EXPECT_EQ(alive.use_count(), 1);  // ours
}

TEST_F(DraftLoopTest, ASourceThatEndsTakesItsStreamAlong) {
  Inbox inbox, other;
  const auto source = std::make_shared<FakeSource>();
  const StreamId stream = loop_->OpenStream(NewSetup(), inbox.sink(), source);
  const StreamId next = loop_->OpenStream(NewSetup(), other.sink());
  FakeVerifier verifier, honest;
  source->Put(verifier.Feed(1, 0, 10, 1).Take());
  ASSERT_TRUE(inbox.AwaitDrafts(1));
  source->End();
  for (int i = 1; loop_->stats().streams == 2; ++i) {
    loop_->PostFeed(next, honest.Feed(1, 0, 4, i).Take());
    ASSERT_TRUE(other.AwaitDrafts(i));
  }
  EXPECT_EQ(source->num_calls_after_end(), 1);  // though its descriptor is ready still
  loop_->CloseStream(stream);
  loop_->CloseStream(next);
}

TEST_F(DraftLoopTest, EndsWithStreamsOpenAndWorkToDo) {
  Inbox inbox;
  const StreamId stream = loop_->OpenStream(NewSetup(), inbox.sink());
  FakeVerifier verifier;
  for (int i = 0; i < 10; ++i) loop_->PostFeed(stream, verifier.Feed(i, 0, 9, 1).Take());
  loop_.reset();
  EXPECT_TRUE(inbox.error().ok());
}

}  // namespace
}  // namespace tandem::drafter
