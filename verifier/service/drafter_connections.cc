#include "verifier/service/drafter_connections.h"

#include <algorithm>
#include <random>
#include <set>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/speculation/wire/speculate_messages.h"

namespace tandem::verifier {
namespace {

// Ends of a stream as a label of drafter_streams_ended_total.
const std::vector<std::string>& EndReasons() {
  static const auto& reasons = *new std::vector<std::string>{"misfit", "protocol", "away"};
  return reasons;
}

std::string EndReason(const absl::Status& why) {
  if (absl::IsFailedPrecondition(why)) return "misfit";
  if (absl::IsInvalidArgument(why)) return "protocol";
  return "away";
}

}  // namespace

// One drafter. kWaiting -> (Connect) kConnected -> (OnClosed) kClosed -> (the engine has let go) kWaiting.
class DrafterConnections::Peer final : public DrafterLink::Listener {
 public:
  enum class State { kWaiting, kConnected, kClosed };

  Peer(DrafterConnections& owner, int index, DrafterEndpoint endpoint)
      : owner_(owner), index_(index), endpoint_(std::move(endpoint)) {}

  DrafterLink& link() { return *endpoint_.link; }

  void OnOpen(speculation::DrafterHello hello, std::shared_ptr<const speculation::Projection> projection,
              speculation::RowTransport transport, std::shared_ptr<MessageSource> source) override {
    const std::string messages = speculation::MessageTransportName(source != nullptr);
    const std::string transport_name = speculation::RowTransportName(transport);
    owner_.log_.Info("drafter connected", {{"peer", link().name()},
                                           {"algorithm", hello.algorithm},
                                           {"drafter", hello.name},
                                           {"block_size", hello.block_size},
                                           {"transport", transport_name},
                                           {"messages", messages}});
    if (!hello.target_fingerprint.empty() && hello.target_fingerprint != owner_.hello_.target_fingerprint) {
      owner_.fingerprint_warnings_.Increment();
      owner_.log_.Warning("drafter was trained for another target: fewer drafts will be accepted",
                          {{"peer", link().name()}, {"trained_for", hello.target_fingerprint}});
    }
    DrafterStream stream;
    stream.link = endpoint_.link.get();
    stream.hello = std::move(hello);
    stream.projection = std::move(projection);
    stream.transport = transport;
    stream.source = std::move(source);
    stream.shares_cores = endpoint_.on_this_machine;
    {
      const std::lock_guard lock(owner_.mu_);
      in_engine_ = true;
      pause_ = kFirstPause;
      transport_ = transport_name;
      messages_ = messages;
    }
    owner_.open_streams_[transport_name].Increment();
    owner_.message_streams_[messages].Increment();
    owner_.loop_.OpenDrafter(index_, std::move(stream), [this](const absl::Status& why) {
      owner_.log_.Warning("drafter does not fit", {{"peer", link().name()}, {"reason", why.message()}});
      {
        const std::lock_guard lock(owner_.mu_);
        pause_ = kMisfitPause;
      }
      link().Close();
    });
  }

  void OnDrafts(speculation::DraftBatch batch) override { owner_.loop_.PostDrafts(index_, std::move(batch)); }

  void OnFallback(const std::string& instead, absl::Status why) override {
    const std::lock_guard lock(owner_.mu_);
    if (!fallbacks_.insert(instead).second) return;  // one line, not one for each attempt
    owner_.log_.Warning(instead, {{"peer", link().name()}, {"reason", why.message()}});
  }

  void OnProtocolError(std::string check) override {
    owner_.protocol_errors_[check].Increment();
    owner_.loop_.PostDrafterProtocolError(index_);
  }

  void OnClosed(absl::Status why) override {
    owner_.streams_ended_[EndReason(why)].Increment();
    const std::lock_guard lock(owner_.mu_);
    // A drafter that stays away is worth one line, not one for each attempt.
    if (in_engine_ || why.code() != last_end_) {
      owner_.log_.Warning("drafter stream ended", {{"peer", link().name()}, {"reason", why.message()}});
    }
    last_end_ = why.code();
    if (absl::IsFailedPrecondition(why)) pause_ = kMisfitPause;
    state_ = State::kClosed;
    ++owner_.num_events_;
    owner_.changed_.notify_one();
  }

