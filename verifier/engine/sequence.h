// One sequence in KV memory: its tokens, how far their KV is computed, and where it lies.
//
// Three ordered lengths, checked after every change:
//
//   kv_len < confirmed_len <= max_len
//
// Positions [0, kv_len) have KV in the blocks; [kv_len, confirmed_len) are known tokens without it, the last
// of which is the anchor; the token to be sampled has index confirmed_len. Drafts are computed behind the
// anchor in the same step; those rejected leave KV behind kv_len, which is overwritten before anything reads
// it.
//
// Plain data of the step loop's thread; Engine changes it through the functions below.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/kernels/kv_cache.h"
#include "common/sampling/sampler.h"
#include "verifier/engine/draft_progress.h"
#include "verifier/engine/messages.h"
#include "verifier/engine/prefix_cache.h"

namespace tandem::verifier {

// kPrefill: more than the anchor lacks KV.   -> kDecoding when a chunk (or a prefix hit) has reached the
// anchor kDecoding: only the anchor lacks KV.       -> kDecoding with each step kEnded: blocks returned,
// final report made. From both; final. Re-admission makes a new sequence.
enum class SequenceState { kPrefill, kDecoding, kEnded };

class Sequence {
 public:
  // `admission` has been checked. max_len = prompt_length + max_tokens.
  Sequence(StreamId stream, uint64_t admission_number, Admission&& admission);

  StreamId stream() const { return stream_; }
  uint64_t id() const { return admission_.id; }
  uint32_t epoch() const { return admission_.epoch; }
  // Grows with every admission of the engine: larger = newer.
  uint64_t admission_number() const { return admission_number_; }
  const Admission& request() const { return admission_; }

  SequenceState state() const { return state_; }
  std::span<const int32_t> tokens() const { return admission_.tokens; }
  int32_t anchor() const { return admission_.tokens.back(); }
  int32_t kv_len() const { return kv_len_; }
  int32_t confirmed_len() const { return static_cast<int32_t>(admission_.tokens.size()); }
  int32_t max_len() const { return max_len_; }
  int32_t missing() const { return confirmed_len() - kv_len_; }  // positions without KV, >= 1
  int32_t output_len() const { return confirmed_len() - admission_.prompt_length; }
  // Drafts beyond the last token that it may have are not worth computing: a window of k yields up to k + 1.
  int32_t most_drafts() const { return max_len_ - confirmed_len() - 1; }

  // Whether it gives way before `other` when blocks run short: lower priority, then newer admission.
  bool YieldsTo(const Sequence& other) const;

  // KV of `rows` more known positions is computed.
  void AdvanceKv(int32_t rows);
  // The sampled token, whose predecessor's KV is computed or will be with AdvanceKv.
  void Confirm(int32_t token);
  // kStop or kLength if the sequence ends with the tokens it has, else kRunning.
  SequenceEnd EndOfTokens() const;
  void End();

  // Masked at filter step 4 when the token of this index is sampled: stop ids while min_tokens holds.
  std::span<const int32_t> MaskedAt(int32_t index) const;

  std::vector<int32_t> blocks;    // block i holds positions 16 i .. 16 i + 15
  int32_t num_shared_blocks = 0;  // leading blocks that the prefix cache knows
  PrefixEntry prefix;             // entry of the last of those
  PendingDrafts drafts;
  DraftProgress progress;  // with its drafter
  PaceStart pace_start;
  // Over the confirmed tokens; kept only with penalties.
  sampling::TokenCounts history;

  // What the next report says; `changed` = there is something to say.
  SequenceReport report;
  bool changed = true;

 private:
  void CheckInvariant() const;

  const StreamId stream_;
  const uint64_t admission_number_;
  Admission admission_;
  const int32_t max_len_;
  SequenceState state_ = SequenceState::kPrefill;
  int32_t kv_len_ = 0;
};

// What can be said about an admission without looking at the pool: ranges of run.proto, ids < vocab_size,
// sizes that fit max_model_len. kInvalidArgument naming the field, its limit and the value.
absl::Status ValidateAdmission(const Admission& admission, int32_t vocab_size, int32_t max_model_len);

}  // namespace tandem::verifier
