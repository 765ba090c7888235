// Between the batcher's thread and a connection: takes a generation's events and keeps them until the client
// can take more. Deltas of one choice merge, so what waits is bounded by what the request may generate, and
// by `max_bytes`: beyond, the request ends with an error.
//
// The sink's side never blocks longer than an append. Take may be called from any one thread. `wake` is
// called on the batcher's thread, without lock, at most once between two Takes; it must only post.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gateway/admission/generator.h"
#include "gateway/http/answer_format.h"

namespace tandem::gateway::http {

class EventBuffer : public EventSink {
 public:
  struct Options {
    bool wake_at_deltas = true;  // false: only at the end, for answers that are written whole
    bool keep_tokens = true;     // false: text only, for answers without logprobs
    bool keep_spans = false;     // of drafted text
    int64_t max_bytes = 16 << 20;
    absl::Status overflow;  // what the request ends with
    std::function<void()> wake;
  };
  explicit EventBuffer(Options options) : options_(std::move(options)) {}

  struct Events {
    std::optional<Started> started;
    std::vector<ChoiceOutput> outputs;  // at most one per choice, in the order of their first event
    bool all_finished = false;
    absl::Status error;  // after everything above
  };
  Events Take();

  void OnStarted(const Started& started) override;
  void OnDelta(Delta delta) override;
  void OnFinished(const Finished& finished) override;
  void OnAllFinished() override;
  void OnError(const absl::Status& status) override;

 private:
  ChoiceOutput& OutputOf(int32_t choice) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether to call wake after the lock is given back.
  bool WantsWake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  absl::Mutex mu_;
  Events events_ ABSL_GUARDED_BY(mu_);
  int64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool waking_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;  // nothing more is taken in
};

}  // namespace tandem::gateway::http