  // The rest is of the owner's thread; the fields are guarded by its lock.
  State state_ = State::kWaiting;
  bool in_engine_ = false;
  absl::Time connect_at_ = absl::InfinitePast();
  absl::Duration pause_ = kFirstPause;
  std::string transport_, messages_;
  std::set<std::string> fallbacks_;  // that have been logged
  absl::StatusCode last_end_ = absl::StatusCode::kOk;

 private:
  DrafterConnections& owner_;
  const int index_;
  const DrafterEndpoint endpoint_;
};

DrafterConnections::DrafterConnections(std::vector<DrafterEndpoint> endpoints,
                                       const speculation::VerifierHello& hello, StepLoop& loop,
                                       telemetry::Metrics& metrics, telemetry::Logger& log)
    : hello_(hello),
      loop_(loop),
      log_(log),
      protocol_errors_(metrics.AddCounters("protocol_errors_total",
                                           "Messages of a peer that broke the protocol", "check",
                                           speculation::BatchEntryChecks(), {{"peer", "drafter"}})),
      streams_ended_(metrics.AddCounters("drafter_streams_ended_total",
                                         "Streams to drafters that ended, by reason", "reason",
                                         EndReasons())),
      open_streams_(metrics.AddGauges("drafter_streams",
                                      "Open streams to drafters, by how hidden rows travel", "transport",
                                      {"inline", "shm"})),
      message_streams_(metrics.AddGauges("drafter_message_streams",
                                         "Open streams to drafters, by how feeds and drafts travel",
                                         "transport", {"grpc", "unix"})),
      fingerprint_warnings_(metrics.AddCounter("drafter_fingerprint_warnings_total",
                                               "Streams to drafters that were trained for another target")) {
  for (DrafterEndpoint& endpoint : endpoints) {
    peers_.push_back(std::make_unique<Peer>(*this, static_cast<int>(peers_.size()), std::move(endpoint)));
  }
  thread_ = std::thread([this] { Run(); });
}

DrafterConnections::~DrafterConnections() {
  {
    const std::lock_guard lock(mu_);
    stop_ = true;
    ++num_events_;
    changed_.notify_one();
  }
  thread_.join();
}

void DrafterConnections::Run() {
  std::minstd_rand random(std::random_device{}());
  std::unique_lock lock(mu_);
  while (true) {
    const uint64_t seen = num_events_;
    bool all_waiting = true;
    absl::Time next = absl::InfiniteFuture();
    for (size_t i = 0; i < peers_.size(); ++i) {
      Peer& peer = *peers_[i];
      if (peer.state_ == Peer::State::kClosed) {
        if (std::exchange(peer.in_engine_, false)) {
          open_streams_[peer.transport_].Decrement();
          message_streams_[peer.messages_].Decrement();
          lock.unlock();
          loop_.CloseDrafter(
              static_cast<int>(i));  // the link may be used again only when the engine has let go
          lock.lock();
        }
        const double jitter = std::uniform_real_distribution(0.8, 1.2)(random);
        peer.connect_at_ = absl::Now() + peer.pause_ * jitter;
        peer.pause_ = std::min(2 * std::min(peer.pause_, kLongestPause), kLongestPause);
        peer.state_ = Peer::State::kWaiting;
      }
      if (peer.state_ == Peer::State::kWaiting && !stop_ && absl::Now() >= peer.connect_at_) {
        peer.state_ = Peer::State::kConnected;
        lock.unlock();
        peer.link().Connect(hello_, peer);
        lock.lock();
      }
      if (peer.state_ == Peer::State::kConnected && stop_) {
        lock.unlock();
        peer.link().Close();
        lock.lock();
      }
      if (peer.state_ == Peer::State::kWaiting) next = std::min(next, peer.connect_at_);
      all_waiting = all_waiting && peer.state_ == Peer::State::kWaiting;
    }
    if (stop_ && all_waiting) return;
    const auto happened = [&] { return num_events_ != seen; };
    if (stop_ || next == absl::InfiniteFuture()) {
      changed_.wait(lock, happened);
    } else {
      changed_.wait_until(lock, absl::ToChronoTime(next), happened);
    }
  }
}

}  // namespace tandem::verifier
