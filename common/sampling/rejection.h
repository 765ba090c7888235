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
