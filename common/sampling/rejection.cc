#include "common/sampling/rejection.h"

#include <algorithm>

#include "common/base/status.h"
#include "common/sampling/philox.h"
#include "common/sampling/sampler.h"

namespace tandem::sampling {
namespace {

constexpr double kTiny = 1e-8;

uint32_t TagOf(NoiseStream stream, uint32_t round) { return static_cast<uint32_t>(stream) + 4 * round; }

}  // namespace

bool AcceptsDraft(float u, float p, float q) {
  const double ratio = static_cast<double>(p) / std::max(static_cast<double>(q), kTiny);
  return static_cast<double>(u) < std::min(1.0, ratio);
}

RejectionStep VerifyDraft(int32_t draft, std::span<const float> p, std::span<const float> q, uint64_t seed,
                          uint64_t index, uint32_t round) {
  TANDEM_CHECK(draft >= 0 && static_cast<size_t>(draft) < p.size() && p.size() == q.size());
  const float u = Uniform(seed, index, TagOf(NoiseStream::kAcceptance, round), 0);
  if (AcceptsDraft(u, p[draft], q[draft])) return {true, draft};
  const std::vector<float> law = ResidualDistribution(p, q);
  return {false, ArgmaxWithNoise(law, seed, index, TagOf(NoiseStream::kResidual, round))};
}

int32_t DrawBonus(std::span<const float> p, uint64_t seed, uint64_t index, uint32_t round) {
  return ArgmaxWithNoise(p, seed, index, TagOf(NoiseStream::kResidual, round));
}

RejectionResult VerifyByRejection(std::span<const int32_t> drafts, std::span<const float> p,
                                  std::span<const float> q, int vocab_size, uint64_t seed, uint64_t start,
                                  uint32_t round) {
  TANDEM_CHECK(vocab_size > 0);
  const auto vocab = static_cast<size_t>(vocab_size);
  TANDEM_CHECK(p.size() == (drafts.size() + 1) * vocab && q.size() == drafts.size() * vocab);
  for (size_t i = 0; i < drafts.size(); ++i) {
    const RejectionStep step = VerifyDraft(drafts[i], p.subspan(i * vocab, vocab),
                                           q.subspan(i * vocab, vocab), seed, start + i + 1, round);
    if (!step.accepted) return {static_cast<int>(i), step.token};
  }
  const auto bonus = p.subspan(drafts.size() * vocab, vocab);
  return {static_cast<int>(drafts.size()), DrawBonus(bonus, seed, start + drafts.size() + 1, round)};
}

std::vector<float> ResidualDistribution(std::span<const float> p, std::span<const float> q) {
  TANDEM_CHECK(p.size() == q.size());
  std::vector<double> excess(p.size());
  double mass = 0;
  for (size_t v = 0; v < p.size(); ++v) {
    excess[v] = std::max(static_cast<double>(p[v]) - static_cast<double>(q[v]), 0.0);
    mass += excess[v];
  }
  if (mass <= kTiny) return {p.begin(), p.end()};
  std::vector<float> law(p.size());
  for (size_t v = 0; v < p.size(); ++v) law[v] = static_cast<float>(excess[v] / mass);
  return law;
}

}  // namespace tandem::sampling
