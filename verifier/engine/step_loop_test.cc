// The step loop's thread with callers on other threads; run under the thread sanitizer too.
#include "verifier/engine/step_loop.h"

#include <gtest/gtest.h>

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
