// The gateway's record of a request and of its sequences (one per choice): the only source of truth for their
// tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gateway/admission/generator.h"
#include "gateway/admission/text_stream.h"
#include "gateway/admission/validate_request.h"
#include "gateway/admission/verifier_link.h"

namespace tandem::gateway {

// The way to a client's EventSink, which may go away at any time: Close returns when no call is in progress,
// and none begins after it. Thread-safe.
class SinkGate {
 public:
  explicit SinkGate(EventSink& sink) : sink_(&sink) {}

  // Calls f(sink) unless closed.
  template <typename F>
  void Call(const F& f) {
    const std::lock_guard lock(mu_);
    if (sink_ != nullptr) f(*sink_);
  }
  void Close() {
    const std::lock_guard lock(mu_);
    sink_ = nullptr;
  }

 private:
  std::mutex mu_;
  EventSink* sink_;  // guarded by mu_
};

struct Request;

// kQueued -> kRunning -> kEnded; kRunning -> kQueued when preempted, lost or moved; kQueued -> kEnded when
// cancelled or failed. `ids` only ever grows.
struct Sequence {
  enum class State { kQueued, kRunning, kEnded };

  uint64_t id = 0;  // never used again in this process
  Request* request = nullptr;
  int32_t choice = 0;
  int32_t prompt_index = 0;
  uint64_t seed = 0;

  std::vector<int32_t> ids;  // prompt, then output
  int32_t prompt_length = 0;
  int32_t max_tokens = 1;
  std::unique_ptr<TextStream> text;
  std::string echo;  // goes out with the first delta

  State state = State::kQueued;
  bool finished = false;         // ended well: OnFinished was sent
  uint32_t epoch = 0;            // of the latest admission; 0: never admitted
  int replica = -1;              // while running
  uint32_t computed_length = 0;  // by the latest report
  int32_t length_at_admission = 0;

  // Queue: resumed and request->params.priority decide its place.
  bool resumed = false;           // goes before those that never ran
  int fruitless_preemptions = 0;  // in a row
  absl::Duration not_before = absl::ZeroDuration();
  std::optional<absl::Duration> stranded_since;  // no verifier could take it, whatever its load
  bool failed_over = false;                      // to be told as resumed or lost

  // The verifier broke the protocol about it.
  int violations = 0;

  // Counts of earlier epochs, and of this one.
  int64_t drafted_before = 0, checked_before = 0, accepted_before = 0;
  int64_t drafted = 0, checked = 0, accepted = 0;
  std::vector<int64_t> rounds_before, rounds;
  std::optional<int32_t> cached_prompt_tokens;
  absl::Duration first_token = absl::ZeroDuration(), last_token = absl::ZeroDuration();

  int32_t length() const { return static_cast<int32_t>(ids.size()); }
  int32_t num_output() const { return length() - prompt_length; }
};

// All choices of one client's request. Ends with OnAllFinished or OnError, exactly one of them.
struct Request {
  uint64_t key = 0;
  std::shared_ptr<SinkGate> sink;
  std::string request_id, api;
  CheckedRequest params;
  std::vector<int32_t> prompt_tokens;   // per prompt
  std::vector<int32_t> stop_token_ids;  // with EOS; fixed at the first admission
  bool stop_ids_fixed = false;

  absl::Duration received, deadline;  // monotonic
  absl::Time wall_deadline;
  bool had_verifier = false;  // one was there when it came
  std::optional<absl::Duration> admitted;
  std::optional<absl::Duration> first_token;
  absl::Duration last_token = absl::ZeroDuration();

  std::vector<std::unique_ptr<Sequence>> sequences;
  bool started = false;
  int num_finished = 0;
  const char* finish_reason = "";
};

}  // namespace tandem::gateway
