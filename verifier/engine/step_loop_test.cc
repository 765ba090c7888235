// The step loop's thread with callers on other threads; run under the thread sanitizer too.
#include "verifier/engine/step_loop.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>

#include "verifier/engine/fake_model.h"

namespace tandem::verifier {
namespace {

using testing::FakeModel;

// Set once, awaited by another thread; what absl::Notification is, visible to the thread sanitizer.
class Event {
 public:
  bool Set() { return !set_.exchange(true) && (promise_.set_value(), true); }
  bool is_set() const { return set_; }
  bool Await() { return future_.wait_for(std::chrono::seconds(60)) == std::future_status::ready; }

 private:
  std::atomic<bool> set_{false};
  std::promise<void> promise_;
  std::future<void> future_ = promise_.get_future();
};

struct Running {
  Running() : pool(2) {
    EngineOptions options;
    options.kv_bytes = 1 << 20;
    auto created = Engine::Create(options, model, pool, Clock::Real());
    TANDEM_CHECK(created.ok());
    engine = *std::move(created);
    loop =
        StepLoop::Start(*engine, Clock::Real(), [this](const StepStats&, const EngineStats&) { ++observed; });
  }
  FakeModel model;
  ThreadPool pool;
  std::unique_ptr<Engine> engine;
  std::atomic<int> observed{0};
  std::unique_ptr<StepLoop> loop;  // stops before the rest goes
};

Admission Request(uint64_t id, int32_t max_tokens) {
  Admission request;
  request.id = id;
  request.tokens = {1, 2, 3, static_cast<int32_t>(id % FakeModel::kVocab)};
  request.prompt_length = 4;
  request.max_tokens = max_tokens;
  request.sampling.seed = id;
  return request;
}

Plan Admit(std::vector<Admission> admissions) {
  Plan plan;
  plan.admissions = std::move(admissions);
  return plan;
}

TEST(StepLoopTest, StreamsOfSeveralThreadsAllFinish) {
  Running running;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      std::mutex mu;
      std::condition_variable changed;
      int tokens = 0, ended = 0;
      const StreamId stream = running.loop->OpenStream([&](Report report) {
        const std::lock_guard lock(mu);
        for (const SequenceReport& sequence : report.sequences) {
          tokens += static_cast<int>(sequence.new_tokens.size());
          ended += sequence.end == SequenceEnd::kLength;
        }
        changed.notify_all();
      });
      for (uint64_t id = 1; id <= 8; ++id) {
        running.loop->PostPlan(stream, Admit({Request(id, 20)}));
        running.loop->stats();
        running.loop->stalled_for();
      }
      {
        std::unique_lock lock(mu);
        EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(60), [&] { return ended == 8; }));
        EXPECT_EQ(tokens, 8 * 20);
      }
      running.loop->CloseStream(stream);
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_GT(running.observed, 0);
}

TEST(StepLoopTest, AClosedStreamIsNotCalledAgainAndItsSequencesGo) {
  Running running;
  std::atomic<bool> closed{false};
  std::atomic<int> late{0};
  Event first;
  const StreamId stream = running.loop->OpenStream([&](const Report& report) {
    late += closed;
    if (!report.sequences.empty()) first.Set();
  });
  running.loop->PostPlan(stream, Admit({Request(1, 400)}));
  ASSERT_TRUE(first.Await());
  running.loop->CloseStream(stream);
  closed = true;
  running.loop->PostPlan(stream, Admit({Request(2, 10)}));  // crossed the close: ignored
  // A later stream's report comes after the commands before it.
  Event other;
  Report last;
  const StreamId next = running.loop->OpenStream([&](const Report& report) {
    if (other.is_set()) return;
    last = report;
    other.Set();
  });
  ASSERT_TRUE(other.Await());
  EXPECT_EQ(last.running_sequences, 0);
  EXPECT_EQ(late, 0);
  running.loop->CloseStream(next);
}

// Drafts by a socket; says when it has been called, and whether it goes on.
class FakeSource final : public MessageSource {
 public:
  FakeSource() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds_), 0); }
  ~FakeSource() override {
    close(fds_[0]);
    close(fds_[1]);
  }
  void Write() { EXPECT_EQ(write(fds_[1], "x", 1), 1); }
  int AwaitCalls(int count) {
    std::unique_lock lock(mu_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return calls_ >= count; }));
    return calls_;
  }
  void EndAt(int calls) {
    const std::lock_guard lock(mu_);
    end_at_ = calls;
  }

  int fd() const override { return fds_[0]; }
  bool sending() const override { return false; }
  bool OnReady() override {
    const std::lock_guard lock(mu_);
    ++calls_;
    changed_.notify_all();
    if (calls_ == end_at_) return false;  // and the descriptor stays ready
    char byte;
    EXPECT_EQ(read(fds_[0], &byte, 1), 1);
    return true;
  }

 private:
  int fds_[2];
  std::mutex mu_;
  std::condition_variable changed_;
  int calls_ = 0, end_at_ = -1;
};

