#include "drafter/models/token_drawer.h"

#include <algorithm>
#include <cmath>

#include "common/base/status.h"
#include "common/sampling/exact_math.h"
#include "common/sampling/filters.h"
#include "common/sampling/philox.h"
#include "common/sampling/row_scan.h"

namespace tandem::drafter {
namespace {

using sampling::Candidate;
using speculation::AcceptanceMode;
using speculation::TokenProbability;

constexpr float kGreedyTemperature = 1e-5f;

// Leaves (logit, index) of what the request's filters let through in scratch.candidates; false without
// filters.
bool Filter(const DraftRequest& request, const DraftLogits& logits, const sampling::RowMax& max,
            DrawScratch& scratch) {
  const speculation::DraftSampling& s = request.sampling;
  const sampling::SamplingParams params = {
      .temperature = s.temperature, .top_k = s.top_k, .top_p = s.top_p, .min_p = s.min_p};
  if (!sampling::HasFilters(params, logits.values.size())) return false;
  sampling::FilterRow({logits.values, max.value, max.id}, params, scratch.sampling.weights,
                      scratch.candidates);
  return true;
}

int32_t DrawCoupled(const DraftRequest& request, uint64_t index, const DraftLogits& logits,
                    const sampling::RowMax& max, DrawScratch& scratch) {
  const float temperature = request.sampling.temperature;
  const uint64_t seed = request.sampling.seed;
  const bool filtered = Filter(request, logits, max, scratch);
  if (!filtered && logits.ids.empty()) {
    const sampling::SamplingParams params = {.temperature = temperature, .seed = seed};
    const auto choice =
        sampling::SampleCoupled(logits.values, {&params, nullptr, {}, index}, scratch.sampling);
    TANDEM_CHECK(choice.ok());  // the row has been checked
    return *choice;
  }
  if (!filtered) {  // what lies further below than the noise reaches cannot win
    sampling::CollectAtLeast(logits.values, max.value - temperature * sampling::kGumbelRange,
                             scratch.candidates);
  }
  for (Candidate& c : scratch.candidates) c.second = logits.id(c.second);
  return sampling::ChooseCoupled(scratch.candidates, temperature, seed, index);
}

// Leaves (probability, id) of the top m in scratch.candidates, ascending in id.
void TopProbabilities(const DraftRequest& request, const DraftLogits& logits, int32_t m,
                      const sampling::RowMax& max, DrawScratch& scratch) {
  std::vector<Candidate>& top = scratch.candidates;
  const float temperature = request.sampling.temperature;
  if (!Filter(request, logits, max, scratch)) {
    sampling::CollectLargest(logits.values, m, top);
  } else if (top.size() > static_cast<size_t>(m)) {
    std::nth_element(top.begin(), top.begin() + m, top.end(), sampling::Before);
    top.resize(static_cast<size_t>(m));
  }
  for (Candidate& c : top) c.second = logits.id(c.second);
  std::sort(top.begin(), top.end(),
            [](const Candidate& a, const Candidate& b) { return a.second < b.second; });
  const auto weight = [&](float z) {
    return sampling::ExactExp((double{z} - double{max.value}) / double{temperature});
  };
  double total = 0;
  for (const Candidate& c : top) total += weight(c.first);
  for (Candidate& c : top) c.first = static_cast<float>(weight(c.first) / total);
  std::erase_if(top, [](const Candidate& c) { return !(c.first > 0); });
}

int32_t DrawForRejection(const DraftRequest& request, uint64_t index, const DraftLogits& logits,
                         int32_t top_m, const sampling::RowMax& max, DrawScratch& scratch,
                         std::vector<TokenProbability>* distribution) {
  TopProbabilities(request, logits, top_m, max, scratch);
  if (distribution != nullptr) {
    distribution->clear();
    for (const auto& [p, id] : scratch.candidates) distribution->push_back({id, p});
  }
  // Drawn from the very numbers that are reported.
  return sampling::ArgmaxWithNoise(scratch.candidates, request.sampling.seed, index,
                                   DrafterNoiseTag(request.epoch, request.round));
}

}  // namespace

uint32_t DrafterNoiseTag(uint32_t epoch, uint32_t round) {
  constexpr uint32_t kEpochs = 1024, kRoundsPerEpoch = 1u << 20;
  return static_cast<uint32_t>(sampling::NoiseStream::kDrafter) +
         4 * (epoch % kEpochs * kRoundsPerEpoch + round);
}

NoiseDrawer::NoiseDrawer(const DrawMode& mode) : mode_(mode) {
  TANDEM_CHECK(mode.acceptance == AcceptanceMode::kCoupled || mode.top_m >= 1);
}

int32_t NoiseDrawer::Draw(const DraftRequest& request, int32_t k, const DraftLogits& logits,
                          DrawScratch& scratch, std::vector<TokenProbability>* distribution) const {
  const uint64_t index = static_cast<uint64_t>(request.start) + k;
  const sampling::RowMax max = sampling::FindMax(logits.values);
  const bool certain =
      max.has_nan || !std::isfinite(max.value) || !(request.sampling.temperature >= kGreedyTemperature);
  if (certain) {
    const int32_t choice = logits.id(max.has_nan || !std::isfinite(max.value) ? 0 : max.id);
    if (distribution != nullptr) distribution->assign({{choice, 1.0f}});
    return choice;
  }
  if (mode_.acceptance == AcceptanceMode::kRejection) {
    return DrawForRejection(request, index, logits, mode_.top_m, max, scratch, distribution);
  }
  return DrawCoupled(request, index, logits, max, scratch);
}

}  // namespace tandem::drafter
