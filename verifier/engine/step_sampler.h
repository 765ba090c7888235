// Samples the tokens of a step, and decides on the drafts: all logits rows at once, on all threads of the
// pool.
//
// Coupled acceptance: a draft stands iff it is the target's own token. A row's token is a function of (seed,
// index, logits, history). Rows of a window without penalties and log-probabilities are independent and go to
// different threads; with them the rows of a window are taken one after the other by one thread, each with
// the history that the tokens before it make, and the first that differs from its draft is the last.
//
// Rejection: a draft stands with the chance min(1, p/q), rows of a window in order (sampling/rejection.h).
// Synthetic, for benchmarks: a draft stands with a given chance, whatever the target says.
//
// Scratch is kept per worker, so its size follows the threads, not the rows. One caller at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "common/base/thread_pool.h"
#include "common/sampling/sampler.h"
#include "verifier/engine/sequence.h"

namespace tandem::verifier {

// Logits rows [first_row, first_row + 1 + drafts.size()) belong to the positions behind the anchor and each
// draft. The sequence's history is extended by every token sampled with it.
struct SampleWindow {
  Sequence* sequence = nullptr;
  int32_t first_row = 0;
  std::span<const int32_t> drafts;
  // Rejection: what each draft was drawn from, and the tag of the noise (round of the sequence).
  std::span<const std::vector<speculation::TokenProbability>> distributions = {};
  uint32_t round = 0;
};

struct AcceptanceRule {
  speculation::AcceptanceMode mode = speculation::AcceptanceMode::kCoupled;
  std::vector<double> synthetic;  // chance by position; empty = off
};

struct SampledToken {
  absl::Status status;  // not OK: no token, because the logits hold NaN or nothing is possible
  int32_t token = -1;
  bool accepted = false;  // it is the draft of its position
  std::optional<sampling::TokenLogprobs> logprobs;
};

class StepSampler {
 public:
  StepSampler(ThreadPool& pool, int32_t vocab_size, int32_t max_rows, AcceptanceRule rule);

  // logits [rows, vocab_size]. results()[row] is valid up to the first row of each window that is not
  // its draft or failed, until the next call.
  void Sample(std::span<const float> logits, std::span<const SampleWindow> windows);
  std::span<SampledToken> results() { return results_; }

 private:
  // Offsets [begin, end) within a window.
  struct Job {
    const SampleWindow* window = nullptr;
    int32_t begin = 0, end = 0;
  };

  void RunJob(std::span<const float> logits, const Job& job, sampling::Scratch& scratch);
  bool InOrder(const SampleWindow& window) const;
  // The token of one row, and whether it is its draft.
  void Decide(std::span<const float> row_logits, const sampling::Position& position,
              const SampleWindow& window, int32_t offset, sampling::Scratch& scratch,
              SampledToken& result) const;
  void DecideByRejection(std::span<const float> row_logits, const sampling::Position& position,
                         const SampleWindow& window, int32_t offset, SampledToken& result) const;

  ThreadPool& pool_;
  const int32_t vocab_size_;
  const AcceptanceRule rule_;
  std::vector<SampledToken> results_;  // by logits row
  std::vector<Job> jobs_;
  std::vector<sampling::Scratch> scratch_;  // by worker
  std::atomic<size_t> next_job_{0};
};

}  // namespace tandem::verifier
