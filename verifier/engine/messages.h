// What gateways tell the engine and what it tells them: run.proto's messages as plain values (proto types
// stop at the handlers). Ranges and meanings are run.proto's; the handler has checked them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/sampling/sampler.h"

namespace tandem::verifier {

// One Run stream for as long as it is open; the engine keys sequences by (stream, id). Never reused.
using StreamId = uint64_t;

struct Admission {
  uint64_t id = 0;
  uint32_t epoch = 1;
  std::vector<int32_t> tokens;  // prompt, then the output so far
  int32_t prompt_length = 0;
  sampling::SamplingParams sampling;
  int32_t min_tokens = 0;
  int32_t max_tokens = 1;
  std::vector<int32_t> stop_token_ids;
  std::optional<int32_t> num_logprobs;
  int32_t priority = 0;
  double tpot_target_ms = 0;  // 0: none
  absl::Time deadline = absl::InfiniteFuture();
  std::string cache_owner;
  std::string request_id;
};

struct Cancellation {
  uint64_t id = 0;
  uint32_t epoch = 0;
};

struct Acknowledgement {
  uint64_t id = 0;
  uint32_t epoch = 0;
  int32_t length = 0;
};

struct Plan {
  uint64_t number = 0;
  std::vector<Admission> admissions;
  std::vector<Cancellation> cancellations;
  std::vector<Acknowledgement> acknowledgements;
  int32_t prefill_token_budget = 0;  // 0 = the whole share
  int32_t waiting_sequences = 0;
  int64_t waiting_tokens = 0;
};

enum class SequenceEnd { kRunning, kStop, kLength, kPreempted, kCancelled, kFailed };

struct SequenceReport {
  uint64_t id = 0;
  uint32_t epoch = 0;
  int32_t length = 0;
  int32_t first_index = 0;  // of new_tokens; == length - new_tokens.size()
  std::vector<int32_t> new_tokens;
  std::vector<sampling::TokenLogprobs> logprobs;  // one per new token, or empty
  std::string drafted_marks;                      // one byte per new token: 1 = an accepted draft
  int32_t computed_length = 0;
  int32_t cached_length = 0;
  int64_t drafted = 0, checked = 0, accepted = 0;
  std::vector<int64_t> rounds_by_accepted;  // steps with drafts checked; empty until the first
  SequenceEnd end = SequenceEnd::kRunning;
  absl::Status error;  // with kFailed
};

struct Report {
  uint64_t plan_number = 0;
  std::vector<SequenceReport> sequences;
  int32_t kv_free_blocks = 0;
  int32_t kv_cached_blocks = 0;
  int32_t running_sequences = 0;
  double utilization = 0;
  int32_t sequence_share = 0;
  int32_t prefill_token_share = 0;
};

// Adds `next` to a report that has not been sent yet: tokens of a sequence are joined, everything else is
// replaced.
void MergeReport(Report& pending, Report&& next);

}  // namespace tandem::verifier
