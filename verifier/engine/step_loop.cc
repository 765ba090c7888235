#include "verifier/engine/step_loop.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "common/base/status.h"
#include "common/base/wait_set.h"

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
  bool CallIfOpen(MessageSource& source) {
    const std::lock_guard lock(mu_);
    return open_ && source.OnReady();
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

// A stream's source, called as its sink is.
class GatedSource final : public MessageSource {
 public:
  GatedSource(std::shared_ptr<SinkGate> gate, std::shared_ptr<MessageSource> source)
      : gate_(std::move(gate)), source_(std::move(source)) {}

  int fd() const override { return source_->fd(); }
  bool sending() const override { return source_->sending(); }
  bool OnReady() override { return gate_->CallIfOpen(*source_); }

 private:
  const std::shared_ptr<SinkGate> gate_;
  const std::shared_ptr<MessageSource> source_;
};

// What others want done on the loop's thread, in order.
using Command = absl::AnyInvocable<void()>;

class ThreadedStepLoop final : public StepLoop {
 public:
  ThreadedStepLoop(Engine& engine, const Clock& clock, StepObserver observer)
      : engine_(engine), clock_(clock), observer_(std::move(observer)), stats_(engine.stats()) {
    thread_ = std::thread([this] { Run(); });
  }

  ~ThreadedStepLoop() override {
    std::map<StreamId, std::shared_ptr<SinkGate>> gates;
    {
      const std::lock_guard lock(mu_);
      stop_ = true;
      gates.swap(gates_);
      waiting_.Ring();
      applied_.notify_all();
    }
    for (auto& [stream, gate] : gates) gate->Close();  // a source under way may want the lock
    thread_.join();
  }

  StreamId OpenStream(ReportSink sink) override {
    auto gate = std::make_shared<SinkGate>(std::move(sink));
    const std::lock_guard lock(mu_);
    const StreamId stream = ++last_stream_;
    gates_.emplace(stream, gate);
    PostLocked([this, stream, gate = std::move(gate)]() mutable {
      engine_.OpenStream(stream);
      sinks_.emplace(stream, std::move(gate));
    });
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
      PostLocked([this, stream] {
        engine_.CloseStream(stream);
        sinks_.erase(stream);
        sources_.Remove(stream);
      });
    }
    gate->Close();
  }

  void PostPlan(StreamId stream, Plan plan) override {
    const std::lock_guard lock(mu_);
    PostLocked(
        [this, stream, plan = std::move(plan)]() mutable { engine_.ApplyPlan(stream, std::move(plan)); });
  }

  void AddSource(StreamId stream, std::shared_ptr<MessageSource> source) override {
    const std::lock_guard lock(mu_);
    const auto found = gates_.find(stream);
    if (found == gates_.end()) return;  // closed meanwhile
    PostLocked([this, stream, source = std::make_shared<GatedSource>(found->second, std::move(source))] {
      if (source->OnReady()) sources_.Insert(stream, source);
    });
  }

  void OpenDrafter(int drafter, DrafterStream stream, std::function<void(absl::Status)> refused) override {
    const std::lock_guard lock(mu_);
    PostLocked([this, drafter, stream = std::move(stream), refused = std::move(refused)]() mutable {
      std::shared_ptr<MessageSource> source = stream.source;
      absl::Status status = engine_.OpenDrafter(drafter, std::move(stream));
      if (!status.ok()) return refused(std::move(status));
      if (source != nullptr) sources_.Insert(drafter, std::move(source));
    });
  }

  void CloseDrafter(int drafter) override {
    TANDEM_CHECK(std::this_thread::get_id() != thread_.get_id());
    std::unique_lock lock(mu_);
    PostLocked([this, drafter] {
      sources_.Remove(drafter);
      engine_.CloseDrafter(drafter);
    });
    const uint64_t mine = num_posted_;
    applied_.wait(lock, [&] { return stop_ || num_applied_ >= mine; });
  }

  void PostDrafts(int drafter, speculation::DraftBatch batch) override {
    const absl::Duration arrived = clock_.Now();
    const std::lock_guard lock(mu_);
    PostLocked([this, drafter, arrived, batch = std::move(batch)]() mutable {
      engine_.TakeDrafts(drafter, std::move(batch), arrived);
    });
  }

  void PostDrafterProtocolError(int drafter) override {
    const std::lock_guard lock(mu_);
    PostLocked([this, drafter] { engine_.OnDrafterProtocolError(drafter); });
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
    ++num_posted_;
    if (std::this_thread::get_id() != thread_.get_id()) waiting_.Ring();  // else it is awake
  }

  // Receive, step, deliver. While sequences run there is something to compute, or drafts are on their way for
  // a bounded time, so deadlines are met by the step they fall in; without sequences there are none, and the
  // thread sleeps until a command comes.
  void Run() {
    pthread_setname_np(pthread_self(), "tandem-steps");  // so that its CPU time can be told from others'
    std::vector<Command> commands;
    while (Receive(commands)) {
      busy_since_ns_.store(absl::ToInt64Nanoseconds(clock_.Now()));
      for (Command& command : commands) command();
      if (!commands.empty()) {
        const std::lock_guard lock(mu_);
        num_applied_ += commands.size();
        applied_.notify_all();
      }
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
    bool looked = sources_.empty();  // sources are looked at once a step, also while there is work
    while (!stop_) {
      const bool idle = mailbox_.empty() && !engine_.HasWork();
      if (looked && !idle) break;
      lock.unlock();
      // What sources bring is in the mailbox afterwards.
      sources_.Wait(waiting_, idle ? engine_.NextChange() - clock_.Now() : absl::ZeroDuration());
      lock.lock();
      looked = true;
    }
    commands.swap(mailbox_);
    return !stop_;
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
  MessageSources<std::variant<int, StreamId>> sources_;  // of drafters and of streams

  std::atomic<int64_t> busy_since_ns_{kIdle};

  mutable std::mutex stats_mu_;
  EngineStats stats_;  // guarded by stats_mu_

  WaitSet waiting_;
  std::mutex mu_;
  std::condition_variable applied_;
  uint64_t num_posted_ = 0, num_applied_ = 0;            // guarded by mu_; commands
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
