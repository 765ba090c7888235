// Circuit breaker towards one drafter, so that one that hangs or lies costs a bounded time.
//
//   kClosed   --3 timeouts in a row, or 10 protocol errors a minute-->  kOpen
//   kOpen     --after a pause of 1 s, jittered-->                       kHalfOpen   one probe may go out
//   kHalfOpen --an answer in time--> kClosed;  --another failure--> kOpen, the pause doubles
//
// The pause is what a drafter that is well again is left idle, and a failed probe costs its sequence the
// whole draft timeout: the longest pause is 4 s, so that drafts are used again within 5 s, but not less than
// four such timeouts.
//
// Time is handed in. Not thread-safe: only the step loop calls it.
#pragma once

#include <cstdint>
#include <deque>

#include "absl/time/time.h"

namespace tandem::verifier {

class DraftBreaker {
 public:
  enum class State { kClosed, kOpen, kHalfOpen };
  static constexpr int kTimeoutsToOpen = 3;
  static constexpr int kProtocolErrorsToOpen = 10;
  static constexpr absl::Duration kProtocolErrorWindow = absl::Minutes(1);
  static constexpr absl::Duration kFirstPause = absl::Seconds(1);
  static constexpr absl::Duration kLongestPause = absl::Seconds(4);  // where timeouts are below 1 s
  static constexpr int kLongestPauseTimeouts = 4;

  // The seed spreads the probes of several verifiers in time.
  explicit DraftBreaker(uint64_t seed) : jitter_(seed | 1) {}

  State state(absl::Duration now) const;
  // Whether a request may go out now; in half-open state once per pause, the probe.
  bool Admit(absl::Duration now);

  void OnAnswer();
  // What was asked is not wanted any more; a probe may go out again.
  void OnWithdrawn() { probing_ = false; }
  // No answer came, `waited` after the request.
  void OnTimeout(absl::Duration now, absl::Duration waited);
  void OnProtocolError(absl::Duration now);
  // The stream is new: whatever was wrong may be gone.
  void OnReconnect();

 private:
  void Open(absl::Duration now);
  double NextJitter();  // in [0.9, 1.1)

  uint64_t jitter_;
  bool open_ = false;
  bool probing_ = false;
  int timeouts_ = 0;  // in a row
  std::deque<absl::Duration> protocol_errors_;
  absl::Duration pause_ = kFirstPause, longest_pause_ = kLongestPause;
  absl::Duration open_until_ = absl::ZeroDuration();
};

}  // namespace tandem::verifier
