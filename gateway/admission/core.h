// The Generator: checks and tokenises on the caller's thread, batches on its own, over one or more verifiers.
//
//   ASSIGN_OR_RETURN(ModelText text, LoadModelText(path));
//   ASSIGN_OR_RETURN(auto core, Core::Create(options, std::move(text), std::move(links), Clock::Real(),
//   observer));
//   ... doors call Start ...
//   core->BeginDrain();  core->WaitIdle(limits::kDrain);  core.reset();   // stop: refuse, let finish, end
//   the rest
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/base/resident_bytes.h"
#include "gateway/admission/batcher.h"
#include "gateway/admission/event_loop.h"
#include "gateway/admission/generator.h"
#include "gateway/admission/model_text.h"
#include "gateway/admission/validate_request.h"

namespace tandem::gateway {

struct CoreOptions {
  std::string model_id;                     // the served name
  std::vector<std::string> aliases;         // besides "default"
  std::vector<std::string> template_flags;  // chat_template_kwargs that clients may set
  absl::Duration request_deadline = limits::kRequestDeadline;
  // Refuse a request that would probably wait longer for its admission, by the pace of the queue
  // (queue_pace.h); zero: only a full queue refuses. Raise it where requests run for minutes and clients are
  // patient.
  absl::Duration max_predicted_wait = limits::kPredictedWait;
  // Refuse requests while the process holds limits::kMemoryShare of these; 0: never.
  int64_t memory_limit_bytes = 0;
  std::function<int64_t()> resident_bytes = ResidentBytes;
  // See BatcherOptions.
  int32_t prefill_token_budget = 0;
  absl::Duration lost_verifier_wait = limits::kLostVerifierWait;
  absl::Duration no_verifier_wait = limits::kNoVerifierWait;
  absl::Duration report_timeout = absl::Seconds(60);
  // Told on the batcher's thread when the first verifier becomes ready and when the last one stops being so.
  std::function<void(bool any)> on_verifiers_ready = [](bool) {};
};

// Thread-safe, but for destruction. Destroying it ends what still runs with `draining`; Generations may
// outlive it.
class Core : public Generator {
 public:
  // Connects at once and goes on trying. Borrows clock and observer. kInvalidArgument names an option.
  static absl::StatusOr<std::unique_ptr<Core>> Create(CoreOptions options, ModelText text,
                                                      std::vector<std::unique_ptr<VerifierLink>> links,
                                                      const Clock& clock, Observer& observer);
  ~Core() override;

  absl::StatusOr<std::unique_ptr<Generation>> Start(GenerationRequest request, EventSink& sink) override;
  absl::StatusOr<std::vector<int32_t>> Tokenize(const TokenizeRequest& request) override;
  absl::StatusOr<std::string> Detokenize(const std::string& model, const char* param,
                                         const std::vector<int64_t>& ids) override;
  ModelInfo model_info() const override;
  bool ready() const override;

  // From now on Start is refused with `draining`, and ready() is false; running requests go on.
  void BeginDrain();
  // Whether all requests have ended within the time (of the system's clock).
  bool WaitIdle(absl::Duration timeout);

  // Lets timers look at the clock, and returns when everything due has been done: for tests that have
  // advanced a fake one.
  void Settle() { loop_->Settle(); }

 private:
  class Ear;  // hears one link

  Core(CoreOptions options, ModelText text, std::vector<std::unique_ptr<VerifierLink>> links,
       const Clock& clock, Observer& observer);
  void Publish();
  ModelFacts facts() const;
  absl::Status CheckMemory() const;
  absl::StatusOr<Submission> Prepare(GenerationRequest& request);
  absl::StatusOr<std::vector<Submission::Prompt>> EncodePrompts(const GenerationRequest& request,
                                                                const CheckedRequest& params,
                                                                const ModelFacts& model);
  absl::StatusOr<std::vector<int32_t>> EncodeMessages(const nlohmann::ordered_json& messages,
                                                      const std::map<std::string, bool>& flags,
                                                      const ModelFacts& model) const;
  std::string DetokenizeIds(const std::vector<int32_t>& ids) const;

  const CoreOptions options_;
  const ModelText text_;
  const Clock& clock_;
  Observer& observer_;

  QueueDoor door_;
  std::atomic<uint64_t> next_key_{1};
  std::atomic<int32_t> max_model_len_;
  std::atomic<bool> any_ready_{false};

  // Guarded by mu_, a std::mutex for the thread sanitizer's sake (event_loop.h).
  mutable std::mutex mu_;
  std::condition_variable changed_;
  int num_submitting_ = 0;  // posted, not yet with the batcher
  size_t num_requests_ = 0;
  std::string system_fingerprint_;

  // Destroyed from the bottom up, after the loop has stopped: links no longer call ears, then the batcher
  // goes.
  std::shared_ptr<EventLoop> loop_;
  std::unique_ptr<Batcher> batcher_;  // the loop's thread only
  std::vector<std::unique_ptr<Ear>> ears_;
  std::vector<std::unique_ptr<VerifierLink>> links_;
};

}  // namespace tandem::gateway
