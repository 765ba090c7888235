#include "verifier/engine/trace_recorder.h"

#include <chrono>
#include <utility>

#include "common/base/status.h"

namespace tandem::verifier {

absl::StatusOr<std::unique_ptr<TraceRecorder>> TraceRecorder::Start(
    const std::string& path, const TraceHeader& header, std::function<void(const absl::Status&)> on_error,
    int64_t max_bytes) {
  ASSIGN_OR_RETURN(auto writer, TraceWriter::Create(path, header, max_bytes));
  return std::unique_ptr<TraceRecorder>(new TraceRecorder(std::move(writer), std::move(on_error)));
}

TraceRecorder::TraceRecorder(std::unique_ptr<TraceWriter> writer,
                             std::function<void(const absl::Status&)> on_error)
    : writer_(std::move(writer)), on_error_(std::move(on_error)), queue_(kQueueSteps) {
  thread_ = std::thread([this] { Run(); });
}

TraceRecorder::~TraceRecorder() {
  {
    const std::lock_guard lock(mu_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void TraceRecorder::OnDecision(StepDecision& step) {
  const uint64_t put = num_put_.load(std::memory_order_relaxed);
  const uint64_t waiting = put - num_taken_.load(std::memory_order_acquire);
  if (waiting == kQueueSteps) {
    ++num_dropped_;
    return;
  }
  std::swap(queue_[put % kQueueSteps], step);
  num_put_.store(put + 1, std::memory_order_release);
  // Without the lock a wake may fall between the thread's look and its sleep; the next step repeats it.
  if (waiting + 1 >= kWakeSteps) wake_.notify_one();
}

void TraceRecorder::Run() {
  std::unique_lock lock(mu_);
  while (!stop_) {
    wake_.wait_for(lock, std::chrono::seconds(1),
                   [&] { return stop_ || num_put_.load() - num_taken_.load() >= kWakeSteps; });
    lock.unlock();
    WriteQueued();
    lock.lock();
  }
  lock.unlock();
  WriteQueued();  // what came before the stop
  Check(writer_->Close());
}

void TraceRecorder::WriteQueued() {
  uint64_t taken = num_taken_.load(std::memory_order_relaxed);
  for (; taken != num_put_.load(std::memory_order_acquire); ++taken) {
    const absl::Status status = writer_->Write(queue_[taken % kQueueSteps]);
    ++(status.ok() ? num_written_ : num_dropped_);
    Check(status);
    num_taken_.store(taken + 1, std::memory_order_release);
  }
}

void TraceRecorder::Check(const absl::Status& status) {
  if (status.ok() || std::exchange(failed_, true)) return;
  on_error_(status);
}

}  // namespace tandem::verifier
