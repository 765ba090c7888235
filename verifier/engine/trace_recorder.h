// Writes a decision trace while the verifier serves: `--trace FILE`.
//
// A thread formats and writes; the step loop only swaps a record into a queue of fixed size, without a lock
// and without waiting. Direct writes would not do: a step of 64 sequences is some thousand numbers, a tenth
// of a millisecond to format, and a disk may stall for seconds. What the thread cannot keep up with is
// dropped and counted; a write error ends the trace, is told once, and costs nothing but the trace.
//
// OnDecision is called by one thread at a time; everything else is thread-safe.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "verifier/engine/decision_record.h"
#include "verifier/scheduling/decision_trace.h"

namespace tandem::verifier {

class TraceRecorder final : public DecisionObserver {
 public:
  // Steps that may wait for the thread.
  static constexpr size_t kQueueSteps = 512;

  // The header is written at once. `on_error` is called on the recorder's thread, once at most. An error of
  // TraceWriter::Create if the file cannot be made.
  static absl::StatusOr<std::unique_ptr<TraceRecorder>> Start(
      const std::string& path, const TraceHeader& header, std::function<void(const absl::Status&)> on_error,
      int64_t max_bytes = TraceWriter::kDefaultMaxBytes);
  // Writes what waits.
  ~TraceRecorder() override;

  void OnDecision(StepDecision& step) override;

  // Steps so far. A written one may still be in a buffer.
  int64_t num_written() const { return num_written_.load(); }
  int64_t num_dropped() const { return num_dropped_.load(); }  // queue full, or behind an error

 private:
  // The thread is woken when so many steps wait, and looks by itself after a second: waking a thread costs
  // the waker some microseconds.
  static constexpr uint64_t kWakeSteps = kQueueSteps / 4;

  TraceRecorder(std::unique_ptr<TraceWriter> writer, std::function<void(const absl::Status&)> on_error);
  void Run();
  void WriteQueued();
  void Check(const absl::Status& status);

  const std::unique_ptr<TraceWriter> writer_;  // the recorder's thread only
  const std::function<void(const absl::Status&)> on_error_;
  bool failed_ = false;  // the recorder's thread only
  // A ring: [num_taken_, num_put_) wait, each slot is the other side's otherwise.
  std::vector<StepDecision> queue_;
  std::atomic<uint64_t> num_put_{0}, num_taken_{0};
  std::atomic<int64_t> num_written_{0}, num_dropped_{0};
  std::mutex mu_;
  std::condition_variable wake_;
  bool stop_ = false;  // guarded by mu_
  std::thread thread_;
};

}  // namespace tandem::verifier
