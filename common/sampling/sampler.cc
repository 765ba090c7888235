#include "common/sampling/sampler.h"

#include <algorithm>
#include <array>
#include <limits>

#include "common/base/status.h"
#include "common/sampling/filters.h"
#include "common/sampling/philox_batch.h"
#include "common/sampling/processed_row.h"
#include "common/sampling/row_scan.h"

namespace tandem::sampling {
namespace {

// Upper bounds of g by the top 12 bits of the word: nearly every token is ruled out by its bound, without a
// logarithm.
class GumbelBounds {
 public:
  static constexpr int kShift = 20;

  GumbelBounds() {
    for (uint32_t i = 0; i < bounds_.size(); ++i) {
      // g grows with the word; the margin is far above the error of the logarithms.
      bounds_[i] = GumbelOfUniform(UniformOfWord((i << kShift) | ((1u << kShift) - 1))) + 1e-5f;
    }
  }
  float operator()(uint32_t word) const { return bounds_[word >> kShift]; }

 private:
  std::array<float, 1u << (32 - kShift)> bounds_;
};

const GumbelBounds& Bounds() {
  static const GumbelBounds bounds;
  return bounds;
}

// The best (score, id) so far: larger score first, equal ones by id.
struct Best {
  float score = -std::numeric_limits<float>::infinity();
  int32_t id = -1;

  void Offer(float new_score, int32_t new_id) {
    if (new_score > score || (new_score == score && new_id < id)) *this = {new_score, new_id};
  }
};

// argmax_v ((z_v - max)/T + g_v) over the whole row.
//
// Exact although it skips: rounding is monotone, so a block whose largest logit, or a token whose bound of g,
// stays below the best score cannot hold the winner.
int32_t ChooseFromRow(const ProcessedRow& row, float temperature, uint64_t seed, uint64_t index) {
  constexpr auto kTag = static_cast<uint32_t>(NoiseStream::kCoupled);
  const GumbelBounds& bounds = Bounds();
  Best best;
  best.Offer(0.0f + Gumbel(seed, index, kTag, static_cast<uint32_t>(row.argmax)), row.argmax);

  alignas(64) uint32_t words[kPhiloxBatch];
  for (size_t begin = 0; begin < row.logits.size(); begin += kPhiloxBatch) {
    const auto block = row.logits.subspan(begin, std::min(kPhiloxBatch, row.logits.size() - begin));
    const float block_best = (BlockMax(block) - row.max) / temperature;
    if (block_best + kGumbelMax < best.score) continue;
    const uint32_t max_word = PhiloxWords(seed, index, kTag, static_cast<uint32_t>(begin), words);
    if (block_best + bounds(max_word) < best.score) continue;

    for (size_t j = 0; j < block.size(); ++j) {
      const float scaled = (block[j] - row.max) / temperature;
      if (scaled + bounds(words[j]) < best.score) continue;
      best.Offer(scaled + GumbelOfUniform(UniformOfWord(words[j])), static_cast<int32_t>(begin + j));
    }
  }
  return best.id;
}

// The same over a few candidates (z, id).
int32_t ChooseFromCandidates(std::span<const Candidate> candidates, float max, float temperature,
                             uint64_t seed, uint64_t index) {
  constexpr auto kTag = static_cast<uint32_t>(NoiseStream::kCoupled);
  Best best;
  for (const auto& [z, id] : candidates) {
    const float scaled = (z - max) / temperature;
    if (scaled + kGumbelMax < best.score) continue;
    best.Offer(scaled + Gumbel(seed, index, kTag, static_cast<uint32_t>(id)), id);
  }
  return best.id;
}

}  // namespace

int32_t ChooseCoupled(std::span<const Candidate> candidates, float temperature, uint64_t seed,
                      uint64_t index) {
  float max = -std::numeric_limits<float>::infinity();
  for (const Candidate& c : candidates) max = c.first > max ? c.first : max;
  const int32_t choice = ChooseFromCandidates(candidates, max, temperature, seed, index);
  TANDEM_CHECK(choice >= 0);
  return choice;
}

absl::StatusOr<int32_t> SampleCoupled(std::span<const float> logits, const Position& position,
                                      Scratch& scratch) {
  const SamplingParams& params = *position.params;
  ASSIGN_OR_RETURN(const ProcessedRow row, ProcessRow(logits, position, scratch.logits));
  if (params.greedy()) return row.argmax;
  if (!HasFilters(params, row.logits.size())) {
    return ChooseFromRow(row, params.temperature, params.seed, position.index);
  }
  FilterRow(row, params, scratch.weights, scratch.candidates);
  return ChooseFromCandidates(scratch.candidates, row.max, params.temperature, params.seed, position.index);
}

}  // namespace tandem::sampling
