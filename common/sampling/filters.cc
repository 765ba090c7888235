#include "common/sampling/filters.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <limits>

#include "common/sampling/exact_math.h"

namespace tandem::sampling {
namespace {

bool HasTopK(const SamplingParams& params, size_t vocab_size) {
  return params.top_k > 0 && static_cast<size_t>(params.top_k) < vocab_size;
}
bool HasTopP(const SamplingParams& params) { return params.top_p < 1.0f; }
bool HasMinP(const SamplingParams& params) { return params.min_p > 0.0f; }

// A logit relative to the row's maximum, at temperature T, as a probability with the largest one at 1.
struct Scale {
  float max;
  float temperature;

  float Weight(float z) const { return ExactExpF((z - max) / temperature); }
};

// A weight in [0, 1] as a whole number of 2^-42, rounded to nearest. Adding 2^52 leaves that integer in the
// mantissa.
uint64_t Mass(float weight) {
  const double shifted = static_cast<double>(weight) * 0x1p42 + 0x1p52;
  return std::bit_cast<uint64_t>(shifted) & ((uint64_t{1} << 52) - 1);
}

template <typename WeightOf>
uint64_t MassOf(std::span<const Candidate> candidates, const WeightOf& weight_of) {
  uint64_t sum = 0;
  for (const Candidate& c : candidates) sum += Mass(weight_of(c));
  return sum;
}

// Leaves the candidates before which the mass is below `target`, but at least the first; all lie before those
// that were left out. Halves the part that holds the boundary until it is one candidate.
template <typename WeightOf>
void KeepNucleus(std::vector<Candidate>& candidates, const WeightOf& weight_of, double target) {
  size_t begin = 0, end = candidates.size();  // the boundary lies in [begin, end)
  uint64_t before = 0;                        // mass of [0, begin)
  while (end - begin > 1) {
    const size_t middle = begin + (end - begin) / 2;
    std::nth_element(candidates.begin() + static_cast<ptrdiff_t>(begin),
                     candidates.begin() + static_cast<ptrdiff_t>(middle),
                     candidates.begin() + static_cast<ptrdiff_t>(end), Before);
    const uint64_t mass = MassOf(std::span(candidates).subspan(begin, middle - begin), weight_of);
    if (static_cast<double>(before + mass) < target) {  // so `middle` stays
      before += mass;
      begin = middle;
    } else {
      end = middle;
    }
  }
  candidates.resize(end);
}

// Sum of the masses of a whole row; weights = their values.
uint64_t WeighRow(const ProcessedRow& row, const Scale& scale, std::vector<float>& weights) {
  weights.resize(row.logits.size());
  // On pointers: the bounds checks of spans and vectors keep the loop from being vectorised.
  const float* z = row.logits.data();
  float* weight = weights.data();
  for (size_t v = 0, end = weights.size(); v < end; ++v) weight[v] = scale.Weight(z[v]);
  uint64_t total = 0;
  for (const float w : weights) total += Mass(w);
  return total;
}

// A superset of the nucleus, as (weight, id): what is at least as heavy as some bound. It holds the nucleus
// once it has the mass `target`, since a lighter token then has that much before it.
void CollectHeaviest(std::span<const float> weights, uint64_t total, double target,
                     std::vector<Candidate>& candidates) {
  // All tokens lighter than `lowest` together have no more mass than top-p leaves out, so it always suffices.
  // (A mass is at most twice the exact one, by rounding 1/2 to 1; hence not a half but a quarter, to cover
  // this line's own roundings too.)
  const double left_out = static_cast<double>(total) - target;
  const float lowest = static_cast<float>(0.25 * 0x1p-42 * left_out / static_cast<double>(weights.size()));
  // Most rows have their nucleus among a few heavy tokens, found sooner with a high bound.
  for (float bound = 0x1p-6f; bound > lowest; bound *= 0x1p-5f) {
    // The order is that of the logits. Weights of close logits may come out in the other order by a rounding,
    // so those just below the bound come along, but don't count.
    CollectAtLeast(weights, bound * (1 - 0x1p-16f), candidates);
    uint64_t mass = 0;
    for (const Candidate& c : candidates) mass += c.first >= bound ? Mass(c.first) : 0;
    if (static_cast<double>(mass) >= target) return;
  }
  CollectAtLeast(weights, lowest, candidates);
}

void KeepTopP(const ProcessedRow& row, const SamplingParams& params, const Scale& scale, bool after_top_k,
              std::vector<float>& weights, std::vector<Candidate>& candidates) {
  if (after_top_k) {
    const auto weight_of = [&](const Candidate& c) { return scale.Weight(c.first); };
    const double total = static_cast<double>(MassOf(candidates, weight_of));
    KeepNucleus(candidates, weight_of, static_cast<double>(params.top_p) * total);
    return;
  }
  const uint64_t total = WeighRow(row, scale, weights);
  const double target = static_cast<double>(params.top_p) * static_cast<double>(total);
  CollectHeaviest(weights, total, target, candidates);
  for (Candidate& c : candidates) c.first = row.logits[static_cast<size_t>(c.second)];
  KeepNucleus(
      candidates, [&](const Candidate& c) { return weights[static_cast<size_t>(c.second)]; }, target);
}

// min-p alone: all tokens that may be heavy enough; the margin covers every rounding, the exact test follows.
void CollectMinP(const ProcessedRow& row, const SamplingParams& params, std::vector<Candidate>& candidates) {
  const double log_bound = ExactLog(std::max(static_cast<double>(params.min_p), 0x1p-126)) - 1e-3;
  const double bound = static_cast<double>(row.max) + static_cast<double>(params.temperature) * log_bound;
  const double lowest = std::numeric_limits<float>::lowest();
  const float z = static_cast<float>(std::max(bound, lowest));
  CollectAtLeast(row.logits, std::min(z, row.max), candidates);
}

}  // namespace

bool HasFilters(const SamplingParams& params, size_t vocab_size) {
  return HasTopK(params, vocab_size) || HasTopP(params) || HasMinP(params);
}

void FilterRow(const ProcessedRow& row, const SamplingParams& params, std::vector<float>& weights,
               std::vector<Candidate>& survivors) {
  const Scale scale = {row.max, params.temperature};
  const bool top_k = HasTopK(params, row.logits.size());
  if (top_k) CollectLargest(row.logits, params.top_k, survivors);
  if (HasTopP(params)) {
    KeepTopP(row, params, scale, top_k, weights, survivors);
  } else if (!top_k) {
    CollectMinP(row, params, survivors);
  }
  if (HasMinP(params)) {
    const auto too_light = [&](const Candidate& c) {
      return c.first < row.max && scale.Weight(c.first) < params.min_p;
    };
    std::erase_if(survivors, too_light);
  }
}

}  // namespace tandem::sampling
