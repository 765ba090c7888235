// Which rows a step computes: an anchor for each decoding sequence, drafts behind it, chunks of prompts.
//
// A pure function of a snapshot (sizes only, no tokens, no blocks). The step has room for max_rows rows, of
// which max_logits_rows with logits; taken in this order:
//   1. anchors, one for each decoding sequence; if they do not all fit, in turn by admission number, so that
//      each is served again after at most ceil(decoding / room) steps;
//   2. drafts, position by position over all sequences; while prompts wait they leave half of the room to
//      those;
//   3. prefill: the room left is divided fairly between streams (each at most its budget), within a stream in
//      admission order, at most prefill_chunk rows a sequence.
// A chunk that reaches the anchor needs a logits row; without one it stops one row short.
//
// Not thread-safe: work areas are reused, so that a steady step does not allocate.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::verifier {

struct StepLimits {
  int32_t max_rows = 0;
  int32_t max_logits_rows = 0;
  int32_t prefill_chunk = 0;
};

// In admission order.
struct SequenceWish {
  uint64_t admission_number = 0;
  size_t stream = 0;       // index into the budgets
  int32_t missing = 0;     // positions without KV, the anchor included: 1 = decoding
  int32_t num_drafts = 0;  // usable ones; of a decoding sequence only
};

struct SequenceRowsPlan {
  int32_t rows = 0;    // known positions, from the first without KV
  int32_t drafts = 0;  // behind the anchor
};

class StepPlanner {
 public:
  // prefill_budgets[s]: prefill rows that stream s may use in this step; 0 = no limit of its own. The result
  // has one entry for each wish and is valid until the next call.
  std::span<const SequenceRowsPlan> Plan(const StepLimits& limits, std::span<const SequenceWish> wishes,
                                         std::span<const int64_t> prefill_budgets);

 private:
  struct Room {
    int64_t rows = 0, logits_rows = 0;
  };

  void PlaceAnchors(std::span<const SequenceWish> wishes, Room& room);
  void PlaceDrafts(std::span<const SequenceWish> wishes, Room& room);
  void PlacePrefill(const StepLimits& limits, std::span<const SequenceWish> wishes, Room& room);
  int64_t CountPrefillDemand(const StepLimits& limits, std::span<const SequenceWish> wishes,
                             std::span<const int64_t> prefill_budgets);

  std::vector<SequenceRowsPlan> plan_;
  std::vector<int64_t> demands_, grants_;  // prefill rows by stream
  uint64_t last_served_ = 0;               // admission number of the last anchor placed in turn
  size_t first_stream_ = 0;                // takes what does not divide evenly
};

}  // namespace tandem::verifier
