// The classical acceptance rule of speculative sampling (Leviathan et al., 2023), on processed distributions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::sampling {

struct RejectionResult {
  int accepted = 0;        // leading drafts that stand
  int32_t next_token = 0;  // from the residual after a rejection, else from the last row of p
};

// u < min(1, p / max(q, 1e-8)) with p and q of the drafted token, in f64.
bool AcceptsDraft(float u, float p, float q);

// The rule at one position, for windows whose later rows depend on the tokens before them. p, q [V]:
// processed distribution of the target, and the one the draft was drawn from; index: that of the token;
// round: as below.
struct RejectionStep {
  bool accepted = false;
  int32_t token = 0;  // the draft, or what takes its place
};
RejectionStep VerifyDraft(int32_t draft, std::span<const float> p, std::span<const float> q, uint64_t seed,
                          uint64_t index, uint32_t round);
// The token behind a wholly accepted (or empty) window.
int32_t DrawBonus(std::span<const float> p, uint64_t seed, uint64_t index, uint32_t round);

// drafts x_1..x_l, p [l+1][V], q [l][V] row-major; position k has absolute index start + k. Draft k is
// accepted iff u < min(1, p(x)/max(q(x), 1e-8)) with the acceptance stream's uniform; noise tags are stream +
// 4 * round (mod 2^32). Sizes and draft ids must fit (the caller has checked what a drafter sent); k counts
// from 1.
RejectionResult VerifyByRejection(std::span<const int32_t> drafts, std::span<const float> p,
                                  std::span<const float> q, int vocab_size, uint64_t seed, uint64_t start,
                                  uint32_t round);

// max(p - q, 0) normalised, or p itself if that mass is <= 1e-8.
std::vector<float> ResidualDistribution(std::span<const float> p, std::span<const float> q);

}  // namespace tandem::sampling