class NoLink final : public DrafterLink {
 public:
  void Connect(const speculation::VerifierHello&, Listener&) override {}
  void PutRow(int64_t, std::span<const std::byte>) override {}
  void SendFeed(speculation::Feed) override {}
  void Close() override {}
  const std::string& name() const override { return name_; }

 private:
  const std::string name_ = "none";
};

TEST(StepLoopTest, ADraftersSourceWakesItUntilItEndsOrIsClosed) {
  FakeModel model;
  ThreadPool pool(2);
  EngineOptions options;
  options.kv_bytes = 1 << 20;
  options.max_draft_tokens = 3;
  options.speculation.num_drafters = 1;
  auto engine = Engine::Create(options, model, pool, Clock::Real());
  ASSERT_TRUE(engine.ok()) << engine.status();
  auto loop = StepLoop::Start(**engine, Clock::Real(), nullptr);
  NoLink link;
  const auto open = [&](const std::shared_ptr<FakeSource>& source) {
    DrafterStream stream;
    stream.link = &link;
    stream.hello.block_size = 3;
    stream.source = source;
    loop->OpenDrafter(0, std::move(stream), [](const absl::Status& why) { ADD_FAILURE() << why; });
  };
  const auto source = std::make_shared<FakeSource>();
  open(source);
  for (int i = 1; i <= 3; ++i) {  // it sleeps: nothing runs
    source->Write();
    EXPECT_EQ(source->AwaitCalls(i), i);
  }
  // While a sequence runs sources are looked at between steps.
  const StreamId stream = loop->OpenStream([](const Report&) {});
  loop->PostPlan(stream, Admit({Request(1, 300)}));
  source->Write();
  EXPECT_EQ(source->AwaitCalls(4), 4);
  source->EndAt(5);
  source->Write();
  source->AwaitCalls(5);
  loop->CloseDrafter(0);
  EXPECT_EQ(source->AwaitCalls(5), 5);  // not once more
  EXPECT_EQ(source.use_count(), 1);
  const auto next = std::make_shared<FakeSource>();
  open(next);
  next->Write();
  EXPECT_EQ(next->AwaitCalls(1), 1);
  loop->CloseDrafter(0);
  next->Write();  // nobody looks
  EXPECT_EQ(next.use_count(), 1);
  loop->CloseStream(stream);
}

TEST(StepLoopTest, AStreamsSourceIsCalledUntilTheStreamCloses) {
  Running running;
  const StreamId stream = running.loop->OpenStream([](const Report&) {});
  const auto source = std::make_shared<FakeSource>();
  source->Write();
  running.loop->AddSource(stream, source);
  EXPECT_EQ(source->AwaitCalls(1), 1);  // at once
  for (int i = 2; i <= 4; ++i) {
    source->Write();
    EXPECT_EQ(source->AwaitCalls(i), i);
  }
  running.loop->CloseStream(stream);
  source->Write();  // nobody looks
  // A later stream's report comes after the commands before it.
  Event other;
  const StreamId next = running.loop->OpenStream([&](const Report&) { other.Set(); });
  ASSERT_TRUE(other.Await());
  EXPECT_EQ(source->AwaitCalls(4), 4);
  EXPECT_EQ(source.use_count(), 1);
  running.loop->AddSource(stream, source);  // crossed the close: ignored
  EXPECT_EQ(source.use_count(), 1);
  running.loop->CloseStream(next);
}

TEST(StepLoopTest, StopsWhileSequencesRun) {
  Running running;
  Event first;
  const StreamId stream = running.loop->OpenStream([&](const Report& report) {
    if (!report.sequences.empty()) first.Set();
  });
  running.loop->PostPlan(stream, Admit({Request(1, 400)}));
  ASSERT_TRUE(first.Await());
  running.loop.reset();
}

TEST(StepLoopTest, TellsHowLongAStepHangs) {
  // The sink holds the loop up, as a hanging device would; the clock is ours.
  FakeClock clock;
  FakeModel model;
  ThreadPool pool(1);
  EngineOptions options;
  options.kv_bytes = 1 << 20;
  auto engine = Engine::Create(options, model, pool, clock);
  ASSERT_TRUE(engine.ok());
  auto loop = StepLoop::Start(**engine, clock, nullptr);
  EXPECT_EQ(loop->stalled_for(), absl::ZeroDuration());
  Event entered, leave;
  const StreamId stream = loop->OpenStream([&](const Report&) {
    if (entered.is_set()) return;
    entered.Set();
    leave.Await();
  });
  ASSERT_TRUE(entered.Await());
  clock.Advance(absl::Seconds(3));
  EXPECT_EQ(loop->stalled_for(), absl::Seconds(3));
  leave.Set();
  loop->CloseStream(stream);
}

}  // namespace
}  // namespace tandem::verifier
