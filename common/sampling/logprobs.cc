#include <algorithm>
#include <cstddef>

#include "common/base/status.h"
#include "common/sampling/exact_math.h"
#include "common/sampling/row_scan.h"
#include "common/sampling/sampler.h"

namespace tandem::sampling {

TokenLogprobs ComputeLogprobs(std::span<const float> logits, int32_t chosen, int num_top) {
  TANDEM_CHECK(chosen >= 0 && static_cast<size_t>(chosen) < logits.size());
  const double max = static_cast<double>(FindMax(logits).value);
  double sum = 0;
  for (const float z : logits) sum += ExactExp(static_cast<double>(z) - max);
  const double log_sum = ExactLog(sum);
  const auto log_prob = [&](float z) { return static_cast<float>(static_cast<double>(z) - max - log_sum); };

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
