#include <algorithm>
#include <cstddef>

#include "common/base/status.h"
#include "common/sampling/exact_math.h"
#include "common/sampling/row_scan.h"
#include "common/sampling/sampler.h"

namespace tandem::sampling {
namespace {

// sum_v e^(z_v - max): terms in f32 (relative error 2^-22), added in f64 in kLanes partial sums by v mod
// kLanes.
double SumOfExp(std::span<const float> logits, float max) {
  constexpr size_t kLanes = 16;
  double lanes[kLanes] = {};
  size_t v = 0;
  for (; v + kLanes <= logits.size(); v += kLanes) {
    const float* z =
        &logits[v];  // a pointer: the bounds checks of a span keep the loop from being vectorised
    float terms[kLanes];
    for (size_t j = 0; j < kLanes; ++j) terms[j] = ExactExpF(z[j] - max);
    for (size_t j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(terms[j]);
  }
  for (; v < logits.size(); ++v) lanes[v % kLanes] += static_cast<double>(ExactExpF(logits[v] - max));
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

TokenLogprobs ComputeLogprobs(std::span<const float> logits, int32_t chosen, int num_top) {
  TANDEM_CHECK(chosen >= 0 && static_cast<size_t>(chosen) < logits.size());
  const float max = FindMax(logits).value;
  const double log_sum = ExactLog(SumOfExp(logits, max));
  const auto log_prob = [&](float z) {
    return static_cast<float>(static_cast<double>(z) - static_cast<double>(max) - log_sum);
  };

  TokenLogprobs result;
  result.chosen = log_prob(logits[static_cast<size_t>(chosen)]);
  if (num_top <= 0) return result;
  std::vector<Candidate> top;
  CollectLargest(logits, num_top, top);
  std::sort(top.begin(), top.end(), Before);
  for (const auto& [z, id] : top) result.top.emplace_back(id, log_prob(z));
  return result;
}

}  // namespace tandem::sampling
