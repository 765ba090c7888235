// A deadline that moves often and is rarely reached: moving it further away costs a store, not a change of
// the timer queue. Not thread-safe: lives on one strand. Once destroyed or cancelled it fires no more.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "gateway/http/beast.h"

namespace tandem::gateway::http {

class LazyTimer {
 public:
  LazyTimer(const boost::asio::any_io_executor& strand, std::function<void()> on_expiry)
      : state_(std::make_shared<State>(strand, std::move(on_expiry))) {}
  ~LazyTimer() {
    state_->on_expiry = nullptr;
    state_->timer.cancel();
  }
  LazyTimer(const LazyTimer&) = delete;

  void Set(absl::Duration from_now) {
    state_->active = true;
    state_->deadline = Clock::now() + absl::ToChronoNanoseconds(from_now);
    if (!state_->waiting || state_->deadline < state_->timer.expiry()) Wait(state_);
  }
  void Cancel() { state_->active = false; }

 private:
  using Clock = std::chrono::steady_clock;
  struct State {
    State(const boost::asio::any_io_executor& strand, std::function<void()> on_expiry)
        : timer(strand), on_expiry(std::move(on_expiry)) {}
    boost::asio::steady_timer timer;
    std::function<void()> on_expiry;
    Clock::time_point deadline;
    bool active = false;   // whether the deadline counts
    bool waiting = false;  // whether a wait is in flight
  };

  static void Wait(const std::shared_ptr<State>& state) {
    state->waiting = true;
    state->timer.expires_at(state->deadline);
    state->timer.async_wait([state](const boost::system::error_code& error) {
      if (error) return;  // moved nearer by another Wait, or gone
      state->waiting = false;
      if (!state->active || !state->on_expiry) return;
      if (Clock::now() < state->deadline) return Wait(state);
      state->active = false;
      const std::function<void()> on_expiry = state->on_expiry;  // which may destroy the timer
      on_expiry();
    });
  }

  std::shared_ptr<State> state_;
};

}  // namespace tandem::gateway::http
