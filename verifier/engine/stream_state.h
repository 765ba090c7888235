// What the engine knows of one Run stream: its plan, its sequences by id, and what it has yet to report.
//
// Plain data of the step loop's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "verifier/engine/messages.h"
#include "verifier/engine/sequence.h"

namespace tandem::verifier {

// The latest epoch of an id. Kept after the end until its final length is acknowledged, so that a repeated
// admission does not run again.
struct SequenceRecord {
  uint32_t epoch = 0;
  Sequence* live = nullptr;  // null = ended
  int32_t final_length = 0;
};

struct StreamState {
  // Ended records kept at most, should a peer never acknowledge; the oldest go first.
  static constexpr size_t kMaxEndedRecords = 4096;

  uint64_t plan_number = 0;
  int32_t prefill_token_budget = 0;
  int32_t waiting_sequences = 0;
  int64_t waiting_tokens = 0;

  absl::flat_hash_map<uint64_t, SequenceRecord> records;
  std::deque<uint64_t> ended_ids;  // in the order of their ends; some are forgotten or running again
  int32_t running = 0;

  std::vector<SequenceReport> finals;  // of ended sequences, not yet reported
  bool report_due = true;              // a new stream learns its shares at once
  absl::Duration reported_at = absl::ZeroDuration();
  int64_t reported_share = 0;
  int32_t reported_available_blocks = 0;

  void RecordEnd(uint64_t id, uint32_t epoch, int32_t final_length) {
    records[id] = {epoch, nullptr, final_length};
    ended_ids.push_back(id);
    while (ended_ids.size() > kMaxEndedRecords) {
      const auto oldest = records.find(ended_ids.front());
      if (oldest != records.end() && oldest->second.live == nullptr) records.erase(oldest);
      ended_ids.pop_front();
    }
  }
};

}  // namespace tandem::verifier
