// The step loop's thread with callers on other threads; run under the thread sanitizer too.
#include "verifier/engine/step_loop.h"

#include <gtest/gtest.h>

#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "verifier/engine/fake_model.h"

namespace tandem::verifier {
namespace {

using testing::FakeModel;

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
      absl::Mutex mu;
      int tokens = 0, ended = 0;
      const StreamId stream = running.loop->OpenStream([&](Report report) {
        absl::MutexLock lock(&mu);
        for (const SequenceReport& sequence : report.sequences) {
          tokens += static_cast<int>(sequence.new_tokens.size());
          ended += sequence.end == SequenceEnd::kLength;
        }
      });
      for (uint64_t id = 1; id <= 8; ++id) {
        running.loop->PostPlan(stream, Admit({Request(id, 20)}));
        running.loop->stats();
        running.loop->stalled_for();
      }
      {
        absl::MutexLock lock(&mu);
        const auto all_ended = [&] { return ended == 8; };
        EXPECT_TRUE(mu.AwaitWithTimeout(absl::Condition(&all_ended), absl::Seconds(60)));
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
  absl::Notification first;
  const StreamId stream = running.loop->OpenStream([&](const Report& report) {
    late += closed;
    if (!report.sequences.empty() && !first.HasBeenNotified()) first.Notify();
  });
  running.loop->PostPlan(stream, Admit({Request(1, 400)}));
  ASSERT_TRUE(first.WaitForNotificationWithTimeout(absl::Seconds(60)));
  running.loop->CloseStream(stream);
  closed = true;
  running.loop->PostPlan(stream, Admit({Request(2, 10)}));  // crossed the close: ignored
  // A later stream's report comes after the commands before it.
  absl::Notification other;
  Report last;
  const StreamId next = running.loop->OpenStream([&](const Report& report) {
    if (other.HasBeenNotified()) return;
    last = report;
    other.Notify();
  });
  ASSERT_TRUE(other.WaitForNotificationWithTimeout(absl::Seconds(60)));
  EXPECT_EQ(last.running_sequences, 0);
  EXPECT_EQ(late, 0);
  running.loop->CloseStream(next);
}

TEST(StepLoopTest, StopsWhileSequencesRun) {
  Running running;
  absl::Notification first;
  const StreamId stream = running.loop->OpenStream([&](const Report& report) {
    if (!report.sequences.empty() && !first.HasBeenNotified()) first.Notify();
  });
  running.loop->PostPlan(stream, Admit({Request(1, 400)}));
  ASSERT_TRUE(first.WaitForNotificationWithTimeout(absl::Seconds(60)));
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
  absl::Notification entered, leave;
  const StreamId stream = loop->OpenStream([&](const Report&) {
    if (entered.HasBeenNotified()) return;
    entered.Notify();
    leave.WaitForNotification();
  });
  entered.WaitForNotification();
  clock.Advance(absl::Seconds(3));
  EXPECT_EQ(loop->stalled_for(), absl::Seconds(3));
  leave.Notify();
  loop->CloseStream(stream);
}

}  // namespace
}  // namespace tandem::verifier
