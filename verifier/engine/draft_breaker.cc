#include "verifier/engine/draft_breaker.h"

#include <algorithm>

namespace tandem::verifier {

DraftBreaker::State DraftBreaker::state(absl::Duration now) const {
  if (!open_) return State::kClosed;
  return now < open_until_ ? State::kOpen : State::kHalfOpen;
}

bool DraftBreaker::Admit(absl::Duration now) {
  switch (state(now)) {
    case State::kClosed:
      return true;
    case State::kOpen:
      return false;
    case State::kHalfOpen:
      break;
  }
  if (probing_) return false;
  probing_ = true;
  return true;
}

void DraftBreaker::OnAnswer() {
  open_ = probing_ = false;
  timeouts_ = 0;
  pause_ = kFirstPause;
}

void DraftBreaker::OnTimeout(absl::Duration now, absl::Duration waited) {
  longest_pause_ = std::max(kLongestPause, kLongestPauseTimeouts * waited);
  if (++timeouts_ >= kTimeoutsToOpen || open_) Open(now);
}

void DraftBreaker::OnProtocolError(absl::Duration now) {
  protocol_errors_.push_back(now);
  while (now - protocol_errors_.front() > kProtocolErrorWindow) protocol_errors_.pop_front();
  if (static_cast<int>(protocol_errors_.size()) < kProtocolErrorsToOpen) return;
  protocol_errors_.clear();
  Open(now);
}

void DraftBreaker::OnReconnect() {
  timeouts_ = 0;
  protocol_errors_.clear();
  probing_ = false;
}

void DraftBreaker::Open(absl::Duration now) {
  if (open_) pause_ = std::min(2 * pause_, longest_pause_);
  open_ = true;
  probing_ = false;
  timeouts_ = 0;
  open_until_ = now + pause_ * NextJitter();
}

double DraftBreaker::NextJitter() {
  jitter_ ^= jitter_ << 13;
  jitter_ ^= jitter_ >> 7;
  jitter_ ^= jitter_ << 17;
  return 0.9 + 0.2 * static_cast<double>(jitter_ >> 11) * 0x1p-53;
}

}  // namespace tandem::verifier
