// Keeps one Speculate stream open to each configured drafter, and hands what comes to the step loop.
//
// A stream that ends is opened again after a pause: 0.1 s doubling to 3 s, jittered, so that a drafter is
// used within 5 s of its return however long it was away; 30 s if the two did not fit each other. The
// verifier serves without drafters as well; nothing here holds it up.
//
// Thread-safe. Borrows everything until destroyed; the step loop must outlive it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "common/telemetry/logs.h"
#include "common/telemetry/metrics.h"
#include "verifier/engine/drafter_link.h"
#include "verifier/engine/step_loop.h"

namespace tandem::verifier {

struct DrafterEndpoint {
  std::unique_ptr<DrafterLink> link;
  bool on_this_machine = true;
};

class DrafterConnections {
 public:
  static constexpr absl::Duration kFirstPause = absl::Milliseconds(100);
  static constexpr absl::Duration kLongestPause = absl::Seconds(3);
  static constexpr absl::Duration kMisfitPause = absl::Seconds(30);

  // Starts connecting. The order of endpoints is the engine's numbering of drafters.
  DrafterConnections(std::vector<DrafterEndpoint> endpoints, const speculation::VerifierHello& hello,
                     StepLoop& loop, telemetry::Metrics& metrics, telemetry::Logger& log);
  // Closes all streams; afterwards neither loop nor links are used.
  ~DrafterConnections();

 private:
  class Peer;

  void Run();

  const speculation::VerifierHello hello_;
  StepLoop& loop_;
  telemetry::Logger& log_;
  telemetry::Labelled<prometheus::Counter> protocol_errors_;
  telemetry::Labelled<prometheus::Counter> streams_ended_;
  telemetry::Labelled<prometheus::Gauge> open_streams_;     // by transport of rows
  telemetry::Labelled<prometheus::Gauge> message_streams_;  // by transport of messages
  prometheus::Counter& fingerprint_warnings_;

  std::mutex mu_;
  std::condition_variable changed_;
  bool stop_ = false;                         // guarded by mu_
  uint64_t num_events_ = 0;                   // guarded by mu_; streams that closed, and the stop
  std::vector<std::unique_ptr<Peer>> peers_;  // their states are guarded by mu_
  std::thread thread_;
};

}  // namespace tandem::verifier
