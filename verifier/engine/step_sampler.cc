#include "verifier/engine/step_sampler.h"

#include <algorithm>

#include "common/base/status.h"

namespace tandem::verifier {

StepSampler::StepSampler(ThreadPool& pool, int32_t vocab_size, int32_t max_rows)
    : pool_(pool), vocab_size_(vocab_size), results_(max_rows), scratch_(pool.num_threads()) {
  jobs_.reserve(max_rows);
}

void StepSampler::Sample(std::span<const float> logits, std::span<const SampleWindow> windows) {
  jobs_.clear();
  for (const SampleWindow& window : windows) {
    const int32_t rows = 1 + static_cast<int32_t>(window.drafts.size());
    TANDEM_CHECK(static_cast<size_t>(window.first_row) + rows <= results_.size());
    const Admission& request = window.sequence->request();
    const bool in_order = request.sampling.has_penalties() || request.num_logprobs.has_value();
    for (int32_t begin = 0; begin < rows; begin += in_order ? rows : 1) {
      jobs_.push_back({&window, begin, in_order ? rows : begin + 1});
    }
  }
  next_job_.store(0, std::memory_order_relaxed);
  const int num_workers = static_cast<int>(std::min(scratch_.size(), jobs_.size()));
  pool_.ForEachTile(num_workers, [&](int worker) {
    for (size_t i = next_job_.fetch_add(1, std::memory_order_relaxed); i < jobs_.size();
         i = next_job_.fetch_add(1, std::memory_order_relaxed)) {
      RunJob(logits, jobs_[i], scratch_[worker]);
    }
  });
}

void StepSampler::RunJob(std::span<const float> logits, const Job& job, sampling::Scratch& scratch) {
  Sequence& sequence = *job.window->sequence;
  const Admission& request = sequence.request();
  const bool penalties = request.sampling.has_penalties();
  for (int32_t offset = job.begin; offset < job.end; ++offset) {
    const size_t row = job.window->first_row + offset;
    const int32_t index = sequence.confirmed_len() + offset;
    const auto row_logits = logits.subspan(row * vocab_size_, vocab_size_);
    const sampling::Position position{&request.sampling, penalties ? &sequence.history : nullptr,
                                      sequence.MaskedAt(index), static_cast<uint64_t>(index)};
    SampledToken& result = results_[row];
    result.logprobs.reset();
    const absl::StatusOr<int32_t> token = sampling::SampleCoupled(row_logits, position, scratch);
    result.status = token.status();
    if (!token.ok()) return;
    result.token = *token;
    if (request.num_logprobs) {
      result.logprobs = sampling::ComputeLogprobs(row_logits, *token, *request.num_logprobs);
    }
    if (penalties) sequence.history.AddOutput(*token);
    if (static_cast<size_t>(offset) < job.window->drafts.size() && job.window->drafts[offset] != *token)
      return;
  }
}

}  // namespace tandem::verifier
