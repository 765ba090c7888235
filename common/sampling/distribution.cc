// The sampler written plainly, in f64 with a full sort: what SampleCoupled is tested against.
#include <algorithm>
#include <limits>

#include "common/base/status.h"
#include "common/sampling/exact_math.h"
#include "common/sampling/processed_row.h"
#include "common/sampling/row_scan.h"
#include "common/sampling/sampler.h"

namespace tandem::sampling {
namespace {

// How many of the sorted `weights` (descending, their sum `total`) top-p keeps.
size_t NucleusSize(std::span<const double> weights, double total, double top_p) {
  double before = weights[0];
  size_t kept = 1;
  while (kept < weights.size() && before < top_p * total) before += weights[kept++];
  return kept;
}

double Sum(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum;
}

}  // namespace

absl::StatusOr<std::vector<float>> ProcessedDistribution(std::span<const float> logits,
                                                         const Position& position) {
  const SamplingParams& params = *position.params;
  std::vector<float> buffer;
  ASSIGN_OR_RETURN(const ProcessedRow row, ProcessRow(logits, position, buffer));  // steps 1 to 4
  std::vector<float> probs(logits.size(), 0.0f);
  if (params.greedy()) {
    probs[static_cast<size_t>(row.argmax)] = 1.0f;
    return probs;
  }
  std::vector<Candidate> sorted;
  for (size_t v = 0; v < row.logits.size(); ++v) sorted.emplace_back(row.logits[v], static_cast<int32_t>(v));
  std::sort(sorted.begin(), sorted.end(), Before);
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < sorted.size()) {
    sorted.resize(static_cast<size_t>(params.top_k));
  }
  std::vector<double> weights;
  for (const Candidate& c : sorted) {
    const double below = static_cast<double>(c.first) - static_cast<double>(row.max);
    weights.push_back(ExactExp(below / static_cast<double>(params.temperature)));
  }
  if (params.top_p < 1.0f) {
    weights.resize(NucleusSize(weights, Sum(weights), static_cast<double>(params.top_p)));
  }
  if (params.min_p > 0.0f) {
    while (weights.back() < static_cast<double>(params.min_p) * weights.front()) weights.pop_back();
  }
  const double total = Sum(weights);
  for (size_t i = 0; i < weights.size(); ++i) {
    probs[static_cast<size_t>(sorted[i].second)] = static_cast<float>(weights[i] / total);
  }
  return probs;
}

int32_t ArgmaxWithNoise(std::span<const Candidate> probs, uint64_t seed, uint64_t index, uint32_t tag) {
  Candidate best = {-std::numeric_limits<float>::infinity(), -1};
  for (const auto& [p, id] : probs) {
    if (!(p > 0)) continue;
    const float log_p = static_cast<float>(ExactLog(static_cast<double>(p)));
    const Candidate scored = {log_p + Gumbel(seed, index, tag, static_cast<uint32_t>(id)), id};
    if (Before(scored, best)) best = scored;
  }
  TANDEM_CHECK(best.second >= 0);  // a distribution has a token with p > 0
  return best.second;
}

int32_t ArgmaxWithNoise(std::span<const float> probs, uint64_t seed, uint64_t index, uint32_t tag) {
  std::vector<Candidate> possible;
  for (size_t v = 0; v < probs.size(); ++v) {
    if (probs[v] > 0) possible.emplace_back(probs[v], static_cast<int32_t>(v));
  }
  return ArgmaxWithNoise(std::span<const Candidate>(possible), seed, index, tag);
}

}  // namespace tandem::sampling
