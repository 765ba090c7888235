#include "verifier/engine/step_sampler.h"

#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "common/sampling/philox.h"
#include "common/sampling/rejection.h"

namespace tandem::verifier {

StepSampler::StepSampler(ThreadPool& pool, int32_t vocab_size, int32_t max_rows, AcceptanceRule rule)
    : pool_(pool),
      vocab_size_(vocab_size),
      rule_(std::move(rule)),
      results_(max_rows),
      scratch_(pool.num_threads()) {
  jobs_.reserve(max_rows);
}

void StepSampler::Sample(std::span<const float> logits, std::span<const SampleWindow> windows) {
  jobs_.clear();
  for (const SampleWindow& window : windows) {
    const int32_t rows = 1 + static_cast<int32_t>(window.drafts.size());
    TANDEM_CHECK(static_cast<size_t>(window.first_row) + rows <= results_.size());
    const bool in_order = InOrder(window);
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

// Whether a row depends on the tokens before it, or costs so much that none should be computed in vain.
bool StepSampler::InOrder(const SampleWindow& window) const {
  const Admission& request = window.sequence->request();
  return rule_.mode == speculation::AcceptanceMode::kRejection || request.sampling.has_penalties() ||
         request.num_logprobs.has_value();
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
    Decide(row_logits, position, *job.window, offset, scratch, result);
    if (!result.status.ok()) return;
    if (request.num_logprobs) {
      result.logprobs = sampling::ComputeLogprobs(row_logits, result.token, *request.num_logprobs);
    }
    if (penalties) sequence.history.AddOutput(result.token);
    if (!result.accepted) return;
  }
}

void StepSampler::Decide(std::span<const float> row_logits, const sampling::Position& position,
                         const SampleWindow& window, int32_t offset, sampling::Scratch& scratch,
                         SampledToken& result) const {
  if (rule_.mode == speculation::AcceptanceMode::kRejection) {
    return DecideByRejection(row_logits, position, window, offset, result);
  }
  const absl::StatusOr<int32_t> token = sampling::SampleCoupled(row_logits, position, scratch);
  result.status = token.status();
  if (!token.ok()) return;
  const bool has_draft = static_cast<size_t>(offset) < window.drafts.size();
  result.token = *token;
  result.accepted = has_draft && window.drafts[offset] == *token;
  if (rule_.synthetic.empty() || !has_draft) return;
  const double chance = static_cast<size_t>(offset) < rule_.synthetic.size() ? rule_.synthetic[offset] : 0;
  const auto tag = static_cast<uint32_t>(sampling::NoiseStream::kAcceptance);
  result.accepted = sampling::Uniform(position.params->seed, position.index, tag, 0) < chance;
  if (result.accepted) result.token = window.drafts[offset];
}

void StepSampler::DecideByRejection(std::span<const float> row_logits, const sampling::Position& position,
                                    const SampleWindow& window, int32_t offset, SampledToken& result) const {
  const absl::StatusOr<std::vector<float>> p = sampling::ProcessedDistribution(row_logits, position);
  result.status = p.status();
  if (!p.ok()) return;
  const uint64_t seed = position.params->seed;
  if (static_cast<size_t>(offset) >= window.drafts.size()) {
    result.token = sampling::DrawBonus(*p, seed, position.index, window.round);
    result.accepted = false;
    return;
  }
  std::vector<float> q(vocab_size_, 0.0f);
  for (const speculation::TokenProbability& pair : window.distributions[offset])
    q[pair.token] = pair.probability;
  const sampling::RejectionStep step =
      sampling::VerifyDraft(window.drafts[offset], *p, q, seed, position.index, window.round);
  result.token = step.token;
  result.accepted = step.accepted;
}

}  // namespace tandem::verifier
