// The verifier's state and its step, on one thread: sequences, KV blocks, prefix cache, sampling, preemption.
//
//   ASSIGN_OR_RETURN(auto engine, Engine::Create(options, model, pool, clock));
//   engine->OpenStream(1);
//   engine->ApplyPlan(1, plan);
//   while (engine->HasWork()) Deliver(engine->Step());
//
// A step takes, for each sequence, its next positions without KV: one (the anchor, the last confirmed token)
// plus drafts for a decoding sequence, a chunk for one in prefill. Rows that reach the last confirmed token,
// and those of drafts, get logits; the token sampled there depends on (seed, index, logits, history) alone,
// so a draft is accepted iff it equals the sampled token, and what is drafted, batched, preempted or cached
// never changes the text.
//
// Not thread-safe: one thread calls everything (StepLoop). Borrows model, pool and clock.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/thread_pool.h"
#include "common/models/model.h"
#include "verifier/engine/decision_record.h"
#include "verifier/engine/messages.h"
#include "verifier/engine/speculator.h"

namespace tandem::verifier {

struct EngineOptions {
  int64_t kv_bytes = 0;       // memory of the KV pool; 0 = a quarter of what the system has available at
                              // start, at most what max_sequences of full context need
  int max_sequences = 64;     // in KV memory at once
  int max_step_tokens = 512;  // rows of one step, anchors, drafts and prefill together
  int prefill_chunk = 256;    // prefill rows of one sequence and step
  bool prefix_cache = true;
  int max_draft_tokens = 7;  // drafts checked per sequence and step at most
  SpeculationOptions speculation;
  // Where the measured step times are kept between starts (step_time_cache.h); empty = measured at each
  // start, which takes at most about a second.
  std::string step_time_cache_path;
};

// What happened in one step, for metrics; durations by phase.
struct StepStats {
  int anchors = 0, draft_tokens = 0, prefill_tokens = 0, sequences = 0;
  int kv_context_tokens = 0;                               // KV tokens read
  absl::Duration plan, forward, sample, project, deliver;  // project: rows for the drafter
  double predicted_seconds = 0;  // forward and sample, by the step-time model, before the step
  double prediction_error = 0;   // |predicted - real| / real
  // Of decoding sequences: how many drafts were checked, 0 included; of those with drafts: tokens that the
  // round gave, the target's own included.
  std::vector<int> windows, accepted_lengths;
  std::vector<double> draft_waits;  // seconds from request to arrival, of drafts taken since the last step
};

// Monotonic totals and present sizes, for metrics; free + cached + in use = total whenever no step runs.
struct EngineStats {
  int64_t preemptions = 0;         // of running sequences
  int64_t refused_admissions = 0;  // ended kPreempted because they could not be placed yet
  int64_t prompt_tokens = 0,
          cached_prompt_tokens = 0;  // of placed admissions; of these from the prefix cache
  int64_t generated_tokens = 0;
  int64_t stale_messages = 0;  // entries of an unknown or older (id, epoch), drafts for another state
  int64_t drafted = 0, checked = 0, accepted = 0;
  int32_t running_sequences = 0;
  int32_t blocks_total = 0, blocks_free = 0, blocks_cached = 0;
  double utilization = 0, utilization_tokens = 0, utilization_kv = 0;
  SpeculationStats speculation;
  struct DrafterStatus {
    bool up = false;
    DraftBreaker::State breaker = DraftBreaker::State::kClosed;
    double interference = 1;                 // DraftTimeModel::Interference
    std::vector<double> calibration_errors;  // by position
  };
  std::vector<DrafterStatus> drafters;
};

class Engine {
 public:
  // kResourceExhausted with the sizes if the pool cannot hold one sequence of a few blocks.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options, models::Model& model,
                                                        ThreadPool& pool, const Clock& clock);
  virtual ~Engine() = default;

  // Constant after Create; the options with what was 0 filled in, and sizes cut to the model's.
  virtual int32_t kv_total_blocks() const = 0;
  virtual const EngineOptions& options() const = 0;
  // Prompt and output together: min(model's context, what the pool can hold beside one window of drafts).
  virtual int32_t max_model_len() const = 0;
  // As learnt up to now.
  virtual const StepTimeParameters& step_time() const = 0;
  // Before the first step; null: none. Borrowed until the engine ends.
  virtual void ObserveDecisions(DecisionObserver* observer) = 0;

  virtual void OpenStream(StreamId stream) = 0;
  // Frees the stream's sequences at once; nothing is reported to it any more.
  virtual void CloseStream(StreamId stream) = 0;
  // Admissions that cannot be placed now end kPreempted at their own length, those that never can kFailed.
  // Repeated admissions of the same (id, epoch) and entries of older epochs are no-ops.
  virtual void ApplyPlan(StreamId stream, Plan&& plan) = 0;

  // Admissions are placed in order; the first that must wait makes the later ones of the plan wait too, so
  // that a long prompt is not overtaken for ever. A stream above its share of sequences waits as well.

  // Drafts for the positions after `length` confirmed tokens, the last of which is `anchor`; dropped unless
  // exactly that is the sequence's state at its next step. At most max_draft_tokens are used.
  virtual void ProposeDrafts(StreamId stream, uint64_t id, uint32_t epoch, int32_t length, int32_t anchor,
                             std::span<const int32_t> drafts) = 0;

  // Streams to drafters, by index < SpeculationOptions::num_drafters. The link is borrowed until
  // CloseDrafter. kFailedPrecondition if the drafter does not fit this model or the other drafters.
  virtual absl::Status OpenDrafter(int drafter, DrafterStream stream) = 0;
  virtual void CloseDrafter(int drafter) = 0;
  // `arrived`: on the engine's clock.
  virtual void TakeDrafts(int drafter, speculation::DraftBatch&& batch, absl::Duration arrived) = 0;
  virtual void OnDrafterProtocolError(int drafter) = 0;

  // Whether Step has anything to compute or to report. Sequences that wait for drafts are no work.
  virtual bool HasWork() const = 0;
  // When HasWork may become true by itself (a wait for drafts ends): time on the engine's clock.
  virtual absl::Duration NextChange() const = 0;
  // One pass. Returns a report for each stream with something new.
  virtual std::vector<std::pair<StreamId, Report>> Step() = 0;

  virtual const StepStats& last_step() const = 0;
  virtual EngineStats stats() const = 0;
};

}  // namespace tandem::verifier
