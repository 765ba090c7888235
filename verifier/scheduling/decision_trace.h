// A record of every step's decision on drafts, for `--trace FILE` and `tandem replay`: what the policy saw,
// what it chose and what came of it. No token and no text is in it.
//
// JSON lines. The first is the header:
//
//   tandem_trace       1, the version of this format
//   policy             as --window-policy takes it ("prefix")
//   acceptance         "coupled" or "rejection" (rejection: no look ahead)
//   block_size         drafts per round at most, 1..64
//   numerics_id        of the verifier
//   step_time          the step time model's parameters when the trace began (step_time_json.h)
//
// then a line a step:
//
//   anchors            decoding sequences in the step, drafted or not
//   kv_positions       KV positions that the step reads without drafts
//   prefill_tokens     prompt tokens in the step
//   max_draft_rows     room for drafts
//   draft_seconds      s D(R') as the policy was told
//   utilization        verifier_utilization_ratio as the policy was told
//   predicted_seconds  of the step with the chosen windows, without draft_seconds
//   real_seconds       from this step's start to the next one's
//   sequences          those that were drafted or have drafts at hand:
//     order              its order among sequences
//     drafted            drafts were asked for in this round (they may be late: survivals is empty)
//     probe              to learn from, whether it pays or not
//     survivals          calibrated chances that drafts 1..j are all accepted, as many as are at hand
//     confidences        uncalibrated, by draft, one a survival; none if the drafter gives none
//     window             drafts checked
//     accepted           of them
//
// Every field is required and no other is allowed. Latency targets of sequences are not in it: a replay
// leaves them out.
#pragma once

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/speculation/messages.h"
#include "verifier/scheduling/step_time_model.h"
#include "verifier/scheduling/window_policy.h"

namespace tandem::verifier {

struct TraceHeader {
  WindowPolicy policy;
  speculation::AcceptanceMode acceptance = speculation::AcceptanceMode::kCoupled;
  int block_size = 1;
  std::string numerics_id;
  StepTimeParameters step_time;
};

struct SequenceDecision {
  uint64_t order = 0;
  bool drafted = false, probe = false;
  std::vector<double> survivals = {}, confidences = {};
  int window = 0, accepted = 0;
};

struct StepDecision {
  int num_anchors = 0;
  int64_t num_kv_positions = 0;
  int num_prefill_tokens = 0, max_draft_rows = 0;
  double draft_seconds = 0, utilization = 0;
  double predicted_seconds = 0, real_seconds = 0;
  std::vector<SequenceDecision> sequences = {};

  StepShape Shape(int num_draft_rows) const {
    return {num_anchors + num_draft_rows, num_kv_positions, num_prefill_tokens};
  }
};

// Appends steps to a new file. Writes go through a buffer, now and then to disk: a trace costs the step loop
// time. Not thread-safe.
class TraceWriter {
 public:
  static constexpr int64_t kDefaultMaxBytes = int64_t{1} << 30;

  // Replaces what lies there. kUnavailable with path and reason.
  static absl::StatusOr<std::unique_ptr<TraceWriter>> Create(const std::string& path,
                                                             const TraceHeader& header,
                                                             int64_t max_bytes = kDefaultMaxBytes);
  // Closes the file if Close was not called.
  ~TraceWriter();

  // kResourceExhausted when the file would exceed max_bytes, kUnavailable if it cannot be written: the trace
  // ends there, whole steps only in the former case, and every later call says the same. Confidences that are
  // no numbers are written as 0.
  absl::Status Write(const StepDecision& step);
  // What is buffered goes out. The first error of the trace, if there was one.
  absl::Status Close();

 private:
  TraceWriter(std::string path, std::FILE* file, int64_t max_bytes)
      : path_(std::move(path)), file_(file), max_bytes_(max_bytes) {}
  absl::Status WriteLine();

  const std::string path_;
  std::FILE* file_;
  const int64_t max_bytes_;
  int64_t num_bytes_ = 0;
  absl::Status status_;
  std::string line_;  // work area
};

// Reads what TraceWriter writes, a step at a time. The file is not trusted: whatever is missing, unknown, out
// of range or inconsistent is kInvalidArgument naming file, line and field.
class TraceReader {
 public:
  static constexpr size_t kMaxLineBytes = 16 << 20;

  // kNotFound, kUnavailable, or what is wrong with the header.
  static absl::StatusOr<std::unique_ptr<TraceReader>> Open(const std::string& path);

  const TraceHeader& header() const { return header_; }
  // False at the end of the trace.
  absl::StatusOr<bool> Next(StepDecision& step);

 private:
  explicit TraceReader(const std::string& path) : path_(path), file_(path, std::ios::binary) {}
  absl::StatusOr<bool> ReadLine();
  absl::Status AtLine(const absl::Status& status) const;

  const std::string path_;
  std::ifstream file_;
  int64_t line_number_ = 0;
  std::string line_;
  TraceHeader header_;
};

}  // namespace tandem::verifier
