#include "drafter/engine/draft_loop.h"

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/status.h"

namespace tandem::drafter {
namespace {

// Locks are std::mutex: the thread sanitizer does not see into the distribution's build of absl::Mutex.

// A stream's sink, shared by the loop and whoever closes the stream: after closing it is never called again.
class SinkGate {
 public:
  explicit SinkGate(DraftSink sink) : sink_(std::move(sink)) {}

  void Deliver(speculation::DraftBatch&& batch) {
    const std::lock_guard lock(mu_);
    if (open_) sink_.on_batch(std::move(batch));
  }
  void Fail(absl::Status error) {
    const std::lock_guard lock(mu_);
    if (open_) sink_.on_error(std::move(error));
    open_ = false;
  }
  // Waits for a call under way.
  void Close() {
    const std::lock_guard lock(mu_);
    open_ = false;
  }

 private:
  std::mutex mu_;
  bool open_ = true;  // guarded by mu_
  const DraftSink sink_;
};

struct Command {
  enum class Kind { kOpen, kClose, kFeed } kind;
  StreamId stream = 0;
  StreamSetup setup;               // kOpen
  std::shared_ptr<SinkGate> gate;  // kOpen; shared, since either side may let go last
  speculation::Feed feed;          // kFeed
};

class ThreadedDraftLoop final : public DraftLoop {
 public:
  ThreadedDraftLoop(DraftEngine& engine, const Clock& clock, StepObserver observer)
      : engine_(engine), clock_(clock), observer_(std::move(observer)), stats_(engine.stats()) {
    thread_ = std::thread([this] { Run(); });
  }

  ~ThreadedDraftLoop() override {
    std::map<StreamId, std::shared_ptr<SinkGate>> gates;
    {
      const std::lock_guard lock(mu_);
      stop_ = true;
      gates.swap(gates_);
      wake_.notify_one();
    }
    for (auto& [stream, gate] : gates) gate->Close();
    thread_.join();
  }

  StreamId OpenStream(StreamSetup setup, DraftSink sink) override {
    auto gate = std::make_shared<SinkGate>(std::move(sink));
    const std::lock_guard lock(mu_);
    const StreamId stream = ++last_stream_;
    gates_.emplace(stream, gate);
    PostLocked({Command::Kind::kOpen, stream, std::move(setup), std::move(gate), {}});
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
      PostLocked({Command::Kind::kClose, stream, {}, nullptr, {}});
    }
    gate->Close();
  }

  void PostFeed(StreamId stream, speculation::Feed feed) override {
    const std::lock_guard lock(mu_);
    PostLocked({Command::Kind::kFeed, stream, {}, nullptr, std::move(feed)});
  }

  DraftEngineStats stats() const override {
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

  // Receive, step, deliver.
  void Run() {
    std::vector<Command> commands;
    while (Receive(commands)) {
      const absl::Duration start = clock_.Now();
      busy_since_ns_.store(absl::ToInt64Nanoseconds(start));
      for (Command& command : commands) Apply(std::move(command));
      commands.clear();
      if (engine_.HasWork()) Step(start);
      PublishStats();
    }
  }

  void Step(absl::Duration start) {
    DraftStep step;
    auto batches = engine_.Step();
    step.time = clock_.Now() - start;
    for (auto& [stream, batch] : batches) {
      step.drafts += static_cast<int64_t>(batch.drafts.size());
      batch.compute_seconds = batch.drafts.empty() ? 0 : absl::ToDoubleSeconds(step.time);
    }
    PublishStats();  // who hears of a batch may ask
    for (auto& [stream, batch] : batches) {
      if (const auto sink = sinks_.find(stream); sink != sinks_.end())
        sink->second->Deliver(std::move(batch));
    }
    if (observer_) observer_(step, engine_.stats());
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
        engine_.OpenStream(command.stream, std::move(command.setup));
        sinks_.emplace(command.stream, std::move(command.gate));
        break;
      case Command::Kind::kClose:
        EndStream(command.stream);
        break;
      case Command::Kind::kFeed: {
        const auto sink = sinks_.find(command.stream);
        if (sink == sinks_.end()) break;  // closed, or failed before
        absl::Status applied = engine_.ApplyFeed(command.stream, std::move(command.feed));
        if (applied.ok()) break;
        const std::shared_ptr<SinkGate> gate = sink->second;
        EndStream(command.stream);
        gate->Fail(std::move(applied));
        break;
      }
    }
  }

  void EndStream(StreamId stream) {
    if (sinks_.erase(stream) > 0) engine_.CloseStream(stream);
  }

  void PublishStats() {
    const DraftEngineStats stats = engine_.stats();
    const std::lock_guard lock(stats_mu_);
    stats_ = stats;
  }

  // The loop's thread only, after construction.
  DraftEngine& engine_;
  const Clock& clock_;
  const StepObserver observer_;
  std::map<StreamId, std::shared_ptr<SinkGate>> sinks_;

  std::atomic<int64_t> busy_since_ns_{kIdle};

  mutable std::mutex stats_mu_;
  DraftEngineStats stats_;  // guarded by stats_mu_

  std::mutex mu_;
  std::condition_variable wake_;
  bool stop_ = false;                                    // guarded by mu_
  StreamId last_stream_ = 0;                             // guarded by mu_
  std::vector<Command> mailbox_;                         // guarded by mu_
  std::map<StreamId, std::shared_ptr<SinkGate>> gates_;  // guarded by mu_

  std::thread thread_;  // last: it uses everything above
};

}  // namespace

std::unique_ptr<DraftLoop> DraftLoop::Start(DraftEngine& engine, const Clock& clock, StepObserver observer) {
  return std::make_unique<ThreadedDraftLoop>(engine, clock, std::move(observer));
}

}  // namespace tandem::drafter
