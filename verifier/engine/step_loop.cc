#include "verifier/engine/step_loop.h"

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/status.h"

namespace tandem::verifier {
namespace {

// Locks are std::mutex: the thread sanitizer does not see into the distribution's build of absl::Mutex.

// A stream's sink, shared by the loop and whoever closes the stream: after closing it is never called again.
class SinkGate {
 public:
  explicit SinkGate(StepLoop::ReportSink sink) : sink_(std::move(sink)) {}

  void Deliver(Report&& report) {
    const std::lock_guard lock(mu_);
    if (open_) sink_(std::move(report));
  }
  // Waits for a call under way.
  void Close() {
    const std::lock_guard lock(mu_);
    open_ = false;
  }

 private:
  std::mutex mu_;
  bool open_ = true;  // guarded by mu_
  const StepLoop::ReportSink sink_;
};

// One struct rather than a variant: GCC 12 under sanitizers takes a moved variant of these for uninitialised.
struct Command {
  enum class Kind { kOpen, kClose, kPlan } kind;
  StreamId stream = 0;
  std::shared_ptr<SinkGate> gate;  // kOpen; shared, since either side may let go last
  Plan plan;                       // kPlan
};

class ThreadedStepLoop final : public StepLoop {
 public:
  ThreadedStepLoop(Engine& engine, const Clock& clock, StepObserver observer)
      : engine_(engine), clock_(clock), observer_(std::move(observer)), stats_(engine.stats()) {
    thread_ = std::thread([this] { Run(); });
  }

  ~ThreadedStepLoop() override {
    {
      const std::lock_guard lock(mu_);
      stop_ = true;
      for (auto& [stream, gate] : gates_) gate->Close();
      wake_.notify_one();
    }
    thread_.join();
  }

  StreamId OpenStream(ReportSink sink) override {
    auto gate = std::make_shared<SinkGate>(std::move(sink));
    const std::lock_guard lock(mu_);
    const StreamId stream = ++last_stream_;
    gates_.emplace(stream, gate);
    PostLocked({Command::Kind::kOpen, stream, std::move(gate), {}});
    return stream;
  }

  void CloseStream(StreamId stream) override {
    TANDEM_CHECK(std::this_thread::get_id() != thread_.get_id());
    std::shared_ptr<SinkGate> gate;
    {
      const std::lock_guard lock(mu_);
      const auto found = gates_.find(stream);
      if (found == gates_.end()) return;
      gate = std::move(found->second);
      gates_.erase(found);
      PostLocked({Command::Kind::kClose, stream, nullptr, {}});
    }
    gate->Close();
  }

  void PostPlan(StreamId stream, Plan plan) override {
    const std::lock_guard lock(mu_);
    PostLocked({Command::Kind::kPlan, stream, nullptr, std::move(plan)});
  }

  EngineStats stats() const override {
    const std::lock_guard lock(stats_mu_);
    return stats_;
  }

  absl::Duration stalled_for() const override {
    const int64_t since = busy_since_ns_.load();
    return since == kIdle ? absl::ZeroDuration() : clock_.Now() - absl::Nanoseconds(since);
  }

 private:
  static constexpr int64_t kIdle = -1;

  // mu_ is held.
  void PostLocked(Command command) {
    mailbox_.push_back(std::move(command));
    wake_.notify_one();
  }

  // Receive, step, deliver. While sequences run there is always something to compute, so deadlines are met by
  // the step they fall in; without sequences there are none, and the thread sleeps until a command comes.
  void Run() {
    std::vector<Command> commands;
    while (Receive(commands)) {
      busy_since_ns_.store(absl::ToInt64Nanoseconds(clock_.Now()));
      for (Command& command : commands) Apply(std::move(command));
      commands.clear();
      if (engine_.HasWork()) {
        for (auto& [stream, report] : engine_.Step()) {
          if (const auto sink = sinks_.find(stream); sink != sinks_.end())
            sink->second->Deliver(std::move(report));
        }
        PublishStats();
        if (observer_) observer_(engine_.last_step(), engine_.stats());
      } else {
        PublishStats();
      }
    }
  }

  // Takes what arrived; waits for it if there is nothing else to do. False: stop.
  bool Receive(std::vector<Command>& commands) {
    std::unique_lock lock(mu_);
    if (!engine_.HasWork()) busy_since_ns_.store(kIdle);
    while (!stop_ && mailbox_.empty() && !engine_.HasWork()) wake_.wait(lock);
    commands.swap(mailbox_);
    return !stop_;
  }

  void Apply(Command&& command) {
    switch (command.kind) {
      case Command::Kind::kOpen:
        engine_.OpenStream(command.stream);
        sinks_.emplace(command.stream, std::move(command.gate));
        break;
      case Command::Kind::kClose:
        engine_.CloseStream(command.stream);
        sinks_.erase(command.stream);
        break;
      case Command::Kind::kPlan:
        engine_.ApplyPlan(command.stream, std::move(command.plan));
        break;
    }
  }

  void PublishStats() {
    const EngineStats stats = engine_.stats();
    const std::lock_guard lock(stats_mu_);
    stats_ = stats;
  }

  // The loop's thread only, after construction.
  Engine& engine_;
  const Clock& clock_;
  const StepObserver observer_;
  std::map<StreamId, std::shared_ptr<SinkGate>> sinks_;

  std::atomic<int64_t> busy_since_ns_{kIdle};

  mutable std::mutex stats_mu_;
  EngineStats stats_;  // guarded by stats_mu_

  std::mutex mu_;
  std::condition_variable wake_;
  bool stop_ = false;                                    // guarded by mu_
  StreamId last_stream_ = 0;                             // guarded by mu_
  std::vector<Command> mailbox_;                         // guarded by mu_
  std::map<StreamId, std::shared_ptr<SinkGate>> gates_;  // guarded by mu_

  std::thread thread_;  // last: it uses everything above
};

}  // namespace

std::unique_ptr<StepLoop> StepLoop::Start(Engine& engine, const Clock& clock, StepObserver observer) {
  return std::make_unique<ThreadedStepLoop>(engine, clock, std::move(observer));
}

}  // namespace tandem::verifier
