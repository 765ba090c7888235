// What is said behind a step: to the gateways whose sequences it served, and of the engine as a whole.
#include <algorithm>
#include <cmath>

#include "verifier/engine/fair_shares.h"
#include "verifier/engine/step_engine.h"

namespace tandem::verifier {

std::vector<std::pair<StreamId, Report>> StepEngine::CollectReports() {
  for (const auto& sequence : running_) {
    if (sequence->changed) streams_.at(sequence->stream()).report_due = true;
  }
  std::vector<std::pair<StreamId, Report>> reports;
  const absl::Duration now = clock_.Now();
  for (auto& [id, stream] : streams_) {
    const int32_t available = cache_.available();
    const bool due = stream.report_due || !stream.finals.empty() || now - stream.reported_at >= kHeartbeat ||
                     (shares_changed_ && SequenceShare(id) != stream.reported_share) ||
                     std::abs(available - stream.reported_available_blocks) > blocks_.total() / 8;
    if (due) reports.emplace_back(id, MakeReport(id, stream));
  }
  shares_changed_ = false;
  return reports;
}

Report StepEngine::MakeReport(StreamId id, StreamState& stream) {
  Report report;
  report.plan_number = stream.plan_number;
  report.sequences = std::move(stream.finals);
  stream.finals.clear();
  for (const auto& sequence : running_) {
    if (sequence->stream() != id || !sequence->changed) continue;
    SequenceReport& news = sequence->report;
    news.computed_length = sequence->kv_len();
    const std::vector<int64_t> rounds = news.rounds_by_accepted;
    report.sequences.push_back(std::move(news));
    news.new_tokens.clear();
    news.logprobs.clear();
    news.drafted_marks.clear();
    news.rounds_by_accepted = rounds;
    news.first_index = news.length;
    sequence->changed = false;
  }
  report.kv_free_blocks = blocks_.free();
  report.kv_cached_blocks = blocks_.cached();
  report.running_sequences = totals_.running_sequences;
  report.utilization = utilization_.ratio();
  const int64_t share = SequenceShare(id);
  report.sequence_share = static_cast<int32_t>(share);
  report.prefill_token_share = static_cast<int32_t>(PrefillShare(id));
  stream.report_due = false;
  stream.reported_at = clock_.Now();
  stream.reported_share = share;
  stream.reported_available_blocks = cache_.available();
  return report;
}

// Of the rows that the last step's anchors left.
int64_t StepEngine::PrefillShare(StreamId stream) const {
  std::vector<int64_t> demands;
  size_t self = 0;
  for (const auto& [id, state] : streams_) {
    if (id == stream) self = demands.size();
    demands.push_back(std::max<int64_t>(state.waiting_tokens, 0));
    for (const auto& sequence : running_) {
      if (sequence->stream() == id && sequence->missing() > 1) demands.back() += sequence->missing();
    }
  }
  return ShareOf(self, std::max(limits_.max_rows - step_.anchors, 1), demands);
}

EngineStats StepEngine::stats() const {
  EngineStats stats = totals_;
  stats.blocks_total = blocks_.total();
  stats.blocks_free = blocks_.free();
  stats.blocks_cached = blocks_.cached();
  stats.utilization = utilization_.ratio();
  stats.utilization_tokens = utilization_.tokens_ratio();
  stats.utilization_kv = utilization_.kv_ratio();
  if (speculator_ == nullptr) return stats;
  stats.speculation = speculator_->stats();
  for (const auto& drafter : speculator_->drafters()) {
    EngineStats::DrafterStatus& status = stats.drafters.emplace_back();
    status.up = drafter->connected();
    status.breaker = drafter->breaker.state(clock_.Now());
    status.interference = drafter->time.Interference();
    if (drafter->calibration == nullptr) continue;
    // The drafter's blocks may be shorter than what we would check.
    const int positions = std::min<int>(options_.max_draft_tokens, drafter->calibration->block_size());
    for (int i = 0; i < positions; ++i) {
      status.calibration_errors.push_back(drafter->calibration->ExpectedCalibrationError(i));
    }
  }
  return stats;
}

}  // namespace tandem::verifier
