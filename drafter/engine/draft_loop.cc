#include "drafter/engine/draft_loop.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/base/wait_set.h"

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
  StreamSetup setup;                   // kOpen
  std::shared_ptr<SinkGate> gate;      // kOpen; shared, since either side may let go last
  std::shared_ptr<FeedSource> source;  // kOpen; may be null
  speculation::Feed feed;              // kFeed
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
      waiting_.Ring();
    }
    for (auto& [stream, gate] : gates) gate->Close();
    thread_.join();
  }

  StreamId OpenStream(StreamSetup setup, DraftSink sink, std::shared_ptr<FeedSource> source) override {
    auto gate = std::make_shared<SinkGate>(std::move(sink));
    const std::lock_guard lock(mu_);
    const StreamId stream = ++last_stream_;
    gates_.emplace(stream, gate);
    PostLocked({Command::Kind::kOpen, stream, std::move(setup), std::move(gate), std::move(source), {}});
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
      PostLocked({Command::Kind::kClose, stream, {}, nullptr, nullptr, {}});
    }
    gate->Close();
  }

  void PostFeed(StreamId stream, speculation::Feed feed) override {
    const std::lock_guard lock(mu_);
    PostLocked({Command::Kind::kFeed, stream, {}, nullptr, nullptr, std::move(feed)});
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
    if (std::this_thread::get_id() != thread_.get_id()) waiting_.Ring();  // else it is awake
  }

  // Receive, step, deliver.
  void Run() {
    pthread_setname_np(pthread_self(), "tandem-drafts");  // so that its CPU time can be told from others'
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
    bool looked = sources_.empty();  // sources are looked at once a step, also while there is work
    while (!stop_) {
      const bool idle = mailbox_.empty() && commands.empty() && !engine_.HasWork();
      if (looked && !idle) break;
      lock.unlock();
      Wait(idle ? absl::InfiniteDuration() : absl::ZeroDuration(), commands);
      lock.lock();
      looked = true;
    }
    std::ranges::move(mailbox_, std::back_inserter(commands));
    mailbox_.clear();
    return !stop_;
  }

  // Until somebody rings, a source has something, or the time is up.
  void Wait(absl::Duration timeout, std::vector<Command>& commands) {
    polls_.clear();
    for (const auto& [stream, source] : sources_) {
      const int events = source->sending() ? POLLIN | POLLOUT : POLLIN;
      polls_.push_back({source->fd(), static_cast<short>(events), 0});
    }
    waiting_.Wait(timeout, polls_);
    auto next = sources_.begin();
    for (const pollfd& poll : polls_) {
      const auto at = next++;
      if (poll.revents == 0) continue;
      std::vector<speculation::Feed> feeds;
      const bool goes_on = at->second->OnReady(feeds);
      for (speculation::Feed& feed : feeds)
        commands.push_back({Command::Kind::kFeed, at->first, {}, nullptr, nullptr, std::move(feed)});
      if (goes_on) continue;
      commands.push_back({Command::Kind::kClose, at->first, {}, nullptr, nullptr, {}});
      sources_.erase(at);
    }
  }

  void Apply(Command&& command) {
    switch (command.kind) {
      case Command::Kind::kOpen:
        engine_.OpenStream(command.stream, std::move(command.setup));
        sinks_.emplace(command.stream, std::move(command.gate));
        if (command.source != nullptr) sources_.emplace(command.stream, std::move(command.source));
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
    sources_.erase(stream);
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
  std::map<StreamId, std::shared_ptr<FeedSource>> sources_;
  std::vector<pollfd> polls_;  // work area of Wait

  std::atomic<int64_t> busy_since_ns_{kIdle};

  mutable std::mutex stats_mu_;
  DraftEngineStats stats_;  // guarded by stats_mu_

  WaitSet waiting_;
  std::mutex mu_;
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
