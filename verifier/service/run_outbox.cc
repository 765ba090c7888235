#include "verifier/service/run_outbox.h"

#include <iterator>
#include <utility>

#include "verifier/service/run_messages.h"

namespace tandem::verifier {

RunOutbox::RunOutbox(v1::VerifierHello hello, Report first)
    : hello_(std::move(hello)), latest_(std::move(first)) {}

void RunOutbox::Put(Report report) {
  absl::MutexLock lock(&mu_);
  if (pending_) {
    MergeReport(*pending_, std::move(report));
  } else {
    pending_ = std::move(report);
  }
}

void RunOutbox::PutEnded(std::vector<SequenceReport> sequences) {
  absl::MutexLock lock(&mu_);
  std::move(sequences.begin(), sequences.end(), std::back_inserter(ended_));
}

void RunOutbox::PutDraining(absl::Duration drain) {
  absl::MutexLock lock(&mu_);
  draining_ = drain;
}

bool RunOutbox::PutHeartbeat(const Report& now) {
  absl::MutexLock lock(&mu_);
  heartbeat_ = std::exchange(number_at_heartbeat_, number_) == number_;
  if (!heartbeat_) return false;
  latest_.kv_free_blocks = now.kv_free_blocks;
  latest_.kv_cached_blocks = now.kv_cached_blocks;
  latest_.running_sequences = now.running_sequences;
  latest_.utilization = now.utilization;
  return true;
}

void RunOutbox::PutSocketAnswer(bool connected) {
  absl::MutexLock lock(&mu_);
  socket_answer_ = by_socket_ = connected;
}

bool RunOutbox::Take(v1::RunResponse& out) {
  absl::MutexLock lock(&mu_);
  if (hello_) {
    *out.mutable_hello() = *std::move(hello_);
    hello_.reset();
    return true;
  }
  if (draining_) {
    out.mutable_draining()->set_drain_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(*draining_)));
    draining_.reset();
    return true;
  }
  if (socket_answer_) {
    out.mutable_socket()->set_connected(*socket_answer_);
    socket_answer_.reset();
    return true;
  }
  return !by_socket_ && TakeReportLocked(*out.mutable_report());
}

bool RunOutbox::TakeReport(v1::Report& out) {
  absl::MutexLock lock(&mu_);
  return by_socket_ && TakeReportLocked(out);
}

bool RunOutbox::TakeReportLocked(v1::Report& out) {
  if (!pending_ && ended_.empty() && !heartbeat_) return false;
  heartbeat_ = false;
  Report report = pending_ ? *std::exchange(pending_, std::nullopt) : latest_;
  std::move(ended_.begin(), ended_.end(), std::back_inserter(report.sequences));
  ended_.clear();
  out.Clear();
  FillReport(report, ++number_, out);
  report.sequences.clear();
  latest_ = std::move(report);
  return true;
}

}  // namespace tandem::verifier
